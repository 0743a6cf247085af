"""The base of all image data sets: splits, statistics, order, sharding and batches.

Images are held as one uint8 tensor and indexed by batch, so no Python runs for a single image. The order of an epoch and
the augmentation of a batch follow from (seed, epoch, step, rank) alone: a loader can start anywhere, and a resumed run sees
what it would have seen.
"""

from __future__ import annotations

import json
import math
import re
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, ClassVar, Protocol

import lightning as L
import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.augment import Augmentation, Batch
from datamodules.features import kept_features
from datamodules.position import position_of
from zoo.errors import UserError, some
from zoo.fetch import cache_folder, replace_file
from zoo.randomness import derive_seed
from zoo.spec import IGNORE, ImageSpec, Spec, image_spec


class Images(Protocol):
    """Where images lie: in memory, or in files that are read when they are asked for."""

    def __len__(self) -> int: ...

    def batches(self, orders: Iterator[Tensor]) -> Iterator[Tensor]:
        """uint8 images [n, C, H, W] for each tensor of n indices, in that order."""

    def subset(self, indices: Tensor) -> Images:
        """The images at these indices."""


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

    def on_device(self, device: torch.device) -> ImagesInMemory:
        """On the device if it is a GPU with room to spare, so that no batch has to travel."""
        if device.type == "cuda" and self.pixels.nbytes < torch.cuda.mem_get_info(device)[0] // 4:
            return ImagesInMemory(self.pixels.to(device))
        return self


@dataclass(frozen=True)
class Split:
    """Images, and what is to be learned of each: labels, int64 [N] for classes, [N, ...] for words or several answers.

    ``beside`` holds what else goes with each image, [N, ...] under its name in a batch, as questions do. ``files`` are the paths
    of the images, where each is a file.
    """

    images: Images
    labels: Tensor
    beside: dict[str, Tensor] = field(default_factory=dict)
    files: tuple[str, ...] = field(default=(), kw_only=True)  # subclasses are given theirs by place

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Tensor) -> Split:
        files = tuple(self.files[index] for index in indices.tolist()) if self.files else ()
        return replace(
            self, images=self.images.subset(indices), labels=self.labels[indices], beside=self._beside(indices), files=files
        )

    def batch(self, images: Tensor, indices: Tensor) -> Batch:
        """The images at these indices, which were read already, with all that goes with them."""
        return {"images": images, "labels": self.labels[indices], **self._beside(indices)}

    def _beside(self, indices: Tensor) -> dict[str, Tensor]:
        return {name: column[indices] for name, column in self.beside.items()}


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


