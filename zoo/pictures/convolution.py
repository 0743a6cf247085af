"""How a convolution slides over an image: stride, padding, and the size of the output."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor
from torch.nn import functional as F

from zoo.pictures.figure import COLORS, Picture
from zoo.registry.registry import Registry
from zoo.training.run_folder import RunFolder

IMAGE = torch.tensor([[1, 2, 0, 0, 1], [0, 3, 0, 1, 4], [0, 2, 1, 0, 4], [0, 2, 0, 1, 5], [0, 1, 0, 0, 2]]).float()
EDGES = torch.tensor([[-1, 0, 1], [-1, 0, 1], [-1, 0, 1]]).float()  # bright on the right of dark
KERNEL = len(EDGES)
PIXELS, SUMS = ("Oranges", 0, 8), ("RdBu_r", -20, 20)  # color maps and their ends, pale enough for numbers on them


@dataclass(frozen=True)
class Sliding:
    """A window of 3x3 pixels that slides over an image, and what it computes: the filter, or the maximum."""

    title: str
    stride: int = 1
    padding: int = 0
    is_pooling: bool = False

    def slide(self, image: Tensor) -> Tensor:
        """The output for an image: [H, W] -> [height, width]."""
        if self.is_pooling:
            return F.max_pool2d(image[None, None], KERNEL, self.stride, self.padding)[0, 0]
        return F.conv2d(image[None, None], EDGES[None, None], stride=self.stride, padding=self.padding)[0, 0]


SLIDINGS = (
    Sliding("convolution, stride 1"),
    Sliding("padding 1: the size stays", padding=1),
    Sliding("padding 1, stride 2: about half the size", stride=2, padding=1),
    Sliding("max-pooling, stride 2", stride=2, is_pooling=True),
)


def convolution(registry: Registry, runs: list[RunFolder]) -> Picture:
    """Draw, for each of four settings, the padded image with three positions of the window, and the output."""
    figure = Figure((11.4, 6.8), layout="constrained")
    parts = figure.subfigures(2, 2, hspace=0.04, wspace=0.04).flat
    for part, sliding in zip(parts, SLIDINGS, strict=True):
        output = sliding.slide(IMAGE)
        size, padded = len(output), F.pad(IMAGE, [sliding.padding] * 4)
        formula = f"({len(IMAGE)} + 2·{sliding.padding} − {KERNEL}) / {sliding.stride} + 1 = {size}"
        part.suptitle(f"{sliding.title}\n{formula}", fontsize=10)
        left, right = part.subplots(1, 2, width_ratios=(len(padded), size))
        _draw_numbers(left, padded, PIXELS, sliding.padding)
        _draw_numbers(right, output, PIXELS if sliding.is_pooling else SUMS)
        for color, (row, column) in zip(COLORS[:3], ((0, 0), (0, 1), (size - 1, size - 1)), strict=True):
            _draw_window(left, row * sliding.stride, column * sliding.stride, KERNEL, color)
            _draw_window(right, row, column, 1, color)
    return Picture(
        figure,
        "a window and the output in the same color belong together: an output is the sum of the nine products of pixels and "
        "weights (-1 0 1 in each row), so it is large at an edge from dark to bright, and negative at one from bright to dark; "
        "pooling takes the maximum instead. Pixels in gray are padding",
        "zoo show convnet --layers",
    )


def _draw_numbers(axes: Axes, values: Tensor, colors: tuple[str, float, float], padding: int = 0) -> None:
    """Draw numbers on a colored grid, with the ``padding`` around them in gray."""
    size = len(values)
    axes.imshow(values, **dict(zip(("cmap", "vmin", "vmax"), colors, strict=True)))
    axes.set(xticks=[], yticks=[], xlim=(-0.6, size - 0.4), ylim=(size - 0.4, -0.6))
    axes.spines[:].set_visible(False)
    for row in range(size):
        for column in range(size):
            is_padding = min(row, column) < padding or max(row, column) >= size - padding
            if is_padding:
                axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor="0.85", edgecolor="white"))
            axes.text(column, row, f"{values[row, column]:g}", ha="center", va="center", color="0.5" if is_padding else "black")


def _draw_window(axes: Axes, row: int, column: int, size: int, color: tuple[float, float, float]) -> None:
    inset = 0.04
    corner, side = (column - 0.5 + inset, row - 0.5 + inset), size - 2 * inset
    axes.add_patch(Rectangle(corner, side, side, fill=False, edgecolor=color, linewidth=2.4))
