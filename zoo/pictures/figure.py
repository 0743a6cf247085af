"""What all pictures share: their style, colours that everybody can tell apart, and a PNG that is written whole or not at all.

Figures are made as objects, without pyplot: nothing global remembers them, and no display is needed.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import matplotlib.style
from matplotlib.figure import Figure

from zoo.errors import UserError
from zoo.fetch import replace_file, require_writable

DPI = 150
# ten colours chosen to be told apart with any colour vision (Petroff 2021, arXiv:2107.02270)
COLOURS = matplotlib.color_sequences["petroff10"]
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
    with matplotlib.style.context(["default", STYLE]):
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
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})  # equal figures are equal files
    try:
        replace_file(path, buffer.getvalue())
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror.lower()}") from None
