"""Image files in folders, one folder per class, with or without folders for the splits, found without opening any."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np
from torch import Tensor

from zoo.core.errors import UserError, did_you_mean, some
from zoo.core.files import LeftOut, describe_left_out, files_below, is_hidden, require_folder
from zoo.core.printing import composed, is_utf8, shell_word
from zoo.datamodules.files.formats import is_image, why_no_image
from zoo.datamodules.files.paths import Paths

SYNONYMS = {  # in any case, and with "set", "data" or "images" behind, as in Training_Set
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "validate", "dev", "development", "eval", "evaluation"),
    "test": ("test", "testing", "tst"),
}
LONG = {"train": "training", "val": "validation", "test": "test"}  # names of the splits in messages
SPLIT_LIKE = re.compile("train|valid|test|eval|holdout|fold|split")
SAVED = ("dataset_dict.json", "state.json")  # in a folder that the library datasets has saved
NAMED = 3  # names in a message


def split_called(name: str) -> str | None:
    """The split after which a folder is named: ``train``, ``val`` or ``test``."""
    plain = re.sub(r"[ _.-]?(set|data|images|split)$", "", name.lower())
    return next((split for split, names in SYNONYMS.items() if plain in names), None)


class ImageFile(NamedTuple):
    """One file: its path and its class."""

    path: str
    label: int


class ImageFileArrays(Sequence[ImageFile]):
    """Files in arrays, as a million pairs of a string and a number take hundreds of megabytes."""

    def __init__(self, paths: Paths, labels: np.ndarray) -> None:
        self.paths, self.labels = paths, labels

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, index: int) -> ImageFile: ...
    @overload
    def __getitem__(self, index: slice) -> ImageFileArrays: ...
    def __getitem__(self, index: int | slice) -> ImageFile | ImageFileArrays:
        if isinstance(index, slice):
            return ImageFileArrays(self.paths[index], self.labels[index])
        return ImageFile(self.paths[index], int(self.labels[index]))

    def __iter__(self) -> Iterator[ImageFile]:
        return map(ImageFile, self.paths, self.labels.tolist())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None


@dataclass(frozen=True)
class Tree:
    """The image files below a folder, by split.

    Attributes:
        classes: those of the training images; other splits may lack some.
        notes: what is left out or could be meant otherwise, one line each.
    """

    classes: tuple[str, ...]
    files: Mapping[str, Sequence[ImageFile]]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, classes: tuple[str, ...], counts: dict[str, int], paths: Paths, labels: np.ndarray, notes: tuple[str, ...]
    ) -> Tree:
        """From arrays of the files of all splits, one split after the other.

        Args:
            counts: files of each split.
        """
        files, first = {}, 0
        for name, count in counts.items():
            own = slice(first, first + count)
            files[name], first = ImageFileArrays(paths[own], labels[own]), own.stop
        return cls(classes, files, notes)

    def paths(self) -> Paths:
        """The files of all splits, one split after the other."""
        parts = [files.paths for files in self.files.values() if isinstance(files, ImageFileArrays)]
        if len(parts) == len(self.files):
            return Paths.concatenate(parts)
        return Paths(file.path for files in self.files.values() for file in files)

    def labels(self) -> np.ndarray:
        """The class of each file, int64, in the same order."""
        return np.concatenate(
            [
                files.labels if isinstance(files, ImageFileArrays) else np.array([file.label for file in files], np.int64)
                for files in self.files.values()
            ]
        )

    def restricted(self, is_kept: Callable[[str], bool]) -> Tree:
        """The tree without other files, and without classes and splits that had no others."""
        files = {split: [file for file in files if is_kept(file.path)] for split, files in self.files.items()}
        labels = sorted({file.label for kept in files.values() for file in kept})
        place = {label: number for number, label in enumerate(labels)}
        renumbered = {name: [ImageFile(path, place[label]) for path, label in kept] for name, kept in files.items() if kept}
        return Tree(tuple(self.classes[label] for label in labels), renumbered, self.notes)

    def readable(self, which: Tensor) -> Iterator[tuple[str, list[ImageFile]]]:
        """Each split with its files that can be read, ``which`` being a bool for each of ``paths``."""
        parts = which.split([len(files) for files in self.files.values()])
        for (name, files), good in zip(self.files.items(), parts, strict=True):
            yield name, [files[index] for index in good.nonzero()[:, 0].tolist()]


def scan_tree(root: Path | None, fewest_classes: int = 2, folders: list[str] | None = None) -> Tree:
    """Find the images of each class without opening any.

    Args:
        folders: gets the paths of the folders on which the result depends.

    Raises:
        UserError: the folder is missing, does not hold one folder for each of at least ``fewest_classes`` classes, or a name is
            not UTF-8.
    """
    if root is None:
        raise UserError("data.root is empty: set it to the folder with one folder of images per class")
    require_folder(f"data.root={root}", root)
    if any((root / name).is_file() for name in SAVED):
        raise UserError(
            f"{root}: is of the library datasets: the data set hf reads it, with --set data.path={shell_word(str(root))}"
        )
    try:
        tree = _scan_tree(root, fewest_classes, [] if folders is None else folders)
    except OSError as error:
        raise UserError(f"{error.filename or root}: cannot be read: {error.strerror}") from error
    for path in tree.paths():
        if not is_utf8(path):
            raise UserError(f"{path}: its name is not UTF-8: rename it")
    return tree


def _scan_tree(root: Path, fewest_classes: int, folders: list[str]) -> Tree:
    folders += [str(root), *(entry.path for entry in _visible(root) if entry.is_dir())]
    places, notes = _split_places(root)
    classes = tuple(_class_folders(places["train"]))
    if len(classes) < fewest_classes:
        deeper = root / classes[0]
        hint = (
            f"; for its folders: data.root={shell_word(str(deeper))}"
            if places["train"] == root and _holds_several(deeper)
            else ""
        )
        raise UserError(
            f"{places['train']}: holds only one class folder, {classes[0]!r}: at least two are needed, one for each class{hint}"
        )
    files, left_out = {}, {}
    _leave_out_files(root, left_out)
    for name, place in places.items():
        of_class = _class_folders(place)
        if other := sorted(of_class.keys() - set(classes)):
            if len(of_class) == 1:  # test/images/1.jpg, as torchvision's reader wants it
                notes.append(_to_predict(place))
                continue
            alike = next(filter(None, (did_you_mean(each, classes) for each in other)), "")
            raise UserError(
                f"{place}: has classes that {places['train']} lacks: {some(other, NAMED)}: rename or remove them{alike}"
            )
        if place != root:
            _leave_out_files(place, left_out)
        files[name] = []
        for label, class_name in enumerate(classes):
            found = _find_images(of_class.get(class_name, []), root, place, left_out, folders, required=name == "train")
            files[name] += [ImageFile(path, label) for path in found]
        if not files[name]:
            raise UserError(f"{place}: holds no image in its class folders: put some into them, or remove the folder")
    notes += _alike(classes, root, folders) if places["train"] == root else []
    notes += [f"left out: {others}"] if (others := describe_left_out(left_out, root)) else []
    return Tree(classes, files, tuple(notes))


def _find_images(
    of_class: list[Path], root: Path, place: Path, left_out: LeftOut, folders: list[str], required: bool
) -> list[str]:
    """The images in the folders of a class, in the order of their composed paths; no link leads back to other classes.

    Raises:
        UserError: there is none, but one is required.
    """
    found: list[str] = []
    own: LeftOut = {}
    for folder in of_class:
        found += files_below(folder, own, why_no_image, entered=(root, place), folders=folders)
    if required and not found:
        if of_class[0].is_symlink():
            raise UserError(
                f"{of_class[0]}: is a link to {of_class[0].resolve()}, which holds no image for this class: remove it"
            )
        others = describe_left_out(own, of_class[0])
        aside = others and f"; left out: {others}"
        raise UserError(f"{of_class[0]}: holds no image: put some into it, or remove the folder{aside}")
    for reason, paths in own.items():
        left_out.setdefault(reason, []).extend(paths)
    return sorted(sorted(found), key=composed)  # the same order on systems that store accents differently


def _leave_out_files(folder: Path, left_out: LeftOut) -> None:
    """Collect what stands beside class folders."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_hidden(entry.name) or not entry.is_dir():
                reason = "hidden" if is_hidden(entry.name) else why_no_image(entry.path) or "outside class folders"
                left_out.setdefault(reason, []).append(entry.path)


