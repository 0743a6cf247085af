"""Tasks that need nothing but memory: sequences that are made when they are asked for, and never the same one twice in training.

A batch follows from (seed, epoch, step, rank), so any one can be made without those before it. The sequences for validation and
test are the same in all runs.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.core.errors import UserError
from zoo.core.randomness import derive_seed
from zoo.datamodules.loading.position import position_of
from zoo.registry.entry import register_data
from zoo.spec import SequenceSpec

Batch = dict[str, Tensor]
Draw = Callable[[int, torch.Generator], Batch]
EVALUATION_BATCHES, EVALUATION_BATCH = 20, 100  # whatever recipe.batch_size is, so that it does not matter to the figures
PRINTED = 3  # sequences, as a beginning


class NewSequences:
    """Batches for training, as what Lightning takes for a dataloader.

    Args:
        draw: makes as many sequences as it is told, by a generator.
        batch_size: of each process.
        steps: batches an epoch.
        seed: of the run.
        rank: this process.
        position: asked at the start of each epoch for (epoch, first batch), so that a resumed run starts inside an epoch.
    """

    def __init__(
        self, draw: Draw, batch_size: int, steps: int, seed: int, rank: int, position: Callable[[], tuple[int, int]]
    ) -> None:
        self.draw, self.batch_size, self.steps, self.seed, self.rank, self.position = (
            draw,
            batch_size,
            steps,
            seed,
            rank,
            position,
        )

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Batch]:
        # a generator: the position is asked for when the first batch is, not when the loop is being set up
        epoch, first = self.position()
        for step in range(first, self.steps):
            yield self.draw(self.batch_size, _generator(self.seed, "train", epoch, step, self.rank))


class SameSequences:
    """The sequences of a split for evaluation: batch b goes to process b modulo world, whatever the number of processes.

    A process without a last batch makes one of which nothing counts, since sharded networks need all processes in step.
    """

    def __init__(self, draw: Draw, split: str, rank: int, world: int) -> None:
        self.draw, self.split, self.rank, self.world = draw, split, rank, world

    def __len__(self) -> int:
        return -(-EVALUATION_BATCHES // self.world)

    def __iter__(self) -> Iterator[Batch]:
        for turn in range(len(self)):
            number = turn * self.world + self.rank
            batch = self.draw(EVALUATION_BATCH, _generator(0, self.split, number))
            yield {**batch, "counted": torch.full((EVALUATION_BATCH,), number < EVALUATION_BATCHES)}


def _generator(seed: int, *position: int | str) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed(seed, *position))


class SequenceData(L.LightningDataModule):
    """Sequences that a formula makes. A subclass says what they are (``spec``) and makes them (``draw``).

    Args:
        batch_size: sequences a batch on each device.
        seed: of the sequences for training.
        length: of a sequence, as the subclass counts it, at least ``shortest``.
        num_sequences: for training in an epoch, in whole batches: the last one is filled up.
    """

    task = "sequence-memory"
    shortest = 1

    def __init__(self, batch_size: int, seed: int, length: int, num_sequences: int) -> None:
        super().__init__()
        if length < self.shortest:
            raise UserError(f"data.length={length}: must be at least {self.shortest}")
        if num_sequences < 1:
            raise UserError(f"data.num_sequences={num_sequences}: must be at least 1")
        self.batch_size, self.seed, self.length, self.num_sequences = batch_size, seed, length, num_sequences

    @property
    @abstractmethod
    def spec(self) -> SequenceSpec:
        """Steps, numbers at each, and what is asked for."""

    @property
    @abstractmethod
    def baseline(self) -> float:
        """The lowest loss of who remembers nothing."""

    @abstractmethod
    def draw(self, count: int, generator: torch.Generator) -> Batch:
        """``inputs``, float [count, T, features], and ``targets``, int64 [count, T] of symbols or float [count]."""

    @abstractmethod
    def to_text(self, inputs: Tensor, target: Tensor) -> str:
        """One sequence, [T, features], and in a last line what it asks for, to be read by people."""

    def setup(self, stage: str | None = None) -> None:
        """There is nothing to read."""

    def require_compatible(self, spec: SequenceSpec, name: str) -> None:
        """Be data for a model that was trained with ``spec``, on sequences of this length or another.

        Raises:
            UserError: it asks for something else.
        """
        if (spec.features, spec.symbols) != (self.spec.features, self.spec.symbols):
            asked = "symbols" if self.spec.symbols else "a number"
            raise UserError(f"{name} asks for {asked}, and the model has learned something else: test it on its own data")

    def train_dataloader(self) -> NewSequences:
        rank, world = self._place()

        steps = -(-self.num_sequences // (self.batch_size * world))
        return NewSequences(self.draw, self.batch_size, steps, self.seed, rank, partial(position_of, self.trainer))

    def val_dataloader(self) -> SameSequences:
        return SameSequences(self.draw, "val", *self._place())

    def test_dataloader(self) -> SameSequences:
        return SameSequences(self.draw, "test", *self._place())

    def _place(self) -> tuple[int, int]:
        """This process, and how many there are."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def summarize(self) -> dict[str, Any]:
        """What is there."""
        held_out = EVALUATION_BATCHES * EVALUATION_BATCH
        return {
            "steps": self.spec.length,
            "features": self.spec.features,
            **({"symbols": list(self.spec.symbols)} if self.spec.symbols else {}),
            "train": f"{self.num_sequences} new ones an epoch",
            **dict.fromkeys(("val", "test"), held_out),
            "baseline": round(self.baseline, 4),
        }

    def preview_text(self) -> str:
        """The first sequences of the test, as text."""
        batch = next(iter(self.test_dataloader()))
        return "\n\n".join(map(self.to_text, batch["inputs"][:PRINTED], batch["targets"][:PRINTED]))


