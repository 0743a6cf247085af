"""Text as batches of chunks: streams that continue from batch to batch, windows from random places, and held-out text.

A training row is one contiguous part of the text. Each batch holds the next chunk of every row, so that a model can carry its
state from one to the next; ``fresh`` says where a row begins and the state must not be carried. Where the rows begin follows
from (seed, epoch), so any batch can be made without those before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from zoo.core.randomness import derive_seed
from zoo.datamodules.loading.loader import Batch, BatchLoader
from zoo.spec import IGNORE

EVALUATION_ROWS = 32  # parts of a held-out text that are read side by side, whatever the number of processes
WARM_UP = 256  # characters that each of them reads, uncounted, before its own


class StreamLoader(BatchLoader):
    """Training batches for truncated back-propagation through time: chunks of rows that continue from batch to batch.

    A batch has ``tokens`` and ``targets``, int64 [rows, seq_len], the targets one character later, and ``fresh``, bool [rows].

    Args:
        text: int, [N], indices of characters into the vocabulary.
        rows: of each process.
        seq_len: characters a batch; 0 takes whole rows.
        seed: of where rows begin.
        rank, world, position: see ``BatchLoader``.
    """

    def __init__(self, text: Tensor, rows: int, seq_len: int, seed: int, **place: Any) -> None:
        super().__init__(**place)
        self.text, self.rows, self.seed = text, rows, seed
        self.seq_len = seq_len or (len(text) - 1) // (rows * self.world)
        # one chunk is left over, in which the rows begin somewhere else in each epoch
        self.length = max((len(text) - 1 - (self.seq_len if seq_len else 0)) // (rows * self.world), 0)

    def __len__(self) -> int:
        return self.length // self.seq_len if self.seq_len else 0

    def batches(self, epoch: int, first: int) -> Iterator[Batch]:
        spare = len(self.text) - 1 - self.length * self.rows * self.world
        start = derive_seed(self.seed, "start", epoch) % (spare + 1)
        rows = torch.arange(self.rank * self.rows, (self.rank + 1) * self.rows, device=self.text.device)
        starts = start + rows * self.length
        for step in range(first, len(self)):
            fresh = torch.full((self.rows,), step == 0, device=self.text.device)
            yield {**_cut(self.text, starts + step * self.seq_len, self.seq_len), "fresh": fresh}


class WindowLoader(StreamLoader):
    """Training batches of chunks from random places, each by itself: for models that carry no state."""

    def __len__(self) -> int:
        return (len(self.text) - 1) // (self.seq_len * self.rows * self.world)

    def batches(self, epoch: int, first: int) -> Iterator[Batch]:
        fresh = torch.ones(self.rows, dtype=torch.bool, device=self.text.device)
        for step in range(first, len(self)):
            generator = torch.Generator().manual_seed(derive_seed(self.seed, "windows", epoch, step, self.rank))
            starts = torch.randint(0, len(self.text) - self.seq_len, (self.rows,), generator=generator)
            yield {**_cut(self.text, starts.to(self.text.device), self.seq_len), "fresh": fresh}


class HeldOutTextLoader(BatchLoader):
    """Evaluation batches in which every character but the first is a target once, on any number of processes.

    The text is read in ``EVALUATION_ROWS`` parts side by side, of which each process has every world-th. A part first reads the
    ``WARM_UP`` characters before its own, whose targets are ``IGNORE``, so that it begins with a state that knows the context.
    """

    def __init__(self, text: Tensor, seq_len: int, **place: Any) -> None:
        super().__init__(**place)
        self.text = text
        targets = len(text) - 1
        rows = max(1, min(EVALUATION_ROWS, targets))
        ends = [targets * row // rows for row in range(rows + 1)]
        self.parts = list(zip(ends, ends[1:], strict=False))  # of targets, whose characters lie one further
        longest = max(end - max(0, start - WARM_UP) for start, end in self.parts)
        self.seq_len = min(seq_len, longest) if seq_len else longest
        self.steps = -(-longest // self.seq_len)

    def __len__(self) -> int:
        return self.steps

    def batches(self, epoch: int, first: int) -> Iterator[Batch]:
        own = self.parts[self.rank :: self.world] or [(0, 0)]  # sharded networks need all processes in step
        starts, ends = torch.tensor(own, device=self.text.device).T
        read_from = (starts - WARM_UP).clamp(min=0)
        for step in range(len(self)):
            places = read_from + step * self.seq_len
            batch = _cut(self.text, places, self.seq_len)
            positions = places[:, None] + torch.arange(self.seq_len, device=self.text.device)
            counted = (positions >= starts[:, None]) & (positions < ends[:, None])
            fresh = torch.full((len(own),), step == 0, device=self.text.device)
            yield {**batch, "targets": batch["targets"].where(counted, IGNORE), "fresh": fresh}


def describe_fitting(targets: int, seq_len: int, rows: int, world: int, spare: bool) -> str:
    """Batch size and length of chunks that so many characters suffice for, as a message; ``spare`` is for streams."""
    most_rows = (targets - spare * seq_len) // (max(seq_len, 1) * world)
    longest_chunk = targets // (rows * world + spare) if seq_len else 0
    fitting = {"recipe.batch_size": most_rows, "data.seq_len": longest_chunk}
    settings = [f"{key}={value}" for key, value in fitting.items() if value > 0]
    return f"at most {' or '.join(settings)} fits" if settings else "a longer text is needed"


def _cut(text: Tensor, starts: Tensor, length: int) -> Batch:
    """``tokens``, int64 [rows, length], from each start on, and ``targets``, one character later; beyond the end the last."""
    places = starts[:, None] + torch.arange(length + 1, device=text.device)
    window = text[places.clamp(max=len(text) - 1)].long()
    return {"tokens": window[:, :-1], "targets": window[:, 1:]}
