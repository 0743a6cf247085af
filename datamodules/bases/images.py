"""The base of all image data: download, load, split, compute statistics, and batch."""

from __future__ import annotations

import json
import math
import os
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from hashlib import blake2b
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.core.errors import UserError
from zoo.core.files import cache_folder, expanded, replace_file
from zoo.core.memory import require_memory
from zoo.core.printing import composed
from zoo.core.randomness import derive_seed
from zoo.core.violation import require
from zoo.datamodules.bases.data_module import DataModule, FileContent, Preview
from zoo.datamodules.files.decoded import locked
from zoo.datamodules.files.digests import NotedDigests
from zoo.datamodules.files.features import cached_features
from zoo.datamodules.files.image_files import ImageFiles
from zoo.datamodules.loading.augmentations.augmentation import Augmentation
from zoo.datamodules.loading.held_out import split_at_random, split_by_name
from zoo.datamodules.loading.loader import Batch, placement
from zoo.datamodules.loading.pixels import channel_statistics, resize
from zoo.datamodules.loading.splits import ImageLoader, ImagesInMemory, Split
from zoo.spec import ImageSpec, Spec, image_spec

SAMPLED = 2000  # images for the statistics of a set that is not in memory
LARGE = 96  # pixels of the shorter side from which images are large
FOR_LARGE_IMAGES = {"standard": "resized-crop:0.35,hflip", "strong": "resized-crop:0.08,hflip,trivial,erasing:0.25"}
PREVIEWED, PREVIEWED_VERSIONS = 8, 4  # images, and augmented versions of each


