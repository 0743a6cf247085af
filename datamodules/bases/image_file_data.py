"""The base of data in image files of any size and format with labels of any kind, held in memory or read batch by batch."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from zoo.core.errors import UserError, some
from zoo.core.randomness import derive_seed
from zoo.core.ranks import rank_zero_print
from zoo.datamodules.bases.images import SAMPLED, ImageData
from zoo.datamodules.bases.options import require_at_least, require_fraction
from zoo.datamodules.files.decoded import MIXED_SIZE, Cache, Content, common_size, identity_of_files, kept_content
from zoo.datamodules.files.digests import DigestTable, NotedDigests
from zoo.datamodules.files.image_files import ImageFiles, RandomCrops, cores
from zoo.datamodules.files.image_tree import NAMED, ImageFile, Tree
from zoo.datamodules.files.pixel_format import PixelFormat, is_deep, is_gray
from zoo.datamodules.files.value_range import Values, measured_values, sampled_modes
from zoo.datamodules.loading.held_out import split_by_name
from zoo.datamodules.loading.splits import ImageLoader, ImagesInMemory, Split
from zoo.registry.augmentations import parse_augmentation
from zoo.registry.registry import current_registry
from zoo.spec import Crop, ImageSpec, is_range


class ImageFileData(ImageData):
    """Image files with a label each. A subclass implements ``list_files`` and ``build_spec``.

    Missing splits are drawn from the training images. Files that cannot be read are skipped with a warning.

    Args:
        size: height and width in pixels; 0 keeps the size of the images if all have the same, and is 224 otherwise.
        channels: 1 for gray, 3 for RGB; 0 for one if all images are gray, by the headers of 2,000 of them, and three otherwise.
        value_range: values of deep gray images, those of more than 8 bits, that become 0 and 255, as in [0, 4095]; empty for the
            lowest and the highest in the training images.
        validation: fraction of the training images held out if there are none for validation, or one of k folds, as in 2/5.
        test: fraction of the images held out for testing if there are none for it.
        strict: fail if an image cannot be read, instead of skipping it.
        memory_gb: decoded images up to this many gigabytes are held in memory; beyond that, they are read batch by batch.
        keep: keep images that do not fit in memory decoded in the cache, if its disk suffices; else each epoch decodes them.
        stored_size: shorter side of images that are kept for resized-crop, in pixels; 0 for 8/7 of the size.
        workers: threads that decode images that do not fit in memory; 0 for one a core.
        crop: fit resizes the largest center crop; center resizes the shorter side to size / crop_pct, squash both sides, and both
            then crop the center.
        crop_pct: fraction of the resized image that is kept, with center and squash.
        interpolation: interpolation of resizing.
    """

    def __init__(
        self,
        batch_size: int,
        seed: int,
        channels: Literal[0, 1, 3] = 0,
        value_range: list[float] = [],  # noqa: B006
        test: float = 0.1,
        strict: bool = False,
        memory_gb: float = 2.0,
        keep: bool = True,
        stored_size: int = 0,
        workers: int = 0,
        crop: Literal["fit", "center", "squash"] = "fit",
        crop_pct: float = 1.0,
        interpolation: Literal["bilinear", "bicubic", "nearest", "lanczos"] = "bilinear",
        **options: Any,
    ) -> None:
        super().__init__(batch_size, seed, **options)
        require_fraction(test=test)
        if not 0 < crop_pct <= 1:
            raise UserError(f"data.crop_pct={crop_pct}: must be more than 0 and at most 1")
        require_at_least(0, stored_size=stored_size, workers=workers)
        if value_range and not is_range(value_range):
            raise UserError(f"data.value_range={value_range}: give the lowest and the highest value, as in [0,4095]")
        self.channels, self.value_range = channels, tuple(map(float, value_range))
        self._given_range = self.value_range
        self.test, self.strict, self.memory_gb = test, strict, memory_gb
        self.keep, self.stored_size, self.workers = keep, stored_size, workers
        self.crop = Crop(crop, crop_pct, interpolation)
        self._whole = False
        self.notes: list[str] = []  # what is left out or lacking, one line each

    @abstractmethod
    def list_files(self, whole: bool) -> Tree:
        """The image files of each split with their classes, or what stands for them, not opened yet.

        Args:
            whole: they are for a test on all of them, for which one class may do.

        Raises:
            UserError: there are none, or too few classes.
        """

    def note_what_is_lacking(self) -> None:
        """Note what the splits lack, once they are there."""

    def require_readable(self, left: dict[str, set[int]]) -> None:
        """Check what is left of the labels in the tree, for each split, without the images that cannot be read.

        Raises:
            UserError: too little.
        """

    @cached_property
    def tree(self) -> Tree:
        """What ``list_files`` gives, without what ``keep_only`` leaves out."""
        tree = self.list_files(self._whole)
        if self._kept is not None:
            tree = tree.restricted(self.is_kept)
        for note in tree.notes:
            self._note(note)
        return tree

    def _note(self, text: str) -> None:
        """Warn, and keep the text in ``notes``."""
        self.notes.append(text)
        rank_zero_print(f"warning: {self.source}: {text}")

    @cached_property
    def fingerprint(self) -> str:
        """Changes with the files, with their content, with size, crop and channels."""
        return identity_of_files(self.tree.paths(), (self.size, self.size), self.crop, PixelFormat(self._channels))

    def summarize(self) -> dict[str, Any]:
        images = self.splits["train"].images
        unreadable = images.failed_files() if isinstance(images, ImageFiles) else map(str, self.unreadable)
        value_range = {"value_range": list(self.spec.value_range)} if self.spec.value_range else {}
        return {**super().summarize(), **value_range, "unreadable": list(unreadable)}

    def download(self) -> None:
        if self._fits_in_memory:
            _ = self._content  # decoded now, by one process, and found in the cache by the others

    def test_on_everything(self) -> None:
        self._whole = True

    def use_preprocessing(self, spec: ImageSpec) -> None:
        self.channels = self.channels or spec.channels
        self.value_range, self._values = self.value_range or spec.value_range, None
        self.crop = spec.crop if self.crop == Crop() else self.crop
        if not self.size and spec.height == spec.width and self._shape != (spec.height, spec.width):
            self.size = spec.height  # only where images have others, as it is part of the key of what is cached
            del self._shape, self.fingerprint

    def build_loader(self, split: str) -> ImageLoader:
        limit = getattr(self.trainer, f"limit_{split}_batches", 1.0)
        if split != "train" and (isinstance(limit, int) or limit < 1):  # shuffled, since files come class by class
            generator = torch.Generator().manual_seed(derive_seed(0, "part", split))
            self.splits[split] = self.splits[split].subset(torch.randperm(len(self.splits[split]), generator=generator))
        return super().build_loader(split)

    def setup(self, stage: str | None = None) -> None:
        if self.splits:
            return
        super().setup(stage)
        self._spec = replace(self.spec, value_range=self._pixel_format.value_range)
        for text in self._range_warnings():
            self._note(text)
        self.augmentation.transforms = self.augmentation.transforms[_transforms_of_reading(self.splits["train"]) :]
        self.note_what_is_lacking()

    def load_splits(self) -> dict[str, Split]:
        splits = self._in_memory() if self._fits_in_memory else self._in_files()
        if self._whole and "test" not in splits:
            rank_zero_print(f"{self.source}: has no test split: testing on all {len(splits['train']):,} images")
            return dict.fromkeys(("train", "val", "test"), splits["train"])
        return self._with_test(splits)

    def _in_memory(self) -> dict[str, Split]:
        (readable, digests, pixels), first = self._content, 0
        digests = digests[readable]
        splits = {}
        for name, files in self.tree.readable(readable):
            own = slice(first, first + len(files))
            labels = torch.tensor([file.label for file in files])
            paths = tuple(file.path for file in files)
            splits[name] = Split(ImagesInMemory(pixels[own]), labels, files=paths, digests=digests[own])
            first += len(files)
        del self._content  # the splits hold what is needed of it
        return splits

    def _in_files(self) -> dict[str, Split]:
        paths, counts = self.tree.paths(), [len(files) for files in self.tree.files.values()]
        labels = torch.from_numpy(self.tree.labels().astype(np.int64))
        workers = self.workers or max(1, cores() // getattr(self.trainer, "num_devices", 1))
        table, pixels = DigestTable(paths), self._pixel_format
        images = ImageFiles(
            paths, self._shape, self.crop, None, labels, self.strict, self.keep, workers, pixel_format=pixels, digests=table
        )
        everything = Split(images, labels, files=paths, digests=NotedDigests(table))
        parts = torch.arange(len(labels)).split(counts)
        return {name: everything.subset(indices) for name, indices in zip(self.tree.files, parts, strict=True)}

    def _with_test(self, splits: dict[str, Split]) -> dict[str, Split]:
        """Add a test split, held out of the training images, if there is none."""
        if "test" in splits:
            return splits
        train = splits["train"]
        chosen, rest = self._hold_out_test(train.files)
        return {**splits, "train": train.subset(rest), "test": train.subset(chosen)}

    def _hold_out_test(self, paths: Sequence[str]) -> tuple[Tensor, Tensor]:
        return split_by_name(self.names(paths), self.test, derive_seed(self.seed, "testing"), self.source, "data.test")

    def with_validation(self, splits: dict[str, Split]) -> dict[str, Split]:
        splits = super().with_validation(splits)
        return {**splits, "train": self._with_random_crops(splits["train"])}

    def _with_random_crops(self, train: Split) -> Split:
        """Crop and flip images when they are read if the augmentation begins with that, as the whole image is there then."""
        transforms = parse_augmentation(current_registry(), self.augment)
        names = [entry.name for entry, _ in transforms]
        if names[:1] != ["resized-crop"] or not isinstance(train.images, ImageFiles):
            return train
        stored = self.stored_size or math.ceil(max(self._shape) * 8 / 7)
        crops = RandomCrops(transforms[0][1]["min_scale"], stored, flip=names[1:2] == ["hflip"])
        return replace(train, images=replace(train.images, random_crops=crops))

    @cached_property
    def _shape(self) -> tuple[int, int]:
        """(height, width) after resizing; if no size is given, that of all images, or ``MIXED_SIZE``."""
        if self.size:
            return self.size, self.size
        return Cache(self.fingerprint).shape() or common_size(self.tree.paths()) or (MIXED_SIZE, MIXED_SIZE)

    @cached_property
    def _modes(self) -> set[str]:
        return sampled_modes(self.tree.paths())

    @cached_property
    def _channels(self) -> int:
        return self.channels or (1 if self._modes and all(map(is_gray, self._modes)) else 3)

    @cached_property
    def _pixel_format(self) -> PixelFormat:
        """What images are converted to; this decodes deep ones to find their range."""
        return PixelFormat(self._channels, self._values.value_range if self._values else self.value_range)

    @cached_property
    def _values(self) -> Values | None:
        """Of deep training images, of ``SAMPLED`` of them if the images do not fit in memory; None if the range is known."""
        return None if self.value_range else self._measured()

    def _range_warnings(self) -> Iterable[str]:
        if self._given_range and (measured := self._measured()):
            return measured.warnings_of(self._given_range)
        return self._values.warnings() if self._values else ()

    def _measured(self) -> Values | None:
        if not any(map(is_deep, self._modes)):
            return None
        files = self._training_files()
        if not self._fits_in_memory and len(files) > SAMPLED:
            files = [files[place * len(files) // SAMPLED] for place in range(SAMPLED)]
        return measured_values([file.path for file in files], [self.tree.classes[file.label] for file in files])

    def _training_files(self) -> list[ImageFile]:
        """The files that will be left for training."""
        files = self.tree.files["train"]
        if "test" not in self.tree.files:
            files = [files[index] for index in self._hold_out_test([file.path for file in files])[1].tolist()]
        if "val" not in self.tree.files:
            split = Split(None, torch.empty(0), files=[file.path for file in files])
            files = [files[index] for index in self.hold_out(split)[1].tolist()]
        return files

    @property
    def _fits_in_memory(self) -> bool:
        count = sum(map(len, self.tree.files.values()))
        return count * self._channels * math.prod(self._shape) <= self.memory_gb * 1e9

    @cached_property
    def _content(self) -> Content:
        """The decoded images, if they fit in memory, and which files can be read."""
        paths, shape = self.tree.paths(), self._shape
        key = "-".join(map(str, (self.fingerprint, *self._pixel_format.value_range)))
        content = kept_content(paths, shape, self.memory_gb, key, self.crop, self._pixel_format)
        self._report(paths, content.readable)
        return content

    def _report(self, paths: Sequence[str], readable: Tensor) -> None:
        """Warn about files that cannot be read.

        Raises:
            UserError: too little is left, or ``strict`` is set.
        """
        self.unreadable = [Path(paths[index]) for index in (~readable).nonzero()[:, 0].tolist()]
        if self.unreadable and self.strict:
            count = f" ({len(self.unreadable):,} such files)" if len(self.unreadable) > 1 else ""
            raise UserError(f"{self.unreadable[0]}: is not a readable image{count}: remove it, or set data.strict=false")
        left = {name: {file.label for file in files} for name, files in self.tree.readable(readable)}
        self.require_readable(left)
        if unread := [name for name, labels in left.items() if not labels]:
            raise UserError(f"{self.source}: no image of {unread[0]} can be read")
        if self.unreadable:
            names = some(self.unreadable, NAMED)
            count = f"{len(self.unreadable):,} of {len(paths):,} images"
            rank_zero_print(f"warning: {count} cannot be read and are skipped: {names}")


def _transforms_of_reading(split: Split) -> int:
    """How many of the first transforms are applied to images when they are read."""
    crops = split.images.random_crops if isinstance(split.images, ImageFiles) else None
    return 0 if crops is None else 1 + crops.flip