def _alike(classes: Sequence[str], root: Path, folders: list[str]) -> list[str]:
    """A note if all classes hold folders of the same names and one is named like a split, as in ``train1`` and ``holdout``."""
    if not any(SPLIT_LIKE.search(name.lower()) for name in classes):
        return []
    inner: dict[str, set[str]] = {name: set() for name in classes}
    for place in folders:
        name, _, below = os.path.relpath(place, root).partition(os.sep)
        if below and os.sep not in below:
            inner.setdefault(composed(name), set()).add(composed(below))
    shared = sorted(set.intersection(*inner.values()))
    if len(shared) < 2:
        return []
    return [
        f"the classes {some(classes, NAMED)} all have folders {some(shared, NAMED)}: if these are the classes, "
        "name the folders around them train, val and test"
    ]


def _split_places(root: Path) -> tuple[dict[str, Path], list[str]]:
    """The folder of each split, and notes; without such folders everything is ``train``.

    Raises:
        UserError: there is none for training, or several for one split.
    """
    folders = _folder_names(root)
    named = {folder: split for folder in folders if (split := split_called(folder))}
    others = [folder for folder in folders if folder not in named]
    # a class may be called "train": a split's folder holds folders and no images, unless there is nothing but splits
    nested = {folder: split for folder, split in named.items() if not others or _holds_only_folders(root / folder)}
    if not nested or (len(named) == 1 and "train" in named.values() and sum(map(_holds_images, map(root.joinpath, others))) > 1):
        notes = [f"{folder} is read as a class like {some(others, NAMED)}" for folder in named if named[folder] != "train"]
        notes += [
            f"{name} is read as a class like {some(others, NAMED)}; for its folders: data.root={root / name}" for name in nested
        ]
        return {"train": root}, notes
    if "train" not in nested.values():
        raise UserError(f"{root}: has a folder {next(iter(nested))!r} but no folder 'train' with class folders next to it")
    places: dict[str, Path] = {}
    notes = [f"not used: {some(others, NAMED)}"] if others else []
    for folder, split in named.items():
        if split != "train" and _holds_only_images(root / folder):
            notes.append(_to_predict(root / folder))
        elif folder in nested and split in places:
            raise UserError(f"{root}: {places[split].name} and {folder} both exist: keep one folder for {LONG[split]}")
        elif folder in nested:
            places[split] = root / folder
        else:
            notes.append(f"not used: {folder}")
    return {split: places[split] for split in SYNONYMS if split in places}, notes


