"""Sheets of tiles: titles stay within their tiles, and rows lie below each other."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from zoo.pictures.figure import DPI, style
from zoo.pictures.tiles import GAP, LINE, draw_tiles


def sheet(titles: list[str], side: int = 240) -> Figure:
    with style():
        return draw_tiles(np.zeros((len(titles), 8, 8, 3)), titles, "heading", side)


@pytest.mark.parametrize("letter", ["i", "W", "8", "$x"])
def test_a_long_title_loses_its_middle_and_nothing_more(letter: str) -> None:
    figure = sheet(["short", f"predicted {letter * 200} (83%)\n{letter * 100}.jpg"])
    _, short, long = figure.axes[0].texts
    assert short.get_text() == "short"
    lines = long.get_text().split("\n")
    assert lines[0].startswith(f"predicted {letter}") and lines[0].endswith(f"{(letter * 9 + ' (83%)')[-6:]}")
    assert lines[1].endswith(".jpg") and all("…" in line for line in lines)
    assert 0.9 * 240 < long.get_window_extent(dpi=DPI).width <= 240


def test_a_row_is_as_high_as_its_own_titles() -> None:
    images = sheet(["one\ntwo\nthree", "one", "one", "one"]).axes[0].images  # two rows of two
    (_, _, bottom, top), (*_, next_top) = images[0].get_extent(), images[2].get_extent()
    assert next_top - bottom == GAP + LINE and bottom - top == 240
