"""Plots as Bokeh gets them: the data they hold, the table beside them, and that nothing in them can leave its script."""

from __future__ import annotations

import base64
import gzip
import json
import math
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from zoo.report.history import columns
from zoo.report.plots import HEIGHT, INK, LETTER, Line, Plot, confusion_plot, heat_map, layer_lines, line_plot, number

HOSTILE = "</script><script>alert(1)</script>"


def models(plot: Plot, name: str) -> list[dict[str, Any]]:
    """The attributes of all models of one type in what is embedded."""
    found = []

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            if node.get("type") == "object" and node.get("name") == name:
                found.append(node["attributes"])
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(json.loads(plot.item))
    return found


def array(node: dict[str, Any]) -> np.ndarray:
    values = np.frombuffer(gzip.decompress(base64.b64decode(node["array"]["data"])), dtype=np.dtype(node["dtype"]))
    return values.reshape(node["shape"])


def data(plot: Plot) -> list[dict[str, Any]]:
    """The columns of every source, in order."""
    return [dict(source["data"]["entries"]) for source in models(plot, "ColumnDataSource")]


def test_a_line_holds_its_points_and_the_table_its_extremes() -> None:
    x, y = np.arange(5.0), np.array([3.0, 1.0, math.nan, 8.0, 2.0])
    plot = line_plot("Loss", "falls", [Line(x, y, "train"), Line(x, y + 1, "val", 1)], "epochs", most=300)
    first, second = data(plot)
    np.testing.assert_array_equal(array(first["y"]), y)
    np.testing.assert_array_equal(array(second["y"]), y + 1)
    assert plot.header == ("", "first", "last", "min", "max")
    assert plot.rows[0] == ("train", "3", "2", "1 (epochs 1)", "8 (epochs 3)")


def test_a_logarithmic_line_leaves_out_what_is_not_above_zero() -> None:
    plot = line_plot("Norm", "", [Line(np.arange(4), np.array([1.0, 0.0, -1.0, math.inf]), "norm")], "step", most=300, log=True)
    np.testing.assert_array_equal(array(data(plot)[0]["y"]), [1, math.nan, math.nan, math.nan])


def test_a_line_of_nothing_is_no_error() -> None:
    plot = line_plot("Loss", "", [Line(np.arange(3), np.full(3, math.nan), "train")], "step", most=300)
    assert plot.rows == [("train", "–", "–", "–", "–")]


def test_many_lines_share_the_points() -> None:
    lines = [Line(np.arange(1000), np.random.default_rng(n).random(1000), f"run {n}", n) for n in range(100)]
    plot = line_plot("Loss", "", lines, "step", most=300)
    assert sum(len(array(each["y"])) for each in data(plot)) <= 12_000


def test_a_heat_map_has_a_row_for_each_layer_and_a_column_for_each_record() -> None:
    steps = np.arange(0, 100, 10)
    values = np.random.default_rng(0).random((3, 10))
    names = [f"network.trunk.first_half.{name}.conv" for name in "abc"]
    plot = heat_map("Spread", "", names, steps, values, columns(steps, 300), "log", HEIGHT)
    (source,) = data(plot)
    rows = [array(row)[0] for row in source["image"]]
    np.testing.assert_allclose(np.stack(rows), values, rtol=1e-6)
    assert source["name"] == names
    (mapper,) = models(plot, "LogColorMapper")
    assert mapper["low"] == pytest.approx(values.min()) and mapper["high"] == pytest.approx(values.max())
    assert [row[0] for row in plot.rows] == names and plot.header[1:] == (
        "step 0",
        "step 20",
        "step 40",
        "step 50",
        "step 70",
        "step 90",
    )
    assert plot.rows[1][1] == f"{values[1, 0]:.4g}"
    assert all(label in plot.item for label in ('"a.conv"', '"b.conv"', '"c.conv"'))  # what all share is left out along the axis


@pytest.mark.parametrize("scale", ["log", "share", "signed"])
@pytest.mark.parametrize("value", [0.0, -1.0, 5.0, math.nan, math.inf])
def test_a_heat_map_of_one_value_has_a_scale(scale: str, value: float) -> None:
    steps = np.arange(3)
    plot = heat_map("Dead", "", ["a"], steps, np.full((1, 3), value), columns(steps, 300), scale, HEIGHT)
    (mapper,) = models(plot, "LogColorMapper" if scale == "log" else "LinearColorMapper")
    assert mapper["low"] < mapper["high"]
    assert scale != "signed" or mapper["low"] == -mapper["high"]
    assert scale != "share" or mapper["low"] == 0


