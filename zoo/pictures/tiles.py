"""Sheets of small images with titles."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from zoo.pictures.figure import DIVERGING, DPI

GAP, MARGIN = 12, 24  # all lengths are pixels
LINE, LETTER = 21, 10  # height of a line of a title, and width of an average letter
HEADING_LINE, HEADING_LETTER = 26, 10
SCALE_BAR = 80
MIN_WIDTH = 460  # of the sheet, for the heading


def draw_tiles(images: np.ndarray, titles: Sequence[str], heading: str, side: int = 130) -> Figure:
    """Draw a sheet of equal tiles, row by row.

    Args:
        images: RGB in [0, 1], [n, H, W, 3], or signed values, [n, H, W], drawn on one diverging scale.
        titles: above each tile, may have several lines; empty for none.
        side: approximate width of a tile; small images are enlarged by an integer factor.
    """
    count, height, width = images.shape[:3]
    factor = max(1, round(side / width)) if width <= side else side / width
    height, width = round(height * factor), round(width * factor)
    columns = _columns(count)
    band = LINE * max((title.count("\n") + 1 for title in titles), default=0)
    signed = images.ndim == 3
    sheet_width = max(2 * MARGIN + columns * (width + GAP) - GAP, MIN_WIDTH)
    heading = textwrap.fill(heading, (sheet_width - 2 * MARGIN) // HEADING_LETTER)
    top_of_tiles = GAP + HEADING_LINE * (heading.count("\n") + 1) + GAP
    rows = math.ceil(count / columns)
    sheet_height = top_of_tiles + MARGIN + rows * (height + band + GAP) + (SCALE_BAR if signed else 0)

    figure = Figure((sheet_width / DPI, sheet_height / DPI))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, sheet_width), ylim=(sheet_height, 0))
    axes.axis("off")
    axes.text(MARGIN, GAP, heading, fontsize=10, va="top")
    limit = float(np.abs(images).max()) or 1.0
    coloring = {"cmap": DIVERGING, "norm": Normalize(-limit, limit)} if signed else {}
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        left, top = MARGIN + column * (width + GAP), top_of_tiles + row * (height + band + GAP) + band
        smoothing = "nearest" if factor >= 1 else "antialiased"
        axes.imshow(image, extent=(left, left + width, top + height, top), interpolation=smoothing, **coloring)
        if titles:
            axes.text(left, top - 7, _cut(titles[index], width), fontsize=8, va="baseline", linespacing=1.1)
    axes.set(xlim=(0, sheet_width), ylim=(sheet_height, 0), aspect="auto")  # imshow changes them
    if signed:
        _scale_bar(figure, coloring, sheet_width, sheet_height)
    return figure


def _columns(count: int) -> int:
    """Tiles per row: if possible so that all rows are full, on a sheet between square and four times as wide as high."""
    smallest = math.ceil(math.sqrt(count))
    return next((columns for columns in range(smallest, 2 * smallest) if count % columns == 0), smallest)


def _scale_bar(figure: Figure, coloring: dict, sheet_width: int, sheet_height: int) -> None:
    place = figure.add_axes((2 * MARGIN / sheet_width, 46 / sheet_height, 260 / sheet_width, 14 / sheet_height))
    bar = figure.colorbar(ScalarMappable(**coloring), cax=place, orientation="horizontal")
    limit = coloring["norm"].vmax
    bar.set_ticks([-limit, 0, limit], labels=[f"{-limit:.2g}", "0", f"{limit:.2g}"])
    bar.ax.tick_params(labelsize=8, length=2)


def _cut(title: str, width: int) -> str:
    """Truncate each line to the width of a tile."""
    room = max(3, width // LETTER)
    return "\n".join(line if len(line) <= room else line[: room - 1] + "…" for line in title.split("\n"))
