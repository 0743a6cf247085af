"""Splits: images with labels and other columns, and the loader that draws batches of them.

Images are held as one uint8 tensor and indexed by batch, so no Python runs for a single image. The order of an epoch and
the augmentation of a batch follow from (seed, epoch, step, rank) alone, so a loader can start at any step.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any, Protocol

import torch
from torch import Tensor

from zoo.core.randomness import derive_seed
from zoo.datamodules.files.digests import NotedDigests
from zoo.datamodules.files.paths import select
from zoo.datamodules.loading.loader import Batch, BatchLoader
from zoo.datamodules.loading.sampling import balanced_indices
from zoo.spec import IGNORE


class Images(Protocol):
    """A sequence of images of one shape: in memory, or in files that are decoded batch by batch."""

    def __len__(self) -> int: ...

    def batches(self, orders: Iterator[Tensor], seed: int | None = None) -> Iterator[Tensor]:
        """uint8 images [n, C, H, W] for each tensor of n indices, in that order; ``seed`` is of random crops in reading."""

    def used(self, indices: Tensor) -> Tensor:
        """The indices of the images that ``batches`` gave for these, int64 [n]: others in place of those that cannot be read."""

    def subset(self, indices: Tensor) -> Images:
        """The images at these indices."""

    def identity(self) -> str:
        """Hex digits that change with any of the images: the key of what is cached about them."""


@dataclass(frozen=True)
class ImagesInMemory:
    """Images in one tensor, uint8 [N, C, H, W]."""

    pixels: Tensor

    def __len__(self) -> int:
        return len(self.pixels)

    def batches(self, orders: Iterator[Tensor], seed: int | None = None) -> Iterator[Tensor]:
        device = self.pixels.device
        for indices in orders:
            yield self.pixels.index_select(0, indices.to(device, non_blocking=True))

    def used(self, indices: Tensor) -> Tensor:
        return indices

    def subset(self, indices: Tensor) -> ImagesInMemory:
        return ImagesInMemory(self.pixels.index_select(0, indices))

    def identity(self) -> str:
        digest = blake2b(repr(tuple(self.pixels.shape)).encode(), digest_size=16)
        digest.update(self.pixels.contiguous().cpu().numpy())
        return digest.hexdigest()

    def on_device(self, device: torch.device) -> ImagesInMemory:
        """Move to the device if it is a GPU with memory to spare, so that no batch has to be transferred."""
        if device.type == "cuda" and self.pixels.nbytes < torch.cuda.mem_get_info(device)[0] // 4:
            return ImagesInMemory(self.pixels.to(device))
        return self


@dataclass(frozen=True)
class Split:
    """Images and their targets: ``labels``, int64 [N] of classes, or [N, ...] of words, several answers or numbers.

    In evaluation, labels of samples that do not count are ``IGNORE``, or nan among floating-point numbers.

    ``columns`` are further tensors, [N, ...], by their names in a batch, such as questions. Of images in files, ``files`` are the
    paths and ``digests``, uint8 [N, 16], are of their bytes, some of which may be known later. Files with ``excluded`` digests do
    not count in evaluation.
    """

    images: Images
    labels: Tensor
    columns: dict[str, Tensor] = field(default_factory=dict)
    files: Sequence[str] = field(default=(), kw_only=True)  # subclasses are given theirs by place
    digests: Tensor | NotedDigests | None = field(default=None, kw_only=True)
    excluded: Collection[bytes] = field(default=frozenset(), kw_only=True)

    def __len__(self) -> int:
        return len(self.labels)

    def count_images(self) -> int:
        """Images, of which one with many questions may be several samples."""
        return len(set(self.files)) if self.files else len(self)

    def content(self, read: bool = False) -> list[bytes]:
        """The digest of each image's file, empty for what was not read; none without files.

        Args:
            read: read all that was not.
        """
        if isinstance(self.digests, NotedDigests):
            if read:
                self.digests.read()
            return self.digests.content()
        return [] if self.digests is None else list(map(bytes, self.digests.numpy()))

    def is_excluded(self, indices: Tensor) -> Tensor:
        """Which of the samples at these indices, whose images were read, do not count; bool [n]."""
        if not self.excluded:
            return torch.zeros(len(indices), dtype=torch.bool)
        return torch.tensor([digest in self.excluded for digest in self.digests[indices].content()])

    def subset(self, indices: Tensor) -> Split:
        return replace(
            self,
            images=self.images.subset(indices),
            labels=self.labels[indices],
            columns=self._columns(indices),
            files=select(self.files, indices.numpy()),
            digests=None if self.digests is None else self.digests[indices],
        )

    def read(self, indices: Tensor) -> Batch:
        """The samples at these indices, as one batch; others in place of those whose image cannot be read."""
        images = next(self.images.batches(iter([indices])))
        return self.batch(images, self.images.used(indices))

    def batch(self, images: Tensor, indices: Tensor) -> Batch:
        """A batch of ``images``, those at these indices, with labels and columns."""
        return {"images": images, "labels": self.labels[indices], **self._columns(indices)}

    def _columns(self, indices: Tensor) -> dict[str, Tensor]:
        return {name: column[indices] for name, column in self.columns.items()}


class ImageLoader(BatchLoader):
    """One split as batches.

    Args:
        split: what to draw from.
        batch_size: images a batch in each process.
        seed: of the order; None keeps the order of the split, for evaluation.
        balanced: draw each class equally often in training, instead of each image once.
        rank, world, position: see ``BatchLoader``.

    In training every process draws its own part of one permutation; what does not fill a global batch is left out, and is another
    part in each epoch. In evaluation batch b goes to process b modulo world.
    """

    def __init__(self, split: Split, batch_size: int, seed: int | None = None, *, balanced: bool = False, **place: Any) -> None:
        super().__init__(**place)
        self.split, self.seed, self.balanced = split, seed, balanced
        self.batch_size = batch_size if seed is None else max(1, min(batch_size, len(split) // self.world))

    def __len__(self) -> int:
        if self.seed is None:
            return -(-len(self.split) // (self.batch_size * self.world))
        return len(self.split) // (self.batch_size * self.world)

    def batches(self, epoch: int, first: int) -> Iterator[Batch]:
        return self._evaluation() if self.seed is None else self._training(epoch, first)

    def _training(self, epoch: int, first: int) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", epoch))
        order = torch.randperm(len(self.split), generator=generator)
        if self.balanced:
            order = balanced_indices(self.split.labels, self.seed, epoch)[order]
        steps = range(first, len(self))
        orders = [
            order[(step * self.world + self.rank) * self.batch_size :][: self.batch_size]
            for step in steps
        ]  # fmt: skip
        drawn = self.split.images.batches(iter(orders), derive_seed(self.seed, "crops", epoch))
        for step, indices, images in zip(steps, orders, drawn, strict=True):
            seed = derive_seed(self.seed, "augment", epoch, step, self.rank)
            yield {**self.split.batch(images, self.split.images.used(indices)), "seed": seed}

    def _evaluation(self) -> Iterator[Batch]:
        total = -(-len(self.split) // self.batch_size)
        turns = [turn * self.world + self.rank for turn in range(len(self))]
        index = torch.arange(len(self.split))
        orders = [index[min(turn, total - 1) * self.batch_size :][: self.batch_size] for turn in turns]
        for turn, indices, images in zip(turns, orders, self.split.images.batches(iter(orders)), strict=True):
            batch = self.split.batch(images, indices)
            is_read = self.split.images.used(indices) == indices
            nothing = torch.nan if batch["labels"].is_floating_point() else IGNORE
            batch["labels"][~is_read | self.split.is_excluded(indices) | (turn >= total)] = nothing
            yield batch
