"""The base of all image data sets: files are fetched, read, split, measured and handed to Lightning as batches."""

from __future__ import annotations

import json
import math
from abc import abstractmethod
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import torch
from torch import Tensor

from zoo.core.errors import UserError, some
from zoo.core.files import cache_folder, replace_file
from zoo.core.randomness import derive_seed
from zoo.datamodules.files.features import cached_features
from zoo.datamodules.loading.augment import Augmentation, Batch
from zoo.datamodules.loading.held_out import fold_by_class, parse_fold, split_by_class
from zoo.datamodules.loading.pixels import channel_statistics, resize
from zoo.datamodules.loading.position import position_of
from zoo.datamodules.loading.splits import Batches, ImagesInMemory, Split
from zoo.spec import ImageSpec, Spec, image_spec


class ImageData(L.LightningDataModule):
    """Pictures with something to learn of each: the base of all such data sets, whatever it is.

    A subclass says what they are (``build_spec``) and reads them (``load_splits``).

    Args:
        batch_size: images a batch on each device.
        seed: of splits, order and augmentation.
        root: the folder where the files lie or are put; the default is bestiary's cache.
        size: scale images to this many pixels a side; 0 keeps them.
        augment: ``none``, ``light``, ``standard``, ``strong``, or a description (see ``zoo.datamodules.loading.augment``).
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
    def build_spec(self) -> Spec:
        """What the pictures are before ``size`` is applied, without downloading anything."""

    @abstractmethod
    def load_splits(self) -> dict[str, Split]:
        """The splits ``train``, ``test`` and, if the data set has one of its own, ``val``."""

    def download(self) -> None:
        """Bring the files to this machine; the default is that there is nothing to bring."""

    # ------------------------------------------------------------------ what the rest uses

    @abstractmethod
    def hold_out(self, split: Split) -> tuple[Tensor, Tensor]:
        """Indices of what is held out of the training images for validation, and of the rest."""

    @property
    def spec(self) -> Spec:
        """What a model must know. Statistics are those of the training images once ``setup`` has run."""
        if self._spec is None:
            spec = self.build_spec()
            self._spec = _of_pictures(spec, height=self.size, width=self.size) if self.size else spec
        return self._spec

    @property
    def image_spec(self) -> ImageSpec:
        """What the pictures are, whatever is to be learned of them."""
        return image_spec(self.spec)

    def prepare_data(self) -> None:
        if not self.splits:  # Lightning calls it again, when all is there
            self.download()

    def setup(self, stage: str | None = None) -> None:
        if self.splits:
            return
        splits = self.load_splits()
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

    def cache_features(self, encode: Callable[[Tensor], Tensor], network: str) -> None:
        """Give, in place of images, what a frozen network makes of them: computed once and kept.

        Args:
            encode: uint8 images [n, C, H, W] to features [n, ...].
            network: a fingerprint of that network with its weights.
        """
        for name, split in self.splits.items():
            self.splits[name] = replace(split, images=cached_features(split.images, encode, network))

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

    def summarize(self) -> dict[str, Any]:
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

    def _statistics(self, train: Split) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Per-channel mean and standard deviation of the training images scaled to [0, 1], kept once computed."""
        path = cache_folder() / "statistics" / f"{train.images.identity()}.json"
        try:
            kept = json.loads(path.read_text())
            return tuple(kept["mean"]), tuple(kept["std"])
        except (OSError, ValueError, KeyError, TypeError):
            # 32 MB at a time: worker processes hold several such parts at once
            mean, std = channel_statistics(train.images, max(1, 2**25 // math.prod(self.image_spec.shape)))
        with suppress(OSError):  # a read-only cache costs time at the next start, nothing else
            replace_file(path, json.dumps({"of": type(self).__qualname__, "mean": mean, "std": std}).encode())
        return mean, std


class ClassificationData(ImageData):
    """A classification data set. A subclass says what its images are (``build_spec``) and reads them (``load_splits``).

    Args:
        validation: what is held out of the training images for validation, class by class: a share of them, or one of k
            folds, as in ``2/5``. The folds of one seed share no image and together are all of them.
    """

    task = "classification"

    def __init__(self, batch_size: int, seed: int, *, root: str | None, size: int, augment: str, validation: float | str) -> None:
        self.fold = parse_fold(validation)
        if self.fold is None and not 0 <= float(validation) < 1:
            raise UserError(f"data.validation={validation}: must be at least 0 and less than 1")
        super().__init__(batch_size, seed, root=root, size=size, augment=augment, validation=validation)

    @property
    def class_count(self) -> int:
        return len(self.spec.classes)

    def require_compatible(self, spec: ImageSpec, name: str) -> None:
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

    def summarize(self) -> dict[str, Any]:
        """What is there, once ``setup`` has run: classes, shape, images a split, statistics."""
        return {"classes": list(self.spec.classes), **super().summarize()}


def _of_pictures(spec: Spec, **changes: Any) -> Spec:
    """The spec with changes to what it says of pictures."""
    return replace(spec, **changes) if isinstance(spec, ImageSpec) else replace(spec, image=replace(spec.image, **changes))
