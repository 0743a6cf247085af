"""Rows that name an image, its class and perhaps its split, from a table or a hub data set, as a tree of image files."""

from __future__ import annotations

import math
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from zoo.core.errors import UserError, did_you_mean, near_path, some
from zoo.core.printing import composed
from zoo.datamodules.files.image_tree import LONG, NAMED, SYNONYMS, Tree, split_called
from zoo.datamodules.files.paths import Paths

IMAGE_COLUMNS = ("image", "img", "path", "file", "filename", "filepath", "imagepath", "imagefile", "imagename", "imageid")
LABEL_COLUMNS = ("label", "labels", "class", "target", "category", "finelabel", "classname")
SPLIT_COLUMNS = ("split", "set", "subset", "partition")


class Row(NamedTuple):
    """One row.

    Attributes:
        image: path of the file; empty if there is none.
        label: name of the class; empty if there is none.
        split: any name of a split; None where everything is for training.
        number: of the row, for messages.
    """

    image: str
    label: str
    split: str | None
    number: int


@dataclass(frozen=True)
class Source:
    """Where rows come from.

    Attributes:
        name: in messages.
        root: folder of relative paths.
        classes: names in their order; without them those of the rows, sorted.
        notes: what reading them found, one line each.
    """

    name: str
    root: Path
    classes: Sequence[str] = ()
    notes: Sequence[str] = ()


def find_column(given: str, option: str, columns: Sequence[str], usual: Sequence[str], source: str) -> str:
    """The column that an option names, or else the first of the usual ones that is there; empty if there is none.

    Case, spaces, hyphens and underscores of a usual name do not matter, as in ``File Name``.

    Raises:
        UserError: the column that is named is not there.
    """
    if given:
        if given not in columns:
            near = did_you_mean(given, columns)
            raise UserError(f"data.{option}={given}: {source} has no such column{near or ': it has ' + some(columns, 20)}")
        return given
    plain = {re.sub(r"[\s_-]", "", column.lower()): column for column in reversed(columns)}
    return next((plain[name] for name in usual if name in plain), "")


def require_column(given: str, option: str, columns: Sequence[str], usual: Sequence[str], source: str) -> str:
    """Like ``find_column``, but one must be there.

    Raises:
        UserError: there is none, or none that is named so.
    """
    column = find_column(given, option, columns, usual, source)
    if not column:
        what = {"image_column": "an image", "label_column": "a label"}[option]
        raise UserError(f"{source}: no column is named as {what} is: it has {some(columns, 20)}: choose by data.{option}=NAME")
    return column


