"""Sheets of small images with titles."""

from __future__ import annotations

import math
import textwrap
import warnings
from collections.abc import Sequence

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.text import Text

from zoo.pictures.figure import DIVERGING, DPI

GAP, MARGIN = 12, 24  # all lengths are pixels
LINE = 21  # height of a line of a title
HEADING_LINE, HEADING_LETTER = 26, 10
SCALE_BAR = 80
MIN_WIDTH = 460  # of the sheet, for the heading
WIDEST = 18  # width of the widest letter of a title
KEPT_END = 6  # letters at the end of a line that is shortened: a probability, or what kind of file it is


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
    bands = [
        LINE * max((title.count("\n") + 1 for title in titles[start : start + columns]), default=0)
        for start in range(0, count, columns)
    ]
    signed = images.ndim == 3
    sheet_width = max(2 * MARGIN + columns * (width + GAP) - GAP, MIN_WIDTH)
    heading = textwrap.fill(heading, (sheet_width - 2 * MARGIN) // HEADING_LETTER)
    top_of_tiles = GAP + HEADING_LINE * (heading.count("\n") + 1) + GAP
    sheet_height = top_of_tiles + sum(bands) + len(bands) * (height + GAP) + MARGIN + (SCALE_BAR if signed else 0)

    figure = Figure((sheet_width / DPI, sheet_height / DPI))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, sheet_width), ylim=(sheet_height, 0))
    axes.axis("off")
    axes.text(MARGIN, GAP, heading, fontsize=10, va="top")
    limit = float(np.abs(images).max()) or 1.0
    coloring = {"cmap": DIVERGING, "norm": Normalize(-limit, limit)} if signed else {}
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        left, top = MARGIN + column * (width + GAP), top_of_tiles + row * (height + GAP) + sum(bands[: row + 1])
        smoothing = "nearest" if factor >= 1 else "antialiased"
        axes.imshow(image, extent=(left, left + width, top + height, top), interpolation=smoothing, **coloring)
        if titles:
            style = {"fontsize": 8, "va": "baseline", "linespacing": 1.1, "parse_math": False}
            _shorten(axes.text(left, top - 7, titles[index], **style), width)
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


def _shorten(title: Text, width: int) -> None:
    """Leave out the middle of each line of a title that is wider than its tile."""
    lines = []
    for line in title.get_text().split("\n"):
        kept = len(line)
        title.set_text(line)
        while kept > KEPT_END + 1 and (drawn := _width(title)) > width:
            kept -= max(1, int((drawn - width) / WIDEST))
            title.set_text(_without_middle(line, max(kept, KEPT_END + 1)))
        lines.append(title.get_text())
    title.set_text("\n".join(lines))


def _without_middle(line: str, length: int) -> str:
    return f"{line[: length - KEPT_END - 1].rstrip()}…{line[-KEPT_END:]}"


def _width(text: Text) -> float:
    with warnings.catch_warnings():  # of missing glyphs, which are reported when the figure is written
        warnings.simplefilter("ignore")
        return text.get_window_extent(dpi=DPI).width
