"""What all pictures share."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from zoo.pictures.figure import CJK_FONTS, style, svg_text, write_png


def test_signs_that_no_font_has_are_told_in_one_line(tmp_path: Path, capfd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.pictures.figure.CJK_FONTS", ())
    with style(), warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = Figure()
        figure.subplots().set_title("郁金香")
        write_png(figure, tmp_path / "names.png")
    assert capfd.readouterr().err.count("\n") == 1 and (tmp_path / "names.png").stat().st_size


def test_fonts_that_are_not_installed_are_not_asked_for(caplog) -> None:
    with style():
        figure = Figure()
        figure.subplots().set_title("tulips")
        figure.canvas.draw()
    assert not caplog.records and CJK_FONTS


def test_other_warnings_are_handed_on(tmp_path: Path) -> None:
    with style(), pytest.warns(UserWarning, match="collapsed|layout"):
        figure = Figure(figsize=(0.1, 0.1), layout="constrained")
        figure.subplots().set_title("too large")
        write_png(figure, tmp_path / "small.png")


def test_a_name_that_is_no_text_is_drawn_with_its_bytes(tmp_path: Path) -> None:
    for number, name in enumerate(("caf\udce9.png", "caf\\xe9.png")):
        with style():
            figure = Figure()
            figure.suptitle(f"the heading of\n{name}")
            figure.subplots().set_title(name)
            write_png(figure, tmp_path / f"{number}.png")
    assert (tmp_path / "0.png").read_bytes() == (tmp_path / "1.png").read_bytes()


def test_an_element_of_a_page_shows_names_as_they_are() -> None:
    with style():
        figure = Figure()
        figure.subplots().set_title(r"$\frac{$")  # is no mathematics
        svg = svg_text(figure)
    assert svg.strip().startswith("<svg ") and svg.strip().endswith("</svg>") and r"<!-- $\frac{$ -->" in svg
