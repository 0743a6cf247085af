"""Images with what is to be learned of each, and the batches that are drawn from them.

Images are held as one uint8 tensor and indexed by batch, so no Python runs for a single image. The order of an epoch and
the augmentation of a batch follow from (seed, epoch, step, rank) alone: a loader can start anywhere, and a resumed run sees
what it would have seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Protocol

import torch
from torch import Tensor

from zoo.core.randomness import derive_seed
from zoo.datamodules.loading.augment import Batch
from zoo.spec import IGNORE


class Images(Protocol):
    """Where images lie: in memory, or in files that are read when they are asked for."""

    def __len__(self) -> int: ...

    def batches(self, orders: Iterator[Tensor]) -> Iterator[Tensor]:
        """uint8 images [n, C, H, W] for each tensor of n indices, in that order."""

    def subset(self, indices: Tensor) -> Images:
        """The images at these indices."""

    def identity(self) -> str:
        """Hex digits that change with any of the images: what is computed of them is kept under it."""


@dataclass(frozen=True)
class ImagesInMemory:
    """Images in one tensor, uint8 [N, C, H, W]."""

    pixels: Tensor

    def __len__(self) -> int:
        return len(self.pixels)

    def batches(self, orders: Iterator[Tensor]) -> Iterator[Tensor]:
        device = self.pixels.device
        for indices in orders:
            yield self.pixels.index_select(0, indices.to(device, non_blocking=True))

    def subset(self, indices: Tensor) -> ImagesInMemory:
        return ImagesInMemory(self.pixels.index_select(0, indices))

    def identity(self) -> str:
        digest = blake2b(repr(tuple(self.pixels.shape)).encode(), digest_size=16)
        digest.update(self.pixels.contiguous().cpu().numpy())
        return digest.hexdigest()

    def on_device(self, device: torch.device) -> ImagesInMemory:
        """On the device if it is a GPU with room to spare, so that no batch has to travel."""
        if device.type == "cuda" and self.pixels.nbytes < torch.cuda.mem_get_info(device)[0] // 4:
            return ImagesInMemory(self.pixels.to(device))
        return self


@dataclass(frozen=True)
class Split:
    """Images, and what is to be learned of each: labels, int64 [N] for classes, [N, ...] for words or several answers.

    ``columns`` holds what else goes with each image, [N, ...] under its name in a batch, as questions do. ``files`` are the paths
    of the images, where each is a file.
    """

    images: Images
    labels: Tensor
    columns: dict[str, Tensor] = field(default_factory=dict)
    files: tuple[str, ...] = field(default=(), kw_only=True)  # subclasses are given theirs by place

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Tensor) -> Split:
        files = tuple(self.files[index] for index in indices.tolist()) if self.files else ()
        return replace(
            self, images=self.images.subset(indices), labels=self.labels[indices], columns=self._columns(indices), files=files
        )

    def batch(self, images: Tensor, indices: Tensor) -> Batch:
        """The images at these indices, which were read already, with all that goes with them."""
        return {"images": images, "labels": self.labels[indices], **self._columns(indices)}

    def _columns(self, indices: Tensor) -> dict[str, Tensor]:
        return {name: column[indices] for name, column in self.columns.items()}


class Batches:
    """One split as batches, for one process: what Lightning takes as a dataloader.

    Args:
        split: what to draw from.
        batch_size: images a batch.
        rank, world: this process and how many there are.
        seed: of the order; None keeps the order of the split, and is for evaluation.
        position: asked at the start of each epoch for (epoch, first batch), so that a resumed run starts inside an epoch.

    In training every process draws its own part of one permutation; the rest that fills no global batch waits for another epoch.
    In evaluation batch b goes to process b modulo world whatever the number of processes, so the figures do not depend on it;
    a process without a last batch repeats one with all labels ``IGNORE``, since sharded networks need all processes in step.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        rank: int = 0,
        world: int = 1,
        seed: int | None = None,
        position: Callable[[], tuple[int, int]] = lambda: (0, 0),
    ) -> None:
        self.split, self.rank, self.world, self.seed, self.position = split, rank, world, seed, position
        self.batch_size = batch_size if seed is None else max(1, min(batch_size, len(split) // world))

    def __len__(self) -> int:
        if self.seed is None:
            return -(-len(self.split) // (self.batch_size * self.world))
        return len(self.split) // (self.batch_size * self.world)

    def __iter__(self) -> Iterator[Batch]:
        # a generator: the position is asked for when the first batch is, not when the loop is being set up
        return self._evaluation() if self.seed is None else self._training()

    def _training(self) -> Iterator[Batch]:
        epoch, first = self.position()
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", epoch))
        order = torch.randperm(len(self.split), generator=generator)
        steps = range(first, len(self))
        orders = [
            order[(step * self.world + self.rank) * self.batch_size :][: self.batch_size]
            for step in steps
        ]  # fmt: skip
        for step, indices, images in zip(steps, orders, self.split.images.batches(iter(orders)), strict=True):
            seed = derive_seed(self.seed, "augment", epoch, step, self.rank)
            yield {**self.split.batch(images, indices), "seed": seed}

    def _evaluation(self) -> Iterator[Batch]:
        total = -(-len(self.split) // self.batch_size)
        turns = [turn * self.world + self.rank for turn in range(len(self))]
        index = torch.arange(len(self.split))
        orders = [index[min(turn, total - 1) * self.batch_size :][: self.batch_size] for turn in turns]
        for turn, indices, images in zip(turns, orders, self.split.images.batches(iter(orders)), strict=True):
            batch = self.split.batch(images, indices)
            yield batch if turn < total else {**batch, "labels": torch.full_like(batch["labels"], IGNORE)}
