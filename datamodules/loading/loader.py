"""The interface of all dataloaders: batches of one process, from any step of any epoch on."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Protocol

import lightning as L
from torch import Tensor

Batch = dict[str, Tensor]
Position = Callable[[], tuple[int, int]]


def from_the_start() -> tuple[int, int]:
    """Epoch 0, step 0."""
    return 0, 0


class BatchLoader(Protocol):
    """Batches of one process, as Lightning takes them for a dataloader.

    - *Length*: ``len(loader)`` batches an epoch, the same number in every process.
    - *Order*: a training batch is a function of (seed, epoch, step, rank). Evaluation sees every sample once on any number of
      processes; one that has no last batch repeats another in which nothing counts, since sharded networks need all in step.
    - *Position*: iteration starts at ``position()``, (epoch, step), evaluated when the first batch is drawn.
    - *Resume*: hence no state is saved; a resumed run draws the batches that an uninterrupted one would have drawn.

    Args:
        rank, world: this process, and how many there are.
        position: the epoch and the step to start at.
    """

    def __init__(self, rank: int = 0, world: int = 1, position: Position = from_the_start) -> None:
        self.rank, self.world, self.position = rank, world, position

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def batches(self, epoch: int, first: int) -> Iterator[Batch]:
        """The batches of an epoch, from number ``first`` on; evaluation is the same in all epochs."""

    def __iter__(self) -> Iterator[Batch]:
        # a generator: the position is evaluated when the first batch is drawn, not when the loop is set up
        yield from self.batches(*self.position())


def placement(trainer: L.Trainer | None, training: bool = False) -> dict[str, Any]:
    """``rank`` and ``world`` of a loader and, in training, its ``position``; without a trainer, one process from the start."""
    if trainer is None:
        return {}
    position = {"position": partial(_next_batch, trainer)} if training else {}
    return {"rank": trainer.global_rank, "world": trainer.world_size, **position}


def _next_batch(trainer: L.Trainer) -> tuple[int, int]:
    return trainer.current_epoch, trainer.fit_loop.epoch_loop.batch_idx + 1