class PictureData(L.LightningDataModule):
    """Pictures with something to learn of each: the base of all such data sets, whatever it is.

    A subclass says what they are (``describe``) and reads them (``read``).

    Args:
        batch_size: images a batch on each device.
        seed: of splits, order and augmentation.
        root: the folder where the files lie or are put; the default is bestiary's cache.
        size: scale images to this many pixels a side; 0 keeps them.
        augment: ``none``, ``light``, ``standard``, ``strong``, or a description (see ``datamodules.augment``).
        validation: what is held out of the training images for validation, if the data brings none.
    """

    task: ClassVar[str]
    light = "hflip"  # every pixel stays in its place, or in its mirror image's
    standard = "crop:4,hflip"
    strong = "crop:4,hflip,jitter,cutout:8"
    class_count: int = 1  # for augmentations that mix classes

    def __init__(self, batch_size: int, seed: int, *, root: str | None, size: int, augment: str, validation: float | str) -> None:
        super().__init__()
        if size < 0:
            raise UserError(f"data.size={size}: must be 0 (as they are) or a number of pixels")
        self.batch_size, self.seed, self.size, self.validation = batch_size, seed, size, validation
        self.root = Path(root).expanduser() if root else None
        self.augment = {"light": self.light, "standard": self.standard, "strong": self.strong}.get(augment, augment)
        Augmentation(self.augment, classes=1)  # a wrong description is refused now, not after a download
        self.splits: dict[str, Split] = {}
        self._spec: Spec | None = None

    # ------------------------------------------------------------------ what a subclass gives

    @abstractmethod
    def describe(self) -> Spec:
        """What the pictures are before ``size`` is applied, without downloading anything."""

    @abstractmethod
    def read(self) -> dict[str, Split]:
        """The splits ``train``, ``test`` and, if the data set has one of its own, ``val``."""

    def fetch(self) -> None:
        """Bring the files to this machine; the default is that there is nothing to bring."""

    @property
    def fingerprint(self) -> str:
        """What tells these images from others of the same kind and number: statistics are kept under it."""
        return str(self.root)

    # ------------------------------------------------------------------ what the rest uses

    @abstractmethod
    def hold_out(self, split: Split) -> tuple[Tensor, Tensor]:
        """Indices of what is held out of the training images for validation, and of the rest."""

    @property
    def spec(self) -> Spec:
        """What a model must know. Statistics are those of the training images once ``setup`` has run."""
        if self._spec is None:
            spec = self.describe()
            self._spec = _of_pictures(spec, height=self.size, width=self.size) if self.size else spec
        return self._spec

    @property
    def image_spec(self) -> ImageSpec:
        """What the pictures are, whatever is to be learned of them."""
        return image_spec(self.spec)

    def prepare_data(self) -> None:
        if not self.splits:  # Lightning calls it again, when all is there
            self.fetch()

    def setup(self, stage: str | None = None) -> None:
        if self.splits:
            return
        splits = self.read()
        if self.size:
            splits = {name: self._resized(split) for name, split in splits.items()}
        self.splits = self.with_validation(splits)
        mean, std = self._statistics(self.splits["train"])
        self._spec = _of_pictures(self.spec, mean=mean, std=std)
        self.augmentation = Augmentation(self.augment, self.class_count)

    def with_validation(self, splits: dict[str, Split]) -> dict[str, Split]:
        """The splits with one for validation, which is held out of the training images where the data brings none.

        Raises:
            UserError: no image is left for training.
        """
        if "val" in splits:
            return splits
        held_out, rest = (splits["train"].subset(indices) for indices in self.hold_out(splits["train"]))
        if not len(rest):
            raise UserError(f"no image is left for training: data.validation={self.validation} is too large")
        return {**splits, "train": rest, "val": held_out}

    def keep_features(self, encode: Callable[[Tensor], Tensor], network: str) -> None:
        """Give, in place of images, what a frozen network makes of them: computed once and kept.

        Args:
            encode: uint8 images [n, C, H, W] to features [n, ...].
            network: a fingerprint of that network with its weights.
        """
        for name, split in self.splits.items():
            parts = [network, self._identity(split), name]
            identity = blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()
            self.splits[name] = replace(split, images=kept_features(split.images, encode, identity))

    def train_dataloader(self) -> Batches:
        one_pass = self.trainer is not None and getattr(self.trainer.lightning_module, "one_pass", False)
        return self._batches("train", None if one_pass else self.seed)

    def val_dataloader(self) -> Batches:
        return self._batches("val", None)

    def test_dataloader(self) -> Batches:
        return self._batches("test", None)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        seed = batch.pop("seed", None)  # only training batches carry one
        return batch if seed is None else self.augmentation(batch, seed)

    def facts(self) -> dict[str, Any]:
        """What is there, once ``setup`` has run: shape, images a split, statistics."""
        spec = self.image_spec
        rounded = {"mean": spec.mean, "std": spec.std}
        return {
            "shape": list(spec.shape),
            **{name: len(self.splits[name]) for name in ("train", "val", "test") if name in self.splits},
            **{name: [round(value, 4) for value in values] for name, values in rounded.items()},
        }

    def _batches(self, name: str, seed: int | None) -> Batches:
        split, trainer = self.splits[name], self.trainer
        if trainer is None:
            return Batches(split, self.batch_size, seed=seed)
        if isinstance(split.images, ImagesInMemory):
            split = replace(split, images=split.images.on_device(trainer.strategy.root_device))
        return Batches(
            split, self.batch_size, trainer.global_rank, trainer.world_size, seed,
            partial(position_of, trainer),
        )  # fmt: skip

    def _resized(self, split: Split) -> Split:
        if not isinstance(split.images, ImagesInMemory) or split.images.pixels.shape[-2:] == (self.size, self.size):
            return split
        return replace(split, images=ImagesInMemory(resize(split.images.pixels, self.size)))

    def _identity(self, split: Split) -> list[Any]:
        """What tells the images of a split from others."""
        return [type(self).__qualname__, self.fingerprint, list(self.image_spec.shape), self.validation, self.seed, len(split)]

    def _statistics(self, train: Split) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Per-channel mean and standard deviation of the training images scaled to [0, 1], kept once computed."""
        identity = self._identity(train)
        fingerprint = blake2b(json.dumps(identity).encode() + train.labels.numpy().tobytes(), digest_size=12).hexdigest()
        path = cache_folder() / "statistics" / f"{fingerprint}.json"
        try:
            kept = json.loads(path.read_text())
            return tuple(kept["mean"]), tuple(kept["std"])
        except (OSError, ValueError, KeyError, TypeError):
            # 32 MB at a time: worker processes hold several such parts at once
            mean, std = channel_statistics(train.images, max(1, 2**25 // math.prod(self.image_spec.shape)))
        with suppress(OSError):  # a read-only cache costs time at the next start, nothing else
            replace_file(path, json.dumps({"of": identity, "mean": mean, "std": std}).encode())
        return mean, std


class ImageData(PictureData):
    """A classification data set. A subclass says what its images are (``describe``) and reads them (``read``).

    Args:
        validation: what is held out of the training images for validation, class by class: a share of them, or one of k
            folds, as in ``2/5``. The folds of one seed share no image and together are all of them.
    """

    task = "classification"

    def __init__(self, batch_size: int, seed: int, *, root: str | None, size: int, augment: str, validation: float | str) -> None:
        self.fold = _parse_fold(validation)
        if self.fold is None and not 0 <= float(validation) < 1:
            raise UserError(f"data.validation={validation}: must be at least 0 and less than 1")
        super().__init__(batch_size, seed, root=root, size=size, augment=augment, validation=validation)

    @property
    def class_count(self) -> int:
        return len(self.spec.classes)

    def adopt(self, spec: ImageSpec, name: str) -> None:
        """Be data for a model that was trained with ``spec``; ``name`` is this data's, for the message.

        Raises:
            UserError: other classes or another shape.
        """
        if self.spec.classes != spec.classes:
            raise UserError(
                f"{name} has the classes {some(self.spec.classes)}, "
                f"the model knows {some(spec.classes)}: test it on data with its own classes"
            )
        if self.spec.shape != spec.shape:
            raise UserError(f"{name} has images of {self.spec.shape}, the model takes {spec.shape}")

    def with_validation(self, splits: dict[str, Split]) -> dict[str, Split]:
        if self.fold and "val" in splits:
            raise UserError(
                f"data.validation={self.validation}: the data brings validation images of its own, so it has no folds"
            )
        return super().with_validation(splits)

    def hold_out(self, split: Split) -> tuple[Tensor, Tensor]:
        labels, seed = split.labels, derive_seed(self.seed, "val")
        if self.fold is None:
            return split_by_class(labels, float(self.validation), seed)
        smallest = int(torch.bincount(labels)[labels.unique()].min())
        if smallest < self.fold[1]:
            raise UserError(f"data.validation={self.validation}: a class has only {smallest} images, too few for so many folds")
        return fold_by_class(labels, *self.fold, seed)

    def facts(self) -> dict[str, Any]:
        """What is there, once ``setup`` has run: classes, shape, images a split, statistics."""
        return {"classes": list(self.spec.classes), **super().facts()}


def _of_pictures(spec: Spec, **changes: Any) -> Spec:
    """The spec with changes to what it says of pictures."""
    return replace(spec, **changes) if isinstance(spec, ImageSpec) else replace(spec, image=replace(spec.image, **changes))


def channel_statistics(images: Images, part: int = 1024) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of pixels scaled to [0, 1].

    Computed from exact integer counts of the 256 values, ``part`` images at a time, so they depend neither on order nor on
    precision.
    """
    counts: Tensor | int = 0
    for pixels in images.batches(iter(torch.arange(len(images)).split(part))):
        channels = pixels.transpose(0, 1).flatten(1)
        counts = counts + torch.stack([torch.bincount(channel, minlength=256) for channel in channels])
    values = torch.arange(256, dtype=torch.float64) / 255
    total = counts.sum(1)
    mean = (counts * values).sum(1) / total
    variance = (counts * (values - mean[:, None]) ** 2).sum(1) / total
    # a constant channel would be divided by nothing but the error of rounding
    std = torch.where((counts > 0).sum(1) > 1, variance.sqrt(), torch.ones_like(variance))
    return tuple(mean.tolist()), tuple(std.tolist())


