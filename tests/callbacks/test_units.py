"""Dead units are counted along the dimension where the layer that made them has its channels or features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L
import pytest
import torch
from everything import data, trainer
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.callbacks.activation_statistics import ActivationStatistics

UNITS, DEAD = 8, 4


class Of(L.LightningModule):
    """A function of fixed inputs and of modules; half of the units of the first have a bias of -100, the others of 100."""

    def __init__(self, function: Callable[..., Tensor], shape: tuple[int, ...], *modules: nn.Module) -> None:
        super().__init__()
        self.function, self.layers = function, nn.ModuleList(modules)
        self.register_buffer("inputs", torch.randn(shape, generator=torch.Generator().manual_seed(0)))
        with torch.no_grad():
            modules[0].bias[:DEAD], modules[0].bias[DEAD:] = -100, 100

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.function(self.inputs, *self.layers).mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.0)


def dead_units(module: L.LightningModule) -> list[float]:
    """The dead fraction of every rectifier, in order."""
    records: list[dict[str, Any]] = []
    trainer(ActivationStatistics(write=records.append), max_steps=1).fit(module, data())
    return [layer["dead"] for layer in records[0]["layers"].values() if layer["dead"] is not None]


CONVOLUTIONS = {
    f"{cls.__name__}{'' if batch else ' without a batch'}": (cls(3, UNITS, 3, padding=1), (*batch, 3, *sizes))
    for batch in ((5,), ())
    for n, sizes in enumerate([(7,), (6, 7), (4, 6, 7)], 1)
    for cls in (getattr(nn, f"Conv{n}d"), getattr(nn, f"ConvTranspose{n}d"))
}
LAYERS = {
    **CONVOLUTIONS,
    "Linear": (nn.Linear(6, UNITS), (5, 6)),
    "Linear of a vector": (nn.Linear(6, UNITS), (6,)),
    "Linear of sequences": (nn.Linear(6, UNITS), (5, 4, 6)),
    "Linear of maps": (nn.Linear(6, UNITS), (5, 4, 7, 6)),
    "BatchNorm1d": (nn.BatchNorm1d(UNITS), (5, UNITS)),
    "BatchNorm1d of sequences": (nn.BatchNorm1d(UNITS), (5, UNITS, 7)),
    "BatchNorm2d": (nn.BatchNorm2d(UNITS), (5, UNITS, 4, 7)),
    "BatchNorm3d": (nn.BatchNorm3d(UNITS), (5, UNITS, 3, 4, 7)),
    "GroupNorm": (nn.GroupNorm(2, UNITS), (5, UNITS, 7)),
    "InstanceNorm1d": (nn.InstanceNorm1d(UNITS, affine=True), (UNITS, 7)),
    "LayerNorm": (nn.LayerNorm(UNITS), (5, 4, UNITS)),
}


@pytest.mark.parametrize(("layer", "shape"), LAYERS.values(), ids=LAYERS)
def test_units_are_where_their_layer_has_them(layer: nn.Module, shape: tuple[int, ...]) -> None:
    dead = dead_units(Of(lambda x, layer, relu: relu(F.relu(layer(x))), shape, layer, nn.ReLU()))
    assert dead == pytest.approx([DEAD / UNITS] * 2)


FUNCTIONS: dict[str, tuple[Callable[..., Tensor], tuple[int, ...]]] = {
    "pooled": (lambda x, conv, relu: relu(F.max_pool1d(conv(x), 2)), (5, 3, 8)),
    "of one sample and position": (lambda x, conv, relu: relu(conv(x)), (1, 3, 1)),
    "transposed": (lambda x, conv, relu: relu(conv(x).transpose(1, 2)), (5, 3, 7)),
    "permuted in memory": (lambda x, conv, relu: relu(conv(x).permute(2, 0, 1).contiguous()), (5, 3, 7)),
    "as sequences with a norm": (lambda x, conv, relu: relu(F.dropout(conv(x).transpose(1, 2) * 2, 0.0)), (5, 3, 7)),
    "added": (lambda x, conv, relu: conv(x).add(0 * conv(x).detach()).relu_(), (5, 3, 7)),
    "concatenated": (lambda x, conv, relu: torch.relu(torch.cat([conv(x), conv(2 * x)], 1)), (5, 3, 7)),
    "one step of it": (lambda x, conv, relu: relu(conv(x)[..., 0]), (5, 3, 7)),
    "its mean": (lambda x, conv, relu: relu(conv(x).mean(-1)), (5, 3, 7)),
}


@pytest.mark.parametrize(("function", "shape"), FUNCTIONS.values(), ids=FUNCTIONS)
def test_activations_take_the_units_of_what_they_are_given(function: Callable[..., Tensor], shape: tuple[int, ...]) -> None:
    assert dead_units(Of(function, shape, nn.Conv1d(3, UNITS, 3, padding=1), nn.ReLU())) == pytest.approx([DEAD / UNITS])


def test_scores_without_a_dimension_of_units_are_not_counted_by_sample() -> None:
    def scores(inputs: Tensor, layer: nn.Module, head: nn.Module) -> Tensor:
        return torch.relu(head(layer(inputs)).squeeze(1) - 1e3)

    assert dead_units(Of(scores, (5, 6), nn.Linear(6, UNITS), nn.Linear(UNITS, 1))) == []
