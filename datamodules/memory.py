"""The adding problem and the copying problem: synthetic sequences that require only memory."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.datamodules.bases.sequence_memory import SequenceData
from zoo.datamodules.loading.loader import Batch
from zoo.registry.entry import register_data
from zoo.spec import SequenceSpec


@register_data("adding-problem", task="sequence-memory", tags=["offline", "synthetic"])
class AddingProblem(SequenceData):
    """The sum of two marked numbers: the adding problem (Hochreiter and Schmidhuber 1997, section 5.4).

    At each step there is a random number in [0, 1] and a marker, which is 1 at one step of either half and 0 elsewhere, as in Le,
    Jaitly and Hinton (2015, arXiv:1504.00941, section 4.1). The best constant prediction has a mean squared error of 1/6,
    the variance of the sum of two uniform numbers.

    Args:
        length: pairs of number and marker in a sequence, at least 2.
    """

    shortest = 2  # one in either half

    @property
    def spec(self) -> SequenceSpec:
        return SequenceSpec(self.length, features=2)

    @property
    def baseline(self) -> float:
        return 1 / 6

    def draw(self, count: int, generator: torch.Generator) -> Batch:
        middle = self.length // 2
        numbers = torch.rand(count, self.length, generator=generator)
        first = torch.randint(0, middle, (count, 1), generator=generator)
        second = torch.randint(middle, self.length, (count, 1), generator=generator)
        marked = torch.cat((first, second), 1)
        markers = torch.zeros(count, self.length).scatter_(1, marked, 1)
        return {"inputs": torch.stack((numbers, markers), 2), "targets": numbers.gather(1, marked).sum(1)}

    def to_text(self, inputs: Tensor, target: Tensor) -> str:
        steps = (f"[{number:.2f}]" if marker else f"{number:.2f}" for number, marker in inputs.tolist())
        return f"{' '.join(steps)}\n= {float(target):.2f}"


REMEMBERED = 10  # symbols
SYMBOLS = ("-", *"abcdefgh")  # the blank, and what is to be remembered
MARK = len(SYMBOLS)  # in the input: from here on, symbols are the targets


@register_data("copy-memory", task="sequence-memory", tags=["offline", "synthetic"], length=50)
class CopyMemory(SequenceData):
    """Ten symbols to repeat after a delay: the copying problem (Hochreiter and Schmidhuber 1997).

    As in Arjovsky, Shah and Bengio (2016, arXiv:1511.06464): 10 symbols of 8, T - 1 blanks, a marker, and 10 steps in which the
    symbols are the targets, in their order; before them the target is the blank. Without memory, one of 8 symbols is guessed at
    10 of T + 20 steps: a loss of 10 ln 8 / (T + 20) nats a step.

    Args:
        length: T, the steps between the last symbol and the first target.
    """

    @property
    def spec(self) -> SequenceSpec:
        return SequenceSpec(self.length + 2 * REMEMBERED, features=len(SYMBOLS) + 1, symbols=SYMBOLS)

    @property
    def baseline(self) -> float:
        return REMEMBERED * math.log(len(SYMBOLS) - 1) / self.spec.length

    def draw(self, count: int, generator: torch.Generator) -> Batch:
        symbols = torch.randint(1, len(SYMBOLS), (count, REMEMBERED), generator=generator)
        read, targets = torch.zeros(2, count, self.spec.length, dtype=torch.int64)
        read[:, :REMEMBERED] = targets[:, -REMEMBERED:] = symbols
        read[:, -REMEMBERED - 1] = MARK
        return {"inputs": F.one_hot(read, MARK + 1).float(), "targets": targets}

    def to_text(self, inputs: Tensor, target: Tensor) -> str:
        read = "".join([*SYMBOLS, "?"][place] for place in inputs.argmax(1).tolist())
        return f"{read}\n{''.join(SYMBOLS[place] for place in target.tolist())}"