def _to_predict(folder: Path) -> str:
    return f"{folder.name} has no class folders, so it is for prediction: zoo predict RUN {shell_word(str(folder))}"


def _visible(folder: Path) -> list[os.DirEntry]:
    with os.scandir(folder) as entries:
        return [entry for entry in entries if not is_hidden(entry.name)]


def _class_folders(folder: Path) -> dict[str, list[Path]]:
    """The folders of each class, in the order of their names; a name in composed and in decomposed Unicode is one class."""
    found: dict[str, list[Path]] = {}
    for name in _folder_names(folder):
        found.setdefault(composed(name), []).append(folder / name)
    return dict(sorted(found.items()))


def _folder_names(folder: Path) -> list[str]:
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


def _holds_several(folder: Path) -> bool:
    return sum(entry.is_dir() for entry in _visible(folder)) > 1


def _holds_images(folder: Path) -> bool:
    return any(map(is_image, files_below(folder)))


def _holds_only_folders(folder: Path) -> bool:
    entries = _visible(folder)
    return any(entry.is_dir() for entry in entries) and not any(entry.is_file() and is_image(entry.path) for entry in entries)


def _holds_only_images(folder: Path) -> bool:
    entries = _visible(folder)
    return any(entry.is_file() and is_image(entry.path) for entry in entries) and not any(entry.is_dir() for entry in entries)
