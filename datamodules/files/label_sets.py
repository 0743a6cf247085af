"""Several labels for an image as tables write them: names between separators, lists, or a column of 0 and 1 for each class."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.core.errors import UserError, one_line
from zoo.spec import IGNORE

SEPARATORS = ("|", ";", ",")  # the first that occurs in any label
NOTHING = "no label"  # the text of an image of which no class is known to be there
PRESENT, ABSENT, UNKNOWN = ("1", "true", "yes", "1.0"), ("0", "false", "no", "0.0"), ("", "-1", "-1.0", "nan", "none")


def set_text(cells: Sequence[Any], place: str) -> str:
    """The text of a cell that names classes, as one text or as a list.

    Raises:
        UserError: it is neither.
    """
    (cell,) = cells
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return NOTHING
    if isinstance(cell, (list, tuple)) and all(isinstance(each, str | int) for each in cell):
        return "|".join(sorted({str(each).strip() for each in cell})) or NOTHING
    if isinstance(cell, str | int):
        return str(cell).strip() or NOTHING
    raise UserError(f"{place}: {one_line(repr(cell), 60)} are no labels: a text or a list of texts is needed")


def separator_of(texts: Iterable[str]) -> str:
    """The separator that the labels have; empty if there is none, and each is one name."""
    joined = "\n".join(texts)
    return next((each for each in SEPARATORS if each in joined), "")


def encode_sets(texts: Sequence[str], separator: str) -> tuple[tuple[str, ...], Tensor]:
    """The classes in texts, sorted, and which of them each text names, int8 [texts, classes].

    Raises:
        UserError: fewer than two classes.
    """
    sets = [names_in(text, separator) for text in texts]
    classes = tuple(sorted(set().union(*sets)))
    places = {name: place for place, name in enumerate(classes)}
    labels = torch.zeros(len(texts), len(classes), dtype=torch.int8)
    for row, names in enumerate(sets):
        labels[row, [places[name] for name in names]] = 1
    return classes, labels


def names_in(text: str, separator: str) -> set[str]:
    """The classes that a text names."""
    if text == NOTHING:
        return set()
    parts = text.split(separator) if separator else [text]
    return {part.strip() for part in parts} - {""}


def flags_text(cells: Sequence[Any], place: str) -> str:
    """The text of a row of cells that are 1, 0 or unknown.

    Raises:
        UserError: one is none of these.
    """
    return "".join(_flag(cell, place) for cell in cells)


def is_flag(cell: Any) -> bool:
    """Whether a cell is 1, 0 or unknown."""
    return _plain(cell) in (*PRESENT, *ABSENT, *UNKNOWN)


def _plain(cell: Any) -> str:
    return "" if cell is None else str(cell).strip().lower()


def _flag(cell: Any, place: str) -> str:
    for flag, texts in (("1", PRESENT), ("0", ABSENT), ("?", UNKNOWN)):
        if _plain(cell) in texts:
            return flag
    raise UserError(f"{place}: {one_line(repr(cell), 60)} is neither 1 nor 0, nor empty where it is unknown")


def decode_flags(texts: Sequence[str]) -> Tensor:
    """The labels of ``flags_text``, int8 [texts, classes]."""
    values = {"1": 1, "0": 0, "?": IGNORE}
    return torch.tensor([[values[flag] for flag in text] for text in texts], dtype=torch.int8)
