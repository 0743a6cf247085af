"""Recurrent networks over sequences of numbers: vanilla RNN, GRU and LSTM, on torch's fused cells."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from zoo.config.recipe import Recipe
from zoo.core.errors import UserError
from zoo.registry.entry import register_model
from zoo.spec import SequenceSpec
from zoo.tasks.sequence_memory import SequenceMemory

TINY = {"hidden_size": 8, "num_layers": 2}
RECIPE = {"epochs": 4, "batch_size": 32, "optimizer": "adam", "lr": 1e-2, "schedule": "cosine", "gradient_clip_val": 1.0}
VANILLA_RECIPE = {"epochs": 4, "batch_size": 32, "optimizer": "adam", "lr": 1e-3, "schedule": "cosine", "gradient_clip_val": 1.0}


class RecurrentNetwork(SequenceMemory):
    """Recurrent layers, and a linear one that makes the answer of what the uppermost gives: at each step, or at the last.

    Args:
        hidden_size: units of each recurrent layer.
        num_layers: recurrent layers, one upon the other.
    """

    cell: ClassVar[type[nn.RNNBase]]

    def __init__(self, spec: SequenceSpec, recipe: Recipe, hidden_size: int = 64, num_layers: int = 1) -> None:
        super().__init__(spec, recipe)
        if min(hidden_size, num_layers) < 1:
            raise UserError(f"model.hidden_size={hidden_size}, model.num_layers={num_layers}: both must be at least 1")
        self.recurrent = self.cell(spec.features, hidden_size, num_layers, batch_first=True)
        self.head = nn.Linear(hidden_size, len(spec.symbols) or 1)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs, _ = self.recurrent(inputs)
        return self.head(outputs) if self.spec.symbols else self.head(outputs[:, -1])[:, 0]

    def stages(self) -> dict[str, nn.Module]:
        return {"recurrent": self.recurrent, "head": self.head}


class GatedNetwork(RecurrentNetwork):
    """Recurrent layers with gates that say how much of a cell is kept from step to step.

    Cells start out keeping what they have for different times, up to ``horizon`` steps: the biases of the gates that keep are the
    logarithms of numbers drawn evenly from 1 to ``horizon``, and those of gates that write, if there are any, the opposite
    (Tallec and Ollivier 2018, "Can recurrent neural networks warp time?", section 2).

    Args:
        chrono_t_max: steps that the most lasting cells keep what they have at the start; 1 leaves the gates half open.
    """

    gates: ClassVar[int]  # whose weights lie on top of each other in torch's
    keeps: ClassVar[int]  # which of them
    writes: ClassVar[int | None]

    def __init__(
        self, spec: SequenceSpec, recipe: Recipe, hidden_size: int = 64, num_layers: int = 1, chrono_t_max: int = 100
    ) -> None:
        super().__init__(spec, recipe, hidden_size, num_layers)
        if chrono_t_max < 1:
            raise UserError(f"model.chrono_t_max={chrono_t_max}: must be at least 1")
        for layer in range(num_layers):
            # torch adds two biases, of which one is enough
            drawn, other = (getattr(self.recurrent, f"bias_{of}_l{layer}").detach().chunk(self.gates) for of in ("ih", "hh"))
            bias = torch.empty(hidden_size).uniform_(1, chrono_t_max).log()
            drawn[self.keeps].copy_(bias)
            other[self.keeps].zero_()
            if self.writes is not None:
                drawn[self.writes].copy_(-bias)
                other[self.writes].zero_()


@register_model("rnn", task="sequence-memory", tags=["recurrent"], data="adding-problem", tiny=TINY, recipe=VANILLA_RECIPE)
class RNN(RecurrentNetwork):
    """Vanilla recurrent network over numbers (Elman 1990)."""

    cell = nn.RNN


@register_model("gru", task="sequence-memory", tags=["recurrent"], data="adding-problem", tiny=TINY, recipe=RECIPE,
                paper="1406.1078")  # fmt: skip
class GRU(GatedNetwork):
    """Gated recurrent units over numbers (Cho et al. 2014)."""

    cell = nn.GRU
    gates, keeps, writes = 3, 1, None  # it writes what it does not keep


@register_model("lstm", task="sequence-memory", tags=["recurrent"], data="adding-problem", tiny=TINY, recipe=RECIPE)
class LSTM(GatedNetwork):
    """Long short-term memory over numbers (Hochreiter and Schmidhuber 1997)."""

    cell = nn.LSTM
    gates, keeps, writes = 4, 1, 0
