"""Image files in folders, one folder per class, found without opening any."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from zoo.core.errors import UserError, did_you_mean, some
from zoo.core.files import files_below, is_hidden, is_utf8, require_folder
from zoo.datamodules.files.images import EXTENSIONS, is_image

SPLIT_FOLDERS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
NAMED = 3  # names in a message


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
