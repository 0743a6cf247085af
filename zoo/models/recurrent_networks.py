"""Recurrent networks over sequences of numbers: vanilla RNN, GRU and LSTM, on torch's fused cells."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from zoo.errors import UserError
from zoo.recipe import Recipe
from zoo.registry import register_model
from zoo.spec import SequenceSpec
from zoo.tasks.sequence_memory import SequenceMemory

TINY = {"hidden": 8, "layers": 2}
RECIPE = {"epochs": 10, "batch_size": 64, "optimizer": "adam", "lr": 1e-2, "schedule": "cosine", "clip": 1.0}
VANILLA_RECIPE = {"epochs": 10, "batch_size": 64, "optimizer": "adam", "lr": 1e-3, "schedule": "cosine", "clip": 1.0}


class RecurrentNetwork(SequenceMemory):
    """Recurrent layers, and a linear one that makes the answer of what the uppermost gives: at each step, or at the last.

    Args:
        hidden: units of each recurrent layer.
        layers: recurrent layers, one upon the other.
    """

    cell: ClassVar[type[nn.RNNBase]]

    def __init__(self, spec: SequenceSpec, recipe: Recipe, hidden: int = 64, layers: int = 1) -> None:
        super().__init__(spec, recipe)
        if min(hidden, layers) < 1:
            raise UserError(f"model.hidden={hidden}, model.layers={layers}: both must be at least 1")
        self.recurrent = self.cell(spec.features, hidden, layers, batch_first=True)
        self.head = nn.Linear(hidden, len(spec.symbols) or 1)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs, _ = self.recurrent(inputs)
        return self.head(outputs) if self.spec.symbols else self.head(outputs[:, -1])[:, 0]

    def stages(self) -> dict[str, nn.Module]:
        return {"recurrent": self.recurrent, "head": self.head}


@register_model("rnn", task="sequence-memory", tags=["recurrent"], data="adding-problem", tiny=TINY, recipe=VANILLA_RECIPE)
class RNN(RecurrentNetwork):
    """Vanilla recurrent network over numbers (Elman 1990)."""

    cell = nn.RNN


@register_model("gru", task="sequence-memory", tags=["recurrent"], data="adding-problem", tiny=TINY, recipe=RECIPE,
                paper="1406.1078")  # fmt: skip
class GRU(RecurrentNetwork):
    """Gated recurrent units over numbers (Cho et al. 2014)."""

    cell = nn.GRU


@register_model("lstm", task="sequence-memory", tags=["recurrent"], data="adding-problem", tiny=TINY, recipe=RECIPE)
class LSTM(RecurrentNetwork):
    """Long short-term memory over numbers (Hochreiter and Schmidhuber 1997).

    Args:
        forget_bias: of the forget gates at the start: the larger, the longer a cell keeps what it has (Gers et al. 2000).
    """

    cell = nn.LSTM

    def __init__(self, spec: SequenceSpec, recipe: Recipe, hidden: int = 64, layers: int = 1, forget_bias: float = 3.0) -> None:
        super().__init__(spec, recipe, hidden, layers)
        with torch.no_grad():
            for layer in range(layers):
                # torch adds two biases, each of them for the gates i, f, g and o
                getattr(self.recurrent, f"bias_ih_l{layer}").chunk(4)[1].fill_(forget_bias)
                getattr(self.recurrent, f"bias_hh_l{layer}").chunk(4)[1].zero_()
