"""What all pictures share: their style, colors that everybody can tell apart, and a PNG that is written whole or not at all.

Figures are made as objects, without pyplot: nothing global remembers them, and no display is needed.
"""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import matplotlib.style
from matplotlib import font_manager
from matplotlib.figure import Figure

from zoo.core.errors import UserError
from zoo.core.files import replace_file, require_writable

DPI = 150
# in this order, as far as they are installed, for names that the usual font has no letters for
FONTS_OF_THE_EAST = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Zen Hei", "PingFang SC", "Hiragino Sans",
    "Microsoft YaHei", "Arial Unicode MS",
)  # fmt: skip
# ten colors chosen to be told apart with any color vision (Petroff 2021, arXiv:2107.02270)
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
    """A figure, what to look for in it in one sentence, and the command that goes on from there."""

    figure: Figure
    look_for: str
    next: str


@contextmanager
def style() -> Iterator[None]:
    """Inside, figures are drawn in the zoo's style, whatever the user's own settings of matplotlib say."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    family = [matplotlib.rcParamsDefault["font.sans-serif"][0], *(name for name in FONTS_OF_THE_EAST if name in installed)]
    with matplotlib.style.context(["default", STYLE, {"font.family": family}]):
        yield


def check_output(path: Path) -> None:
    """Refuse a file that could not be written, before any work is done for it.

    Raises:
        UserError: not a PNG, a folder, or in a place where nothing can be written.
    """
    if path.suffix.lower() != ".png":
        raise UserError(f"--output {path}: pictures are PNG, so its name must end in .png")
    require_writable("--output", path)


def write_png(figure: Figure, path: Path) -> None:
    """Write the figure; an older file of that name is replaced at once, or kept if something goes wrong.

    Raises:
        UserError: the file cannot be written.
    """
    content = png_bytes(figure)
    try:
        replace_file(path, content)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror.lower()}") from None


def png_bytes(figure: Figure) -> bytes:
    """The figure as the content of a PNG file; equal figures are equal files."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    without_a_sign = [each for each in told if str(each.message).startswith("Glyph")]  # one for each sign
    for each in told:
        if each not in without_a_sign:
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
    if without_a_sign:
        print("warning: no font here has the signs of some names, which are drawn as boxes", file=sys.stderr)
    return buffer.getvalue()
