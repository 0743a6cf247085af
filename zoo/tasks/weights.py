"""Pretrained weights of a network of images."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from zoo.spec import ImageSpec


@dataclass(frozen=True)
class Weights:
    """A pretrained state dict.

    Attributes:
        origin: where it comes from, for messages.
        state: weights by name.
        spec: of the images it was trained on, with their classes; None is unknown.
        objects: names under which the file holds something other than a tensor, with the type of that.
        note: which of several state dicts in a file this is, for the report.
        model: name and options of the network that they were trained in, as in a Run; empty is unknown.
    """

    origin: str
    state: dict[str, Tensor]
    spec: ImageSpec | None = None
    objects: dict[str, str] = field(default_factory=dict)
    note: str = ""
    model: dict[str, Any] = field(default_factory=dict)