@register_data("adding-problem", task="sequence-memory", tags=["embedded", "synthetic"])
class AddingProblem(SequenceData):
    """The adding problem: the sum of two marked numbers among many (Hochreiter and Schmidhuber 1997, section 5.4).

    At each step there is a random number in [0, 1] and a marker, which is 1 at one step of either half and 0 elsewhere, as in Le,
    Jaitly and Hinton (2015, arXiv:1504.00941, section 4.1). Who knows the mean alone errs by the variance of the sum of two
    uniform numbers, 1/6.

    Args:
        length: pairs of number and marker in a sequence.
        num_sequences: for training in an epoch, none of them twice; the last batch is filled up.
    """

    shortest = 2  # one in either half

    def __init__(self, batch_size: int, seed: int, length: int = 150, num_sequences: int = 12800) -> None:
        super().__init__(batch_size, seed, length, num_sequences)

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
SYMBOLS = ("-", *"abcdefgh")  # to say nothing, and what is to be remembered
MARK = len(SYMBOLS)  # in the input, says that it is time


@register_data("copy-memory", task="sequence-memory", tags=["embedded", "synthetic"])
class CopyMemory(SequenceData):
    """The copying problem: ten symbols are to be said again after a long nothing (Hochreiter and Schmidhuber 1997).

    As in Arjovsky, Shah and Bengio (2016, arXiv:1511.06464): 10 symbols of 8, T - 1 steps of nothing, a mark, and 10 steps in
    which the symbols are to be given, in their order. Until then nothing is to be said. Who remembers nothing but the time
    guesses one of 8 at 10 of T + 20 steps, and loses 10 ln 8 / (T + 20) nats a step.

    Args:
        length: T, the steps between the last symbol and the first that is asked for.
        num_sequences: for training in an epoch; the last batch is filled up.
    """

    def __init__(self, batch_size: int, seed: int, length: int = 50, num_sequences: int = 12800) -> None:
        super().__init__(batch_size, seed, length, num_sequences)

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