def split_by_class(labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of a random share of each class, and of the rest, both ascending.

    The same seed gives the same split on every machine. A share above zero takes at least one of each class that has two,
    and leaves at least one.
    """
    generator = torch.Generator().manual_seed(seed)
    taken = []
    for label in labels.unique():
        members = (labels == label).nonzero()[:, 0]
        count = min(max(round(share * len(members)), 1), len(members) - 1) if share > 0 else 0
        taken.append(members[torch.randperm(len(members), generator=generator)[:count]])
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    chosen[torch.cat(taken)] = True
    return chosen.nonzero()[:, 0], (~chosen).nonzero()[:, 0]


def fold_by_class(labels: Tensor, fold: int, folds: int, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of fold number ``fold``, from 1, and of the rest, both ascending.

    The folds of one seed are disjoint and cover everything; each class is spread over them as evenly as its number allows.
    """
    from sklearn.model_selection import StratifiedKFold  # a second to import

    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed % 2**32)
    rest, held_out = list(splitter.split(labels, labels))[fold - 1]
    return torch.from_numpy(held_out), torch.from_numpy(rest)


def _parse_fold(validation: float | str) -> tuple[int, int] | None:
    """(i, k) of ``i/k``, or None for a share."""
    text = str(validation)
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found:
        try:
            float(text)
        except ValueError:
            raise UserError(f"data.validation={text}: must be a share, as in 0.1, or a fold, as in 2/5") from None
        return None
    fold, folds = map(int, found.groups())
    if folds < 2 or not 1 <= fold <= folds:
        raise UserError(f"data.validation={text}: must be a fold from 1/{folds} to {folds}/{folds}, of at least two")
    return fold, folds


def resize(pixels: Tensor, size: int) -> Tensor:
    """uint8 [N, C, H, W] scaled to size x size, bilinear, smoothed when it shrinks."""
    parts = [
        F.interpolate(part.float(), (size, size), mode="bilinear", antialias=True, align_corners=False).round_().clamp_(0, 255)
        for part in pixels.split(256)
    ]
    return torch.cat([part.to(torch.uint8) for part in parts])
