"""The base of synthetic sequences that need memory: drawn with each batch, and never repeated in training.

A batch follows from (seed, epoch, step, rank), so any one can be made without those before it. The sequences for validation and
test are the same in all runs.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from zoo.core.errors import UserError
from zoo.core.randomness import derive_seed
from zoo.core.violation import require
from zoo.datamodules.bases.data_module import DataModule, Preview
from zoo.datamodules.bases.options import require_at_least
from zoo.datamodules.loading.loader import Batch, BatchLoader, placement
from zoo.spec import SequenceSpec

Draw = Callable[[int, torch.Generator], Batch]
EVALUATION_BATCHES, EVALUATION_BATCH = 20, 100  # whatever recipe.batch_size is, so that it does not matter to the metrics
PREVIEWED = 3  # sequences


class SequenceLoader(BatchLoader):
    """New training sequences in every step.

    Args:
        draw: generates a number of sequences with a generator.
        batch_size: of each process.
        num_sequences: for an epoch on all processes together; the last batch is filled up.
        seed: of the run.
        **place: rank, world and position, as in ``BatchLoader``.
    """

    def __init__(self, draw: Draw, batch_size: int, num_sequences: int, seed: int, **place: Any) -> None:
        super().__init__(**place)
        self.draw, self.batch_size, self.seed = draw, batch_size, seed
        self.steps = -(-num_sequences // (batch_size * self.world))

    def __len__(self) -> int:
        return self.steps

    def batches(self, epoch: int, first: int) -> Iterator[Batch]:
        for step in range(first, self.steps):
            yield self.draw(self.batch_size, _generator(self.seed, "train", epoch, step, self.rank))


class FixedSequenceLoader(BatchLoader):
    """The sequences of a split for evaluation: batch b goes to process b modulo world. ``counted`` is false for repeated ones."""

    def __init__(self, draw: Draw, split: str, **place: Any) -> None:
        super().__init__(**place)
        self.draw, self.split = draw, split

    def __len__(self) -> int:
        return -(-EVALUATION_BATCHES // self.world)

    def batches(self, epoch: int, first: int) -> Iterator[Batch]:
        for turn in range(len(self)):
            number = turn * self.world + self.rank
            batch = self.draw(EVALUATION_BATCH, _generator(0, self.split, number))
            yield {**batch, "counted": torch.full((EVALUATION_BATCH,), number < EVALUATION_BATCHES)}


def _generator(seed: int, *position: int | str) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed(seed, *position))


class SequenceData(DataModule):
    """Synthetic sequences. A subclass implements ``spec``, ``baseline``, ``draw`` and ``to_text``.

    Args:
        batch_size: sequences a batch on each device.
        seed: of the training sequences.
        length: of a sequence, as the subclass counts it, at least ``shortest``.
        num_sequences: new training sequences in each epoch; the last batch is filled up.
    """

    task = "sequence-memory"
    has_samples = False
    shortest = 1

    def __init__(self, batch_size: int, seed: int, length: int = 150, num_sequences: int = 12800) -> None:
        super().__init__()
        require_at_least(self.shortest, length=length)
        require_at_least(1, num_sequences=num_sequences)
        self.batch_size, self.seed, self.length, self.num_sequences = batch_size, seed, length, num_sequences

    @property
    @abstractmethod
    def spec(self) -> SequenceSpec:
        """Length, features at each step, and what is to be predicted."""

    @property
    @abstractmethod
    def baseline(self) -> float:
        """The lowest loss without memory."""

    @abstractmethod
    def draw(self, count: int, generator: torch.Generator) -> Batch:
        """``inputs``, float [count, T, features], and ``targets``, int64 [count, T] of symbols or float [count]."""

    @abstractmethod
    def to_text(self, inputs: Tensor, target: Tensor) -> str:
        """One sequence, [T, features], as text, with its target on the last line."""

    def setup(self, stage: str | None = None) -> None:
        """Nothing to load."""

    def require_compatible(self, spec: SequenceSpec, name: str) -> None:
        """Refuse data that a model trained with ``spec`` cannot take; the length may differ.

        Raises:
            UserError: another number of features, or other symbols.
        """
        if (spec.features, spec.symbols) != (self.spec.features, self.spec.symbols):
            kind = "symbols" if self.spec.symbols else "numbers"
            raise UserError(f"targets of {name} are {kind}, unlike those of the model: test it on its own data")

    def build_loader(self, split: str) -> BatchLoader:
        if split != "train":
            return FixedSequenceLoader(self.draw, split, **placement(self.trainer))
        place = placement(self.trainer, training=True)
        return SequenceLoader(self.draw, self.batch_size, self.num_sequences, self.seed, **place)

    def summarize(self) -> dict[str, Any]:
        """Shape and number of the sequences, and the loss of the baseline."""
        return {
            "steps": self.spec.length,
            "features": self.spec.features,
            **({"symbols": list(self.spec.symbols)} if self.spec.symbols else {}),
            "train": f"{self.num_sequences} new ones per epoch",
            **{name: self.split_size(name) for name in ("val", "test")},
            "baseline": round(self.baseline, 4),
        }

    def preview(self) -> Preview:
        batch = next(iter(self.test_dataloader()))
        return Preview(["\n\n".join(map(self.to_text, batch["inputs"][:PREVIEWED], batch["targets"][:PREVIEWED]))])

    def check_batch(self, batch: Batch) -> None:
        inputs, targets, spec = batch["inputs"], batch["targets"], self.spec
        expected = (len(inputs), spec.length, spec.features)
        require(inputs.shape == expected, f"inputs are {tuple(inputs.shape)}, the spec has {expected}")
        expected = expected[:2] if spec.symbols else expected[:1]
        require(targets.shape == expected, f"targets are {tuple(targets.shape)}, the spec has {expected}")
        if spec.symbols:
            require(targets.min() >= 0 and targets.max() < len(spec.symbols), "a target is outside the symbols of the spec")
            require((targets > 0).any(1).all(), "a sequence has no targets")

    def split_size(self, split: str) -> int:
        return EVALUATION_BATCHES * EVALUATION_BATCH
