"""What a report shows of what a network says, whatever its work is: pictures, scenes with questions, texts."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from zoo.config.recipe import Run
from zoo.core.errors import UserError
from zoo.pictures.predictions import open_test_data
from zoo.registry.registry import Registry
from zoo.tasks.task import Task
from zoo.training.run_folder import RunFolder

LARGEST, LARGEST_IN_SCENE = 112, 224  # pixels a side of a picture in the page


@dataclass(frozen=True)
class Trained:
    """The network of a run, on its device and ready to be asked, with the Run that it was trained by."""

    registry: Registry
    folder: RunFolder
    task: Task
    run: Run

    def open_data(self) -> Any:
        """The data that it was trained on, set up."""
        return open_test_data(self.registry, self.run, self.task.spec, "", ())


@dataclass(frozen=True)
class SampleImage:
    """A picture as a ``data:`` address, what it is, what the network says, and how sure it is (None: it does not tell).

    ``name`` tells it from others of its kind, where that matters.
    """

    source: str
    is_right: bool | None
    label: str
    said: str
    probability: float | None = None
    name: str = ""


@dataclass(frozen=True)
class Turn:
    """What was put to the network, what it says, and what would be right; ``is_right`` is None where nobody can tell."""

    asked: str
    said: str
    is_right: bool | None = None
    right: str = ""
    probability: float | None = None


@dataclass(frozen=True)
class Scene:
    """A picture as a ``data:`` address, in words what it shows, what was said of it first, and what was asked about it."""

    source: str
    alt: str
    title: str = ""
    turns: tuple[Turn, ...] = ()


@dataclass(frozen=True)
class Text:
    """A text, and how it came about; lines of one that is aligned stand exactly below each other."""

    how: str
    text: str
    is_aligned: bool = False


@dataclass
class Samples:
    """What a network says.

    Attributes:
        about: what was put to it, in a sentence.
        missing: why there is nothing, or not all, in a sentence.
        counts: confusion, int64 [classes, classes].
        about_labels: how many labels of the training data look wrong to it, in a sentence; empty if it was not asked.
        suspects: the training pictures whose labels do, the most suspicious first.
    """

    about: str = ""
    missing: str = ""
    images: list[SampleImage] = field(default_factory=list)
    scenes: list[Scene] = field(default_factory=list)
    texts: list[Text] = field(default_factory=list)
    classes: tuple[str, ...] = ()
    counts: np.ndarray | None = None
    about_labels: str = ""
    suspects: list[SampleImage] = field(default_factory=list)


def require_some(split: Any, what: str) -> None:
    """Refuse an empty split.

    Raises:
        UserError: there is nothing in it.
    """
    if not len(split):
        raise UserError(f"there are no {what}")


def evenly_spread(total: int, most: int) -> Tensor:
    """Indices from all over ``total`` samples, int64, ascending: all of them, or ``most``."""
    return torch.linspace(0, total - 1, min(most, total), dtype=torch.float64).round().long()


def part_of(count: int, total: int, what: str) -> str:
    """``all 300 test images``, or ``2,000 of the 10,000 test images``."""
    return f"all {total:,} {what}" if count == total else f"{count:,} of the {total:,} {what}"


def data_address(image: Tensor) -> str:
    """A picture, uint8 [C, H, W], as a ``data:`` address: PNG if it is small, else scaled down, as JPEG."""
    picture = _to_picture(image)
    small = max(picture.size) <= LARGEST // 2
    picture.thumbnail((LARGEST, LARGEST))
    return _encoded(picture, "png" if small else "jpeg")


def scene_address(image: Tensor) -> str:
    """The same for a scene, which is looked at more closely: small pictures are enlarged so that their pixels can be seen."""
    picture = _to_picture(image)
    times = LARGEST_IN_SCENE // max(picture.size)
    if times > 1:
        return _encoded(picture.resize([times * side for side in picture.size], Image.Resampling.NEAREST), "png")
    picture.thumbnail((LARGEST_IN_SCENE, LARGEST_IN_SCENE))
    return _encoded(picture, "jpeg")


def _to_picture(image: Tensor) -> Image.Image:
    pixels = image[:3] if image.shape[0] >= 3 else image[:1].expand(3, -1, -1)
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())


def _encoded(picture: Image.Image, kind: str) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, **({"format": "PNG"} if kind == "png" else {"format": "JPEG", "quality": 80}))
    return as_address(buffer.getvalue(), kind)


def as_address(content: bytes, kind: str) -> str:
    """The content of a file, ``png`` or ``jpeg``, as a ``data:`` address."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