def test_updates_are_drawn_for_each_parameter_with_the_line_at_a_thousandth() -> None:
    steps, values = np.arange(4), np.array([[1e-3, 2e-3, 3e-3, math.nan], [0.0, 1e-2, 1e-1, 1.0]])
    plot = layer_lines("Updates", "", steps, ["a", "b"], values, 1e-3, 300)
    (source,) = data(plot)
    np.testing.assert_allclose(array(source["ys"][0]), [1e-3, 2e-3, 3e-3], rtol=1e-6)
    np.testing.assert_array_equal(array(source["xs"][1]), [1, 2, 3])
    assert [span["location"] for span in models(plot, "Span")] == [1e-3]


@pytest.mark.parametrize("classes", [3, 60])
def test_a_confusion_matrix_holds_all_counts(classes: int) -> None:
    random = np.random.default_rng(0)
    counts = confusion_matrix(random.integers(0, classes, 5000), random.integers(0, classes, 5000), labels=range(classes))
    plot = confusion_plot("Confusion", "", counts, [f"class {n}" for n in range(classes)])
    source, held = data(plot)[0], np.zeros_like(counts)
    true, predicted = ([int(name.removeprefix("class ")) for name in source[key]] for key in ("true", "predicted"))
    held[true, predicted] = array(source["count"])
    np.testing.assert_array_equal(held, counts)
    np.testing.assert_array_equal((array(source["y"]), array(source["x"])), np.add((true, predicted), 0.5))
    assert len(models(plot, "Text")) == (3 if classes == 3 else 0)  # counts, as glyphs of normal, faded and selected cells
    assert [row["low"] for row in models(plot, "LinearColorMapper")] == [0] and len(models(plot, "ColorBar")) == 1
    off = counts - np.diag(np.diag(counts))
    assert plot.rows[0][2] == f"{off.max():,}"  # the most frequent confusion comes first
    true, said = (int(name.removeprefix("class ")) for name in plot.rows[0][:2])
    assert counts[true, said] == off.max()
    assert plot.rows[0][3] == f"{off.max() / counts[true].sum():.{2 if classes == 3 else 0}%}"  # of about 1,700, and of 80


def test_a_perfect_classifier_has_a_table_too() -> None:
    assert confusion_plot("Confusion", "", np.eye(2, dtype=int), ["a", "b"]).rows == [("no mistakes", "", "", "")]


def test_names_from_outside_cannot_leave_the_script() -> None:
    steps = np.arange(3)
    plots = [
        line_plot("Loss", "", [Line(steps, steps * 1.0, HOSTILE), Line(steps, steps * 1.0, "<!--", 1)], "step", most=300),
        heat_map("Spread", "", [HOSTILE, "b"], steps, np.ones((2, 3)), columns(steps, 300), "log", HEIGHT),
        layer_lines("Updates", "", steps, [HOSTILE], np.ones((1, 3)), 1e-3, 300),
        confusion_plot("Confusion", "", np.ones((2, 2), dtype=int), [HOSTILE, "b"]),
    ]
    for plot in plots:
        assert "<" not in plot.item and ">" not in plot.item
        assert HOSTILE in json.dumps(json.loads(plot.item), ensure_ascii=False)


def test_text_has_the_color_that_the_page_replaces() -> None:
    steps = np.arange(3)
    plot = heat_map("Spread", "", ["a", "b"], steps, np.ones((2, 3)), columns(steps, 300), "log", HEIGHT)
    axes, (bar,) = models(plot, "LinearAxis"), models(plot, "ColorBar")
    assert len(axes) == 2
    assert all(INK in str(each["major_label_text_color"]) for each in (*axes, bar))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.123456, "0.1235"),
        (12345.6, "12,346"),
        (-20000.0, "-20,000"),
        (math.nan, "–"),
        (math.inf, "inf"),
        (1e-9, "1e-09"),
        (0.0, "0"),
    ],
)
def test_numbers_have_four_digits(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(("high", "formats"), [(0.003, ["0.[00]a"]), (20_000.0, ["0.[00]a", "0,0.[00]"])])
def test_values_are_written_as_people_do(high: float, formats: list[str]) -> None:
    line = Line(np.arange(3.0), np.array([0.0, math.nan, high]), "rate")
    plot = line_plot("Rate", "", [line], "step", most=300)
    assert sorted(each["format"] for each in models(plot, "NumeralTickFormatter")) == sorted(formats)
    assert [each["power_limit_low"] for each in models(plot, "BasicTickFormatter")] == ([-6] if high < 1 else [])


def test_a_confusion_matrix_is_never_narrower_than_its_counts() -> None:
    few, many = (confusion_plot("Confusion", "", np.full((10, 10), n), list("0123456789")) for n in (9, 12_345))
    widths = [models(plot, "Figure")[0]["min_width"] for plot in (few, many)]
    assert widths[1] - widths[0] == 10 * 5 * LETTER  # "12,345" has five more characters than "9"
