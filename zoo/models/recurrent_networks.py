"""Recurrent networks for sequences of vectors: vanilla RNN, GRU and LSTM."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zoo.config.options import require_positive
from zoo.config.recipe import Recipe
from zoo.registry.entry import register_model
from zoo.spec import SequenceSpec
from zoo.tasks.sequence_memory import SequenceMemory

COMMON = {"tags": ["recurrent"], "data": "adding-problem", "tiny": {"hidden_size": 8, "num_layers": 2}}
RECIPE = {"epochs": 4, "batch_size": 32, "optimizer": "adam", "lr": 1e-2, "schedule": "cosine", "gradient_clip_val": 1.0}


class RecurrentNetwork(SequenceMemory):
    """Recurrent layers of torch, and a linear head: on every step for symbols, on the last for a number.

    Args:
        hidden_size: dimensions of the hidden state.
        num_layers: stacked recurrent layers.
    """

    cell: ClassVar[type[nn.RNNBase]]

    def __init__(self, spec: SequenceSpec, recipe: Recipe | None = None, hidden_size: int = 64, num_layers: int = 1) -> None:
        super().__init__(spec, recipe)
        require_positive(hidden_size=hidden_size, num_layers=num_layers)
        self.recurrent = self.cell(spec.features, hidden_size, num_layers, batch_first=True)
        self.head = nn.Linear(hidden_size, len(spec.symbols) or 1)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs, _ = self.recurrent(inputs)
        return self.head(outputs) if self.spec.symbols else self.head(outputs[:, -1])[:, 0]

    def stages(self) -> dict[str, nn.Module]:
        return {"recurrent": self.recurrent, "head": self.head}


class GatedNetwork(RecurrentNetwork):
    """Gated recurrent network with chrono initialization (Tallec and Ollivier 2018, "Can recurrent neural networks warp time?").

    Biases of forget gates are log(uniform(1, T_max)), for memory of up to T_max steps, and those of input gates, where there are
    any, the opposite (section 2).

    Args:
        chrono_t_max: T_max in steps; 1 sets these biases to zero.
    """

    gates: ClassVar[int]  # stacked in the weights of torch
    forget: ClassVar[int]  # index of the forget gate; the update gate of a GRU
    input: ClassVar[int | None]

    def __init__(self, spec: SequenceSpec, recipe: Recipe | None = None, chrono_t_max: int = 100, **options: Any) -> None:
        super().__init__(spec, recipe, **options)
        require_positive(chrono_t_max=chrono_t_max)
        for layer in range(self.recurrent.num_layers):
            # torch has two biases, of which one is enough
            drawn, other = (getattr(self.recurrent, f"bias_{of}_l{layer}").detach().chunk(self.gates) for of in ("ih", "hh"))
            bias = torch.empty(self.recurrent.hidden_size).uniform_(1, chrono_t_max).log()
            drawn[self.forget].copy_(bias)
            other[self.forget].zero_()
            if self.input is not None:
                drawn[self.input].copy_(-bias)
                other[self.input].zero_()


@register_model("rnn", task="sequence-memory", recipe={**RECIPE, "lr": 1e-3}, **COMMON)
class RNN(RecurrentNetwork):
    """Vanilla RNN (Elman 1990)."""

    cell = nn.RNN


@register_model("gru", task="sequence-memory", recipe=RECIPE, paper="1406.1078", **COMMON)
class GRU(GatedNetwork):
    """GRU (Cho et al. 2014): gated recurrent units."""

    cell = nn.GRU
    gates, forget, input = 3, 1, None


@register_model("lstm", task="sequence-memory", recipe=RECIPE, **COMMON)
class LSTM(GatedNetwork):
    """LSTM (Hochreiter and Schmidhuber 1997): long short-term memory."""

    cell = nn.LSTM
    gates, forget, input = 4, 1, 0
