"""Two trainings that take turns within one, a block of steps each, so that a machine whose speed drifts slows both alike.

Whenever the zoo asks for the first batch of its next block, its clock stops and the loop by hand goes on for as many steps. Each
block of the zoo is compared with the two by hand around it.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from typing import Any
from unittest.mock import patch

import torch

from zoo.config.run import Run
from zoo.training import engine

WARMING_UP = 2  # turns that do not count


@dataclass(frozen=True)
class Turn:
    """Seconds a step of one block of the zoo, and of the blocks by hand before and after it."""

    before: float
    zoo: float
    after: float

    @property
    def hand(self) -> float:
        return (self.before + self.after) / 2


class TakingTurns:
    """Training batches that hand over to another loop after each block of steps, and keep the time of both in ``turns``."""

    def __init__(self, batches: Any, other: Iterator[None], block: int) -> None:
        self.batches, self.other, self.block = batches, other, block
        self.turns: list[Turn] = []

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        before = resumed = 0.0
        for step, batch in enumerate(self.batches):
            if step % self.block == 0:
                paused = time.perf_counter()
                hand = self._other_block()
                if step:
                    self.turns.append(Turn(before, (paused - resumed) / self.block, hand))
                before, resumed = hand, time.perf_counter()
            yield batch

    def _other_block(self) -> float:
        started = time.perf_counter()
        with torch.enable_grad():
            for _ in range(self.block):
                next(self.other)
        return (time.perf_counter() - started) / self.block


@contextmanager
def in_an_empty_folder() -> Iterator[None]:
    """A current folder that is gone afterwards, for the run that is timed."""
    former = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(former)


def take_turns(registry: Any, run: Run, data: Any, other: Iterator[None], block: int) -> list[Turn]:
    """Train a Run with the whole command's machinery, in turns with ``other``, each ``next`` of which is one step.

    Args:
        data: of the Run's data set, already read.
    """
    loaders: list[TakingTurns] = []
    original = type(data).train_dataloader

    def train_dataloader(self: Any) -> TakingTurns:
        loaders.append(TakingTurns(original(self), other, block))
        return loaders[-1]

    with patch.object(type(data), "train_dataloader", train_dataloader), in_an_empty_folder():
        engine.train(registry, run, "benchmark")
    return [turn for loader in loaders for turn in loader.turns][WARMING_UP:]


def tell(turns: list[Turn], block: int) -> None:
    """Print the medians and the ratio, with the range of the middle half."""
    for name, values in (("by hand", [turn.hand for turn in turns]), ("zoo", [turn.zoo for turn in turns])):
        low, middle, high = quantiles(values, n=4)
        print(f"{name:<8} {1e3 * middle:8.3f} ms a step   (half of the blocks from {1e3 * low:.3f} to {1e3 * high:.3f})")
    low, middle, high = quantiles([turn.zoo / turn.hand for turn in turns], n=4)
    print(f"ratio    {middle:8.3f}   ({len(turns)} blocks of {block} steps, half of them from {low:.3f} to {high:.3f})")