class ImageData(DataModule):
    """Images and a target for each: the base of image data for every task.

    A subclass implements ``build_spec`` and ``load_splits``, and ``download`` if there is something to fetch.

    Args:
        batch_size: samples a batch on each device.
        seed: of splits, order and augmentation.
        root: the folder of the files, or to download to; default: bestiary's cache.
        size: height and width in pixels to which images are resized; 0 keeps their size.
        augment: none, light, standard, strong, or a list of transforms, as in crop:4,hflip.
        validation: fraction of the training images held out for validation, if the data has no validation split; of classified
            images also one of k folds, as in 2/5.

    Raises:
        UserError: a negative size, or an augmentation that does not exist.
    """

    light = "hflip"  # every pixel stays in its place, or in its mirror image's
    standard = "crop:4,hflip"
    strong = "crop:4,hflip,trivial,cutout:8"
    class_count: int = 1  # for augmentations that mix classes
    sampling: str = "natural"  # data with classes may draw them equally often

    def __init__(
        self,
        batch_size: int,
        seed: int,
        root: str = "",
        size: int = 0,
        augment: str = "standard",
        validation: float | str = 0.1,
    ) -> None:
        super().__init__()
        if size < 0:
            raise UserError(f"data.size={size}: must be 0 (original size) or a number of pixels")
        require_memory(f"data.size={size}", batch_size * 3 * size * size, f"{batch_size} images of {size}x{size}")
        self.batch_size, self.seed, self.size, self.validation = batch_size, seed, size, validation
        self.root = expanded(root) if root else None
        self.augment = augment
        Augmentation(self.transforms_of(augment, size), classes=1)  # a wrong description is refused now, not after a download
        self._spec: Spec | None = None
        self._kept: frozenset[str] | None = None
        self.unreadable: list[Path] = []

    # ------------------------------------------------------------------ for subclasses to implement

    @abstractmethod
    def build_spec(self) -> Spec:
        """The spec at the images' own size, before anything is downloaded."""

    @abstractmethod
    def load_splits(self) -> dict[str, Split]:
        """The split ``train`` and, if the data set has them, ``val`` and ``test``.

        Validation samples are else held out of the training samples, and testing is else on the validation samples.
        """

    def hold_out(self, split: Split) -> tuple[Tensor, Tensor]:
        """Indices of the training images held out for validation, and of the rest: of files by name, else a random fraction.

        Raises:
            UserError: no file is held out, or none is left.
        """
        if not split.files:
            return split_at_random(len(split), float(self.validation), derive_seed(self.seed, "val"))
        seed = derive_seed(self.seed, "hold out")
        return split_by_name(self.names(split.files), self.validation, seed, self.source, "data.validation")

    def names(self, paths: Sequence[str]) -> list[str]:
        """What identifies each file, wherever ``root`` is: its path below it, with slashes, in composed Unicode."""
        return [composed(path.removeprefix(f"{self.root}{os.sep}").replace(os.sep, "/")) for path in paths]

    @property
    def source(self) -> object:
        """What the images come from, in messages."""
        return self.root

    # ------------------------------------------------------------------ for models, tasks and commands

    @property
    def spec(self) -> Spec:
        """What a model must know of the data; ``setup`` computes mean and standard deviation of the training images."""
        if self._spec is None:
            spec = self.build_spec()
            self._spec = _with_image(spec, height=self.size, width=self.size) if self.size else spec
        return self._spec

    @property
    def image_spec(self) -> ImageSpec:
        """The part of the spec that is about images."""
        return image_spec(self.spec)

    @classmethod
    def transforms_of(cls, augment: str, side: int) -> str:
        """The transforms of a preset for images of ``side`` pixels; what is no preset is returned unchanged.

        The presets here are for small images. In large ones a shift by four pixels is nothing, and ``standard`` and ``strong``
        crop boxes of different sizes. A preset of a subclass is for all of its images.
        """
        if augment not in ("light", "standard", "strong"):
            return augment
        own: str = getattr(cls, augment)
        return FOR_LARGE_IMAGES.get(augment, own) if side >= LARGE and own == getattr(ImageData, augment) else own

    def setup(self, stage: str | None = None) -> None:
        if self.splits:
            return
        splits = self.load_splits()
        if self.size:
            count = sum(len(split) for split in splits.values() if isinstance(split.images, ImagesInMemory))
            shape = self.image_spec.shape
            require_memory(f"data.size={self.size}", count * math.prod(shape), f"{count:,} images of {shape[1]}x{shape[2]}")
            splits = {name: self._resized(split) for name, split in splits.items()}
        self.augment = self.transforms_of(self.augment, min(self.image_spec.shape[1:]))
        self.splits = self.with_validation(splits)
        self.splits.setdefault("test", self.splits["val"])
        mean, std = self._statistics(self.splits["train"])
        self._spec = _with_image(self.spec, mean=mean, std=std)
        self.augmentation = Augmentation(self.augment, self.class_count, min(self.image_spec.shape[1:]))

    def with_validation(self, splits: dict[str, Split]) -> dict[str, Split]:
        """Add a validation split, held out of the training images, if there is none.

        Raises:
            UserError: no image is left for training.
        """
        if "val" in splits:
            return splits
        held_out, rest = (splits["train"].subset(indices) for indices in self.hold_out(splits["train"]))
        if not len(rest):
            raise UserError(f"no image is left for training: data.validation={self.validation} is too large")
        return {**splits, "train": rest, "val": held_out}

    def files(self, content: bool = True) -> dict[str, Iterable[FileContent]]:
        found: dict[str, Iterable[FileContent]] = {}
        for name in ("train", "val", "test"):
            split = self.splits[name]
            if split.digests is not None and not (name == "test" and split is self.splits["val"]):
                found[name] = self._contents(split, content or isinstance(split.digests, Tensor))
        unreadable = self.names(list(map(str, self.unreadable)))
        return {**found, "unreadable": [FileContent(name, b"") for name in unreadable]} if found else {}

    def _contents(self, split: Split, is_known: bool) -> Iterator[FileContent]:
        """The files of a split; those of millions of samples are not held at once, unless there is text about them."""
        texts = self.text_digests(split)
        samples = map(FileContent, self.names(split.files), split.content() if is_known else repeat(b""), texts or repeat(b""))
        yield from _by_file(samples) if texts else samples

    def text_digests(self, split: Split) -> list[bytes]:
        """A digest of the text of each sample; none where there is no text."""
        return []

    def keep_only(self, names: Collection[str]) -> None:
        self._kept = frozenset(names)

    def is_kept(self, path: str) -> bool:
        """Whether a file is not left out by ``keep_only``."""
        if self._kept is None:
            return True
        (name,) = self.names([path])
        if name not in self._kept:
            self.added.append(name)
        return name in self._kept

    def exclude_from_test(self, digests: Collection[bytes]) -> tuple[int, int]:
        split = self.splits["test"]
        if isinstance(split.digests, NotedDigests):
            self.splits["test"] = replace(split, excluded=frozenset(digests))
            return 0, len(split)
        chosen = torch.tensor([digest not in digests for digest in split.content()])
        if chosen.all():
            return 0, len(split)
        if not chosen.any():
            raise _all_excluded(split)
        self.splits["test"] = split.subset(chosen.nonzero()[:, 0])
        return split.count_images() - self.splits["test"].count_images(), split.count_images()

    def excluded_in_test(self) -> tuple[int, int]:
        split = self.splits["test"]
        if not split.excluded:
            return 0, len(split)
        excluded = split.is_excluded(torch.arange(len(split)))
        if excluded.all():
            raise _all_excluded(split)
        return split.subset(excluded.nonzero()[:, 0]).count_images(), split.count_images()

    def cache_features(self, encode: Callable[[Tensor], Tensor], network: str) -> None:
        """Replace the images by their features from a frozen network, computed once and cached.

        Args:
            encode: uint8 images [n, C, H, W] to features [n, ...].
            network: a fingerprint of that network with its weights.
        """
        for name, split in self.splits.items():
            self.splits[name] = replace(split, images=cached_features(split.images, encode, network))

    def build_loader(self, split: str) -> ImageLoader:
        one_pass = self.trainer is not None and getattr(self.trainer.lightning_module, "one_pass", False)
        seed = self.seed if split == "train" and not one_pass else None
        chosen = self.splits[split]
        if self.trainer is not None and isinstance(chosen.images, ImagesInMemory):
            chosen = replace(chosen, images=chosen.images.on_device(self.trainer.strategy.root_device))
        place = placement(self.trainer, seed is not None)
        return ImageLoader(chosen, self.batch_size, seed, balanced=self.sampling == "balanced", **place)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        seed = batch.pop("seed", None)  # only training batches carry one
        return batch if seed is None else self.augmentation(batch, seed)

    def summarize(self) -> dict[str, Any]:
        """Shape, images in each split, and statistics, once ``setup`` has run; of ``test`` only if it is not ``val`` again."""
        spec, what = self.image_spec, "points" if self.image_spec.are_points else "images"
        rounded = {"mean": spec.mean, "std": spec.std}
        names = ("train", "val", "test") if self.splits["test"] is not self.splits["val"] else ("train", "val")
        return {
            "shape": list(spec.shape),
            **{f"{name}_{what}": self.splits[name].count_images() for name in names},
            **{name: [round(value, 4) for value in values] for name, values in rounded.items()},
        }

    def require_compatible(self, spec: Spec, name: str) -> None:
        own, wanted = self.image_spec, image_spec(spec)
        if own.shape != wanted.shape:
            given, taken = (
                "points in the plane" if each.are_points else f"images of {'x'.join(map(str, each.shape))}"
                for each in (own, wanted)
            )
            is_size = own.channels == wanted.channels and wanted.height == wanted.width and not wanted.are_points
            hint = f": set data.size={wanted.height}" if is_size and hasattr(self, "size") else ""
            raise UserError(f"{name} has {given}, the model takes {taken}{hint}")

    def preview_texts(self, chosen: Tensor) -> list[list[str]]:
        """The texts of each of the training images at these indices, as sentences."""
        return []

    def preview(self) -> Preview:
        split = self.splits["train"]
        chosen, captions = self._previewed(split)
        images = next(split.images.batches(iter([chosen])))
        chosen = split.images.used(chosen)
        # each version is a batch of its own, in which every image has its own random parameters
        versions = range(0 if self.augment == "none" else PREVIEWED_VERSIONS)
        drawn = [next(split.images.batches(iter([chosen]), derive_seed(self.seed, "crops", version))) for version in versions]
        lines = [f"{number}  {'   '.join(texts)}" for number, texts in enumerate(self.preview_texts(chosen), 1)]
        shows = f"samples in the first row, augmented ({self.augment}) below" if versions else "samples"
        if self.image_spec.are_points:
            shows = "training and test points"
        augmented = [self._augmented(each, split.labels[chosen], version) for version, each in zip(versions, drawn, strict=True)]
        return Preview(lines, images, captions, augmented, shows)

    def _previewed(self, split: Split) -> tuple[Tensor, list[str]]:
        """Indices of training images to preview, and their captions."""
        chosen = torch.arange(min(PREVIEWED, len(split)))
        return chosen, [str(index + 1) for index in chosen.tolist()]

    def _augmented(self, images: Tensor, labels: Tensor, version: int) -> Tensor:
        batch = {"images": images, "labels": labels, "seed": derive_seed(self.seed, "preview", version)}
        return self.on_after_batch_transfer(batch, 0)["images"].round().clamp(0, 255).to(torch.uint8)

    def check_batch(self, batch: Batch) -> None:
        images, shape = batch["images"], self.image_spec.shape
        require(tuple(images.shape[1:]) == shape, f"images are {tuple(images.shape[1:])}, the spec has {shape}")
        require(images.min() >= 0 and images.max() <= 255, "pixels must be from 0 to 255")
        require(len(batch["labels"]) == len(images), f"there are {len(images)} images and {len(batch['labels'])} labels")

    def _resized(self, split: Split) -> Split:
        if not isinstance(split.images, ImagesInMemory) or split.images.pixels.shape[-2:] == (self.size, self.size):
            return split
        return replace(split, images=ImagesInMemory(resize(split.images.pixels, self.size)))

    def _statistics(self, train: Split) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Per-channel mean and standard deviation of the training images scaled to [0, 1], computed once and cached.

        Of images that are decoded when they are read it takes ``SAMPLED``, evenly spaced: the first step does not wait for all.
        """
        images = train.images
        if isinstance(images, ImageFiles) and len(images) > SAMPLED:
            images = images.subset(torch.arange(SAMPLED) * len(images) // SAMPLED)
        path = cache_folder() / "statistics" / f"{images.identity()}.json"
        with locked(path) if isinstance(images, ImageFiles) else nullcontext():  # processes that start together read them once
            try:
                kept = json.loads(path.read_text())
                return tuple(kept["mean"]), tuple(kept["std"])
            except (OSError, ValueError, KeyError, TypeError):
                # 32 MB at a time: threads hold several such parts at once
                mean, std = channel_statistics(images, max(1, 2**25 // math.prod(self.image_spec.shape)))
            with suppress(OSError):  # a read-only cache costs time at the next start, nothing else
                replace_file(path, json.dumps({"of": type(self).__qualname__, "mean": mean, "std": std}).encode())
        return mean, std


def _all_excluded(split: Split) -> UserError:
    others = "remove the copies, or test on other images, as in zoo test RUN --data FOLDER"
    return UserError(f"all {split.count_images():,} test images are training images, too, by their content: {others}")


def _with_image(spec: Spec, **changes: Any) -> Spec:
    """The spec with changes to its part about images."""
    return replace(spec, **changes) if isinstance(spec, ImageSpec) else replace(spec, image=replace(spec.image, **changes))


def _by_file(samples: Iterable[FileContent]) -> Iterable[FileContent]:
    """The files of samples, of which several may be about one image: the digest is of all their texts."""
    found: dict[str, FileContent] = {}
    for sample in samples:
        former = found.get(sample.name)
        if former is not None and sample.text:
            sample = sample._replace(text=blake2b(former.text + sample.text, digest_size=len(sample.text)).digest())
        found[sample.name] = sample
    return found.values()
