"""Samples of what a trained model predicts, as its task gives them to a report: images, dialogues and texts, without layout."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from zoo.core.errors import UserError


@dataclass(frozen=True)
class SampleImage:
    """An image, uint8 [C, H, W], its label and the prediction.

    ``is_correct`` and ``probability`` are None where they are not known; ``name`` identifies the image.
    """

    image: Tensor
    label: str
    predicted: str
    is_correct: bool | None = None
    probability: float | None = None
    name: str = ""


@dataclass(frozen=True)
class Turn:
    """A question with the predicted and the expected answer; ``is_correct`` is None where that is not known."""

    question: str
    answer: str
    is_correct: bool | None = None
    expected: str = ""
    probability: float | None = None


@dataclass(frozen=True)
class Scene:
    """An image, uint8 [C, H, W] or the content of a PNG file, its alternative text, its caption, and questions about it."""

    image: Tensor | bytes
    alt: str
    title: str = ""
    turns: tuple[Turn, ...] = ()


@dataclass(frozen=True)
class Text:
    """A text under a title; ``is_aligned`` keeps the characters of its lines below each other."""

    title: str
    text: str
    is_aligned: bool = False


@dataclass
class Samples:
    """Predictions of a model for a report.

    Attributes:
        about: what was predicted, in a sentence.
        missing: why there is nothing, or not all, in a sentence.
        confusion: counts, int64 [true, predicted].
        scatter: of each number its true and its predicted values, [n] each.
        about_labels: how many training labels look wrong, in a sentence; empty where that was not examined.
        suspects: the training images with these labels, the most suspicious first.
    """

    about: str = ""
    missing: str = ""
    images: list[SampleImage] = field(default_factory=list)
    scenes: list[Scene] = field(default_factory=list)
    texts: list[Text] = field(default_factory=list)
    classes: tuple[str, ...] = ()
    confusion: Tensor | None = None
    scatter: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    about_labels: str = ""
    suspects: list[SampleImage] = field(default_factory=list)


SPLIT_NAMES = {"train": "training", "val": "validation", "test": "test"}


def require_some(split: object, what: str) -> None:
    """Refuse an empty split.

    Raises:
        UserError: there is nothing in it.
    """
    if not len(split):
        raise UserError(f"there are no {what}")


def evenly_spread(total: int, most: int) -> Tensor:
    """Indices spread evenly over ``total`` samples, int64, ascending: all of them, or ``most``."""
    return torch.linspace(0, total - 1, min(most, total), dtype=torch.float64).round().long()


def rows_of(split: Any, indices: Tensor, *columns: Tensor) -> Iterator[tuple[Any, ...]]:
    """The images of a split at these indices, uint8 [C, H, W], each with its values in ``columns``."""
    images = next(split.images.batches(iter([indices]))).cpu()
    return zip(images, *(column.tolist() for column in columns), strict=True)


def part_of(count: int, total: int, what: str) -> str:
    """``all 300 test images``, or ``2,000 of the 10,000 test images``."""
    return f"all {total:,} {what}" if count == total else f"{count:,} of the {total:,} {what}"
