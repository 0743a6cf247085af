"""The plane of the toy data sets: axes, points and class colors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D
from torch import Tensor

from zoo.pictures.figure import COLORS

STEPS = 256  # values of a uint8 coordinate


def plane_points() -> Tensor:
    """All points of the plane, uint8 [65536, 2, 1, 1]: row by row from the bottom, each from left to right."""
    y, x = torch.meshgrid(torch.arange(STEPS), torch.arange(STEPS), indexing="ij")
    return torch.stack([x, y], -1).view(-1, 2, 1, 1).to(torch.uint8)


def coordinates(images: Tensor) -> np.ndarray:
    """Coordinates in the unit square, [n, 2], of points, uint8 [n, 2, 1, 1]."""
    return (images.flatten(1).numpy() + 0.5) / STEPS


def class_colors(count: int) -> np.ndarray:
    """RGB color per class, [count, 3] in [0, 1]; repeated after ten."""
    return np.array([to_rgb(COLORS[index % len(COLORS)]) for index in range(count)])


def set_up_axes(axes: Axes, title: str) -> None:
    """Set up axes for the unit square, without ticks."""
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xticks=[], yticks=[])
    axes.set_title(title, fontsize=9)
    axes.spines[:].set_visible(True)


def draw_points(axes: Axes, images: Tensor, labels: Tensor, classes: int) -> None:
    """Draw points in the colors of their classes."""
    x, y = coordinates(images).T
    axes.scatter(x, y, s=9, c=class_colors(classes)[labels.numpy()], edgecolors="white", linewidths=0.4)


def class_handles(classes: Sequence[str]) -> list[Line2D]:
    """Legend handles for the classes."""
    colors = class_colors(len(classes))
    return [
        Line2D([], [], linestyle="", marker="o", markersize=5, color=color, label=f"class {name}")
        for name, color in zip(classes, colors, strict=True)
    ]
