"""A folder of images, one folder per class, of any size and format, with or without folders for the splits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from zoo.core.errors import UserError, did_you_mean, some
from zoo.core.files import files_below, is_hidden, is_utf8, require_folder
from zoo.core.randomness import derive_seed
from zoo.core.ranks import rank_zero_print
from zoo.datamodules.bases.classification import ClassificationData
from zoo.datamodules.bases.options import require_fraction
from zoo.datamodules.files.decoded import MIXED_SIZE, Cache, Content, ImageFiles, common_size, identity_of_files, kept_content
from zoo.datamodules.files.images import EXTENSIONS, is_image
from zoo.datamodules.loading.held_out import split_by_class
from zoo.datamodules.loading.splits import ImageLoader, ImagesInMemory, Split
from zoo.registry.entry import register_data
from zoo.spec import Crop, ImageSpec

SPLIT_FOLDERS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
NAMED = 3  # names in a message


@register_data("folder", task="classification", tags=["local-files", "color"])
class Folder(ClassificationData):
    """Your own images, one folder per class: root/cat/1.jpg, or root/train/cat/1.jpg and root/test/cat/2.jpg.

    With a ``train`` folder, also ``test`` and ``val`` (or ``valid``, ``validation``) are used; missing splits are drawn from
    the training images. All images become RGB, transparent parts white; those of another size are resized and cropped.
    Files that cannot be read are skipped with a warning and listed in ``unreadable``.

    Args:
        root: folder that contains one folder per class.
        size: height and width in pixels; 0 keeps the size of the images if all have the same, and is 224 otherwise.
        validation: fraction of the training images held out if there is no validation folder, or one of k folds, as in 2/5.
        test: fraction of the images held out for testing if there is no test folder.
        strict: fail if an image cannot be read, instead of skipping it.
        memory_gb: decoded images up to this many gigabytes are held in memory; beyond that, they are decoded in every epoch.
        crop: fit resizes the largest center crop; center resizes the shorter side to size / crop_pct, squash both sides, and both
            then crop the center.
        crop_pct: fraction of the resized image that is kept, with center and squash.
        interpolation: interpolation of resizing.
    """

    def __init__(
        self,
        batch_size: int,
        seed: int,
        root: str,
        test: float = 0.1,
        strict: bool = False,
        memory_gb: float = 2.0,
        crop: Literal["fit", "center", "squash"] = "fit",
        crop_pct: float = 1.0,
        interpolation: Literal["bilinear", "bicubic", "nearest", "lanczos"] = "bilinear",
        **options: Any,
    ) -> None:
        super().__init__(batch_size, seed, root=root, **options)
        require_fraction(test=test)
        if not 0 < crop_pct <= 1:
            raise UserError(f"data.crop_pct={crop_pct}: must be more than 0 and at most 1")
        self.test, self.strict, self.memory_gb = test, strict, memory_gb
        self.crop = Crop(crop, crop_pct, interpolation)
        self.unreadable: list[Path] = []

    @cached_property
    def tree(self) -> Tree:
        """The image files and their classes, not opened yet.

        Raises:
            UserError: this is no folder of at least two classes.
        """
        return scan_tree(self.root)

    @cached_property
    def fingerprint(self) -> str:
        """Changes with the files, with their content, with size and crop."""
        return identity_of_files(self.tree.paths(), (self.size, self.size), self.crop)

    def build_spec(self) -> ImageSpec:
        height, width = self._shape
        return ImageSpec(3, height, width, classes=self.tree.classes, crop=self.crop)

    def summarize(self) -> dict[str, Any]:
        return {**super().summarize(), "unreadable": [str(path) for path in self.unreadable]}

    def download(self) -> None:
        _ = self._content  # decoded now, by one process, and found in the cache by the others

    def build_loader(self, split: str) -> ImageLoader:
        limit = getattr(self.trainer, f"limit_{split}_batches", 1.0)
        if split != "train" and (isinstance(limit, int) or limit < 1):  # shuffled, since files come class by class
            generator = torch.Generator().manual_seed(derive_seed(0, "part", split))
            self.splits[split] = self.splits[split].subset(torch.randperm(len(self.splits[split]), generator=generator))
        return super().build_loader(split)

    def load_splits(self) -> dict[str, Split]:
        (readable, pixels), first = self._content, 0
        splits = {}
        for name, files in self.tree.readable(readable):
            paths = tuple(file.path for file in files)
            kept = (
                ImageFiles(paths, self._shape, self.crop)
                if pixels is None
                else ImagesInMemory(pixels[first : first + len(files)])
            )
            splits[name] = Split(kept, torch.tensor([file.label for file in files]), files=paths)
            first += len(files)
        del self._content  # the splits hold what is needed of it
        return self._with_test(splits)

    def _with_test(self, splits: dict[str, Split]) -> dict[str, Split]:
        """Add a test split, held out of the training images, if there is no folder for it."""
        if "test" in splits:
            return splits
        test, train = split_by_class(splits["train"].labels, self.test, derive_seed(self.seed, "test"))
        if not len(test):
            raise UserError(
                f"{self.root}: each class has only one image, so none is left for testing: at least three per class are needed, "
                "for training, validation and testing, and about twenty for a first result"
            )
        return {**splits, "train": splits["train"].subset(train), "test": splits["train"].subset(test)}

    def with_validation(self, splits: dict[str, Split]) -> dict[str, Split]:
        splits = super().with_validation(splits)
        if not len(splits["val"]) and self.validation != 0:
            raise UserError(
                f"{self.root}: each class has only one image for training, so none is left for validation: at least two per "
                "class are needed besides those for testing, and about twenty for a first result"
            )
        return splits

    @cached_property
    def _shape(self) -> tuple[int, int]:
        """(height, width) after resizing; if no size is given, that of all images, or ``MIXED_SIZE``."""
        if self.size:
            return self.size, self.size
        return Cache(self.fingerprint).shape() or common_size(self.tree.paths()) or (MIXED_SIZE, MIXED_SIZE)

    @cached_property
    def _content(self) -> Content:
        """The decoded images, if they fit in memory, and which files can be read."""
        paths, shape = self.tree.paths(), self._shape
        content = kept_content(paths, shape, self.memory_gb, self.fingerprint, self.crop)
        self._report(paths, content.readable)
        return content

    def _report(self, paths: list[str], readable: Tensor) -> None:
        """Warn about files that cannot be read.

        Raises:
            UserError: a class has nothing left, or ``strict`` is set.
        """
        self.unreadable = [Path(paths[index]) for index in (~readable).nonzero()[:, 0].tolist()]
        if self.unreadable and self.strict:
            count = f" ({len(self.unreadable):,} such files)" if len(self.unreadable) > 1 else ""
            raise UserError(f"{self.unreadable[0]}: is not a readable image{count}: remove it, or set data.strict=false")
        for name, files in self.tree.readable(readable):
            left = {file.label for file in files}
            for label, class_name in enumerate(self.tree.classes):
                if label not in left:
                    raise UserError(
                        f"{self.root}: class {class_name!r} of {name} has no image that can be read: "
                        "put some into its folder, or remove that"
                    )
        if self.unreadable:
            names = some(self.unreadable, NAMED)
            count = f"{len(self.unreadable):,} of {len(paths):,} images"
            rank_zero_print(f"warning: {count} cannot be read and are skipped: {names}")


# ---------------------------------------------------------------------------------------------- the tree


class ImageFile(NamedTuple):
    """One file: its path and its class."""

    path: str
    label: int


@dataclass(frozen=True)
class Tree:
    """The image files below a folder, by split."""

    classes: tuple[str, ...]
    files: dict[str, list[ImageFile]]

    def paths(self) -> list[str]:
        """The files of all splits, one split after the other."""
        return [file.path for files in self.files.values() for file in files]

    def readable(self, which: Tensor) -> Iterator[tuple[str, list[ImageFile]]]:
        """Each split with its files that can be read, ``which`` being a bool for each of ``paths``."""
        parts = which.split([len(files) for files in self.files.values()])
        for (name, files), good in zip(self.files.items(), parts, strict=True):
            yield name, [files[index] for index in good.nonzero()[:, 0].tolist()]


def scan_tree(root: Path | None) -> Tree:
    """Find the images of each class without opening any.

    Raises:
        UserError: the folder is missing, does not hold one folder for each of at least two classes, or a name is not UTF-8.
    """
    if root is None:
        raise UserError("data.root is empty: set it to the folder with one folder of images per class")
    require_folder(f"data.root={root}", root)
    try:
        tree = _scan_tree(root)
    except OSError as error:
        raise UserError(f"{error.filename or root}: cannot be read: {error.strerror}") from error
    for path in tree.paths():
        if not is_utf8(path):
            raise UserError(f"{path}: its name is not UTF-8: rename it")
    return tree


def _scan_tree(root: Path) -> Tree:
    places = _split_places(root)
    classes = _class_names(places["train"])
    for name, place in places.items():
        if own := set(_class_names(place)) ^ set(classes):
            only = {"train": sorted(own & set(classes)), name: sorted(own - set(classes))}
            told = "; ".join(f"only in {where}: {some(names, NAMED)}" for where, names in only.items() if names)
            alike = next(filter(None, (did_you_mean(other, only["train"]) for other in only[name])), "")
            raise UserError(
                f"{root}: the class folders of train and {name} differ: {told}: both need the same ones, spelled alike{alike}"
            )
    if len(classes) == 1:
        raise UserError(
            f"{places['train']}: holds only one class folder, {classes[0]!r}: at least two are needed, one for each class"
        )
    files = {}
    for name, place in places.items():
        files[name] = []
        for label, class_name in enumerate(classes):
            # no link leads back to other classes
            found = sorted(filter(is_image, files_below(place / class_name, entered=(root, place))))
            if not found:
                raise UserError(
                    f"{place / class_name}: holds no image ({', '.join(EXTENSIONS)}): put some into it, or remove the folder"
                )
            files[name] += [ImageFile(path, label) for path in found]
    return Tree(tuple(classes), files)


def _split_places(root: Path) -> dict[str, Path]:
    """The folder of each split; without such folders everything is ``train``."""
    folders = _class_names(root)
    found = {split: [name for name in names if name in folders] for split, names in SPLIT_FOLDERS.items()}
    named = [name for names in found.values() for name in names]
    # a class may be called "train": a split's folder holds folders and no images, unless there is nothing but splits
    splits = [name for name in named if set(folders) == set(named) or _holds_only_folders(root / name)]
    if not splits:
        return {"train": root}
    if "train" not in splits:
        raise UserError(f"{root}: has a folder {splits[0]!r} but no folder 'train' with class folders next to it")
    if len(found["val"]) > 1:
        raise UserError(f"{root}: {' and '.join(found['val'])} both exist: keep one folder for validation")
    return {split: root / names[0] for split, names in found.items() if names and names[0] in splits}


def _visible(folder: Path) -> list[os.DirEntry]:
    with os.scandir(folder) as entries:
        return [entry for entry in entries if not is_hidden(entry.name)]


def _class_names(folder: Path) -> list[str]:
    """The folders in a folder, sorted.

    Raises:
        UserError: there is none.
    """
    entries = _visible(folder)
    if not entries:
        raise UserError(f"{folder}: is empty; put one folder of images for each class into it, as in {folder}/cat/1.jpg")
    names = sorted(entry.name for entry in entries if entry.is_dir())
    if not names:
        raise UserError(
            f"{folder}: holds no class folder; sort its images into one folder for each class, as in {folder}/cat/1.jpg"
        )
    return names


def _holds_only_folders(folder: Path) -> bool:
    entries = _visible(folder)
    return any(entry.is_dir() for entry in entries) and not any(is_image(entry.name) and entry.is_file() for entry in entries)
