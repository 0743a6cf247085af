"""The plane of the toy data: its axes, its points in the colors of their classes, and every input that it has."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D
from torch import Tensor

from zoo.pictures.figure import COLORS

STEPS = 256  # of each coordinate: a byte


def every_input() -> Tensor:
    """All points of the plane as images, uint8 [65536, 2, 1, 1]: row by row from below, each from left to right."""
    y, x = torch.meshgrid(torch.arange(STEPS), torch.arange(STEPS), indexing="ij")
    return torch.stack([x, y], -1).view(-1, 2, 1, 1).to(torch.uint8)


def coordinates(images: Tensor) -> np.ndarray:
    """x and y in the unit square, [n, 2], of points stored as images, uint8 [n, 2, 1, 1]."""
    return (images.flatten(1).numpy() + 0.5) / STEPS


def class_colors(count: int) -> np.ndarray:
    """One color a class, [count, 3] in [0, 1]; from the eleventh on they come again."""
    return np.array([to_rgb(COLORS[index % len(COLORS)]) for index in range(count)])


def set_up(axes: Axes, title: str) -> None:
    """The unit square, without numbers: only how the points lie to each other matters."""
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xticks=[], yticks=[])
    axes.set_title(title, fontsize=9)
    axes.spines[:].set_visible(True)


def draw_points(axes: Axes, images: Tensor, labels: Tensor, classes: int) -> None:
    """Points in the colors of their classes."""
    x, y = coordinates(images).T
    axes.scatter(x, y, s=9, c=class_colors(classes)[labels.numpy()], edgecolors="white", linewidths=0.4)


def class_handles(classes: Sequence[str]) -> list[Line2D]:
    """What a legend needs to name the classes."""
    colors = class_colors(len(classes))
    return [
        Line2D([], [], linestyle="", marker="o", markersize=5, color=color, label=f"class {name}")
        for name, color in zip(classes, colors, strict=True)
    ]
