"""Style, colors and output shared by all figures.

Figures are created without pyplot, so they need no display and leave no global state.
"""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.style
import numpy as np
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedFormatter, FuncFormatter

from zoo.core.errors import UserError
from zoo.core.files import require_writable, write_output
from zoo.core.printing import LAYOUT, printable

DPI = 150
# fallbacks for class names in Chinese, Japanese or Korean, in this order, if installed
CJK_FONTS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Zen Hei", "PingFang SC", "Hiragino Sans",
    "Microsoft YaHei", "Arial Unicode MS",
)  # fmt: skip
# accessible with color vision deficiencies (Petroff 2021, arXiv:2107.02270)
COLORS = matplotlib.color_sequences["petroff10"]
SEQUENTIAL = "viridis"
DIVERGING = "RdBu_r"  # red above zero, blue below
STYLE = {
    "figure.dpi": DPI,
    "figure.constrained_layout.h_pad": 0.08,  # inches
    "figure.constrained_layout.w_pad": 0.08,
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
}


@dataclass(frozen=True)
class Picture:
    """A figure, what to look for in it, and the next command."""

    figure: Figure
    look_for: str
    next: str


@contextmanager
def style() -> Iterator[None]:
    """Apply the zoo's matplotlib style, independent of the user's ``matplotlibrc``."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    family = [matplotlib.rcParamsDefault["font.sans-serif"][0], *(name for name in CJK_FONTS if name in installed)]
    with matplotlib.style.context(["default", STYLE, {"font.family": family}]):
        yield


def check_output(path: Path) -> None:
    """Check an output path before drawing.

    Raises:
        UserError: it does not end in ``.png``, is a folder, or cannot be written.
    """
    if path.suffix.lower() != ".png":
        raise UserError(f"--output {path}: pictures are PNG files, so the name must end in .png")
    require_writable("--output", path)


def longest_line(texts: Iterable[str], size: float) -> float:
    """Approximate width in inches of the longest line of some texts, in a font of ``size`` points."""
    return 0.0085 * size * max(len(line) for text in texts for line in text.split("\n"))


def image_grid(figure: Figure, rows: int, columns: int) -> np.ndarray:
    """Axes for images, without ticks and frames, [rows, columns]."""
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    return grid


def write_png(figure: Figure, path: Path) -> None:
    """Write a figure atomically.

    Raises:
        UserError: the file cannot be written; an older file is kept.
    """
    write_output(path, png_bytes(figure))


def _show_names(figure: Figure) -> None:
    """Draw names as they are: dollar signs not as mathematics, which only numbers have, and bytes that are no text escaped."""
    numbers = set()
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        labels = axis.get_ticklabels(which="both")
        if not isinstance(axis.get_major_formatter(), (FixedFormatter, FuncFormatter)):
            numbers.update(labels)
    for text in figure.findobj(Text):
        if text not in numbers:
            text.set_parse_math(False)
            text.set_text(printable(text.get_text(), LAYOUT))


def svg_text(figure: Figure) -> str:
    """Render a figure as an SVG element."""
    return _render(figure, format="svg").decode().partition("<!DOCTYPE")[2].partition(">")[2]


def png_bytes(figure: Figure) -> bytes:
    """Render a figure as PNG; equal figures give equal bytes."""
    return _render(figure, format="png", dpi=DPI, metadata={"Software": None})


def _render(figure: Figure, **options: Any) -> bytes:
    _show_names(figure)
    buffer = io.BytesIO()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figure.savefig(buffer, **options)
    missing_glyphs = [each for each in caught if str(each.message).startswith("Glyph")]  # one per character
    for each in caught:
        if each not in missing_glyphs:
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
    if missing_glyphs:
        print("warning: no installed font has the characters of some names, which are drawn as boxes", file=sys.stderr)
    return buffer.getvalue()