def label_text(value: object, column: str, source: str) -> str:
    """A label as the name of its class; empty if it is missing.

    Raises:
        UserError: it is neither text nor a whole number.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():  # as pandas writes integers of which some are missing
        value = int(value)
    if isinstance(value, float):
        raise UserError(_not_classes(source, column, value))
    if not isinstance(value, str | int):
        needed = "one label for each image is needed, and multilabel-table reads several"
        raise UserError(f"{source}: column {column!r} holds {type(value).__name__} values: {needed}")
    return str(value).strip()


def require_classes(labels: Iterable[str], column: str, source: str) -> None:
    """Refuse labels that are all numbers, some with decimals.

    Raises:
        UserError: they are.
    """
    try:
        numbers = [float(label) for label in labels]
    except ValueError:
        return
    fraction = next((number for number in numbers if math.isfinite(number) and not number.is_integer()), None)
    if fraction is not None:
        raise UserError(_not_classes(source, column, fraction))


def _not_classes(source: str, column: str, value: float) -> str:
    needed = "classes are needed, and regression-table reads numbers"
    return f"{source}: column {column!r} holds numbers like {value:g}: {needed}"


def tree_of_rows(rows: Iterable[Row], source: Source, fewest_classes: int = 2, whole: bool = False) -> Tree:
    """The files that rows name, by split, in the order of class and path, as a folder of them would have it.

    Rows without an image, a label or a known split, repeated rows, and files that are missing are left out, which notes say.

    Args:
        fewest_classes: 0 if labels are no classes, such as numbers: then all that occur are kept.
        whole: rows for testing alone may do.

    Raises:
        UserError: no rows, no files, too few classes, or two rows that contradict each other.
    """
    notes = [*source.notes]
    complete = _complete(rows, notes)
    placed = _in_splits(complete, source, notes)
    if not placed:
        raise UserError(f"{source.name}: holds no row with an image and a label")
    found = _existing(placed, source, notes)
    if whole and not any(row.split == "train" for row in found):
        found = [row._replace(split="train") for row in found]
    classes = _classes(found, source, fewest_classes)
    place = {name: label for label, name in enumerate(classes)}
    splits = list(SYNONYMS)
    found.sort(key=lambda row: (splits.index(row.split), place[row.label], composed(row.image), row.image))
    counts = Counter(row.split for row in found)
    return Tree.of(
        classes,
        {split: counts[split] for split in splits if counts[split]},
        Paths(os.path.join(source.root, row.image) for row in found),
        np.array([place[row.label] for row in found], np.int64),
        tuple(notes),
    )


def _complete(rows: Iterable[Row], notes: list[str]) -> Iterator[Row]:
    lacking: dict[str, list[int]] = {"image": [], "label": []}
    for row in rows:
        if row.image and row.label:
            yield row
        else:
            lacking["label" if row.image else "image"].append(row.number)
    for what, numbers in lacking.items():
        if numbers:
            notes.append(f"{_rows(len(numbers))} without {what} left out: {_numbers(numbers)}")


def _in_splits(rows: Iterable[Row], source: Source, notes: list[str]) -> list[Row]:
    """The rows with the usual names of their splits, each file once."""
    first: dict[str, Row] = {}
    others: Counter[str] = Counter()
    repeated: list[int] = []
    for row in rows:
        split = "train" if row.split is None else split_called(row.split)
        if split is None:
            others[row.split] += 1
            continue
        row = row._replace(image=_below(row.image, source.root), split=split)
        known = first.setdefault(row.image, row)
        if known is row:
            continue
        if known[:3] != row[:3]:
            labels, splits = sorted({known.label, row.label}), sorted({LONG[known.split], LONG[row.split]})
            both = f"labels {' and '.join(labels)}" if len(labels) > 1 else f"splits {' and '.join(splits)}"
            both_rows = f"rows {known.number} and {row.number} give {row.image!r} the {both}"
            raise UserError(f"{source.name}: {both_rows}: keep one of them")
        repeated.append(row.number)
    if others:
        names = some((f"{name or 'no name'} ({count:,})" for name, count in others.most_common()), NAMED)
        if not first:
            raise UserError(f"{source.name}: no row is of a split called train, val or test: they are of {names}: rename them")
        notes.append(f"rows of other splits than train, val and test are not used: {names}")
    if repeated:
        what = "that repeats another" if len(repeated) == 1 else "that repeat others"
        notes.append(f"{_rows(len(repeated))} {what} left out: {_numbers(repeated)}")
    return list(first.values())


def _below(path: str, root: Path) -> str:
    """The path relative to the root, if it is absolute and there."""
    path, start = os.path.normpath(path), os.path.join(os.path.abspath(root), "")
    return path.removeprefix(start)


def _existing(rows: list[Row], source: Source, notes: list[str]) -> list[Row]:
    """The rows whose file is there.

    Raises:
        UserError: none is.
    """
    found, missing = [], []
    for row in rows:
        path = next((each for each in _spellings(row.image) if os.path.isfile(os.path.join(source.root, each))), None)
        if path is None:
            missing.append(row.image)
        else:
            found.append(row if path == row.image else row._replace(image=path))
    if missing:
        near = near_path(source.root / missing[0])
        if not found:
            where = f"{missing[0]!r} is not in {source.root}{near}"
            raise UserError(f"{source.name}: none of its {len(rows):,} files is there: {where}: set data.root to their folder")
        notes.append(f"{len(missing):,} of {len(rows):,} files are not there and left out: {some(missing, NAMED)}{near}")
    return found


def _spellings(path: str) -> Iterator[str]:
    """The path, with other separators, and with accents as other systems store them."""
    yield path
    for other in (path.replace("\\", "/"), composed(path), unicodedata.normalize("NFD", path)):
        if other != path:
            yield other


def _classes(rows: list[Row], source: Source, fewest_classes: int) -> tuple[str, ...]:
    """Those of the training rows.

    Raises:
        UserError: there are too few, or other splits have more.
    """
    present = {row.label for row in rows if row.split == "train"}
    if not present:
        only = LONG[rows[0].split]
        raise UserError(f"{source.name}: has {only} rows but none for training, whose split is train")
    if not fewest_classes:
        return tuple(sorted({row.label for row in rows}))
    for split, text in LONG.items():
        if other := sorted({row.label for row in rows if row.split == split} - present):
            near = next(filter(None, (did_you_mean(each, present) for each in other)), "")
            raise UserError(
                f"{source.name}: the {text} rows have classes that the training rows lack: {some(other, NAMED)}: "
                f"rename or remove them{near}"
            )
    if len(present) < fewest_classes:
        raise UserError(f"{source.name}: has only the class {next(iter(present))!r}: at least two are needed")
    return tuple(name for name in source.classes if name in present) or tuple(sorted(present))


def _rows(count: int) -> str:
    return f"{count:,} row{'' if count == 1 else 's'}"


def _numbers(numbers: list[int]) -> str:
    return f"row{'' if len(numbers) == 1 else 's'} {some(numbers, NAMED)}"
