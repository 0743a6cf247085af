"""The plots of a report: lines, heat maps and matrices that answer to the pointer, each with a table of the same numbers.

Bokeh draws them, because its JavaScript comes in its Python package and can be put into the page. Text and axes have the color
``INK``, in whose place the page puts its own, so that they follow light and dark; colors of data are of middle lightness.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from bokeh.embed import json_item
from bokeh.models import (
    ColorBar,
    ColumnDataSource,
    FixedTicker,
    HoverTool,
    InlineStyleSheet,
    LinearColorMapper,
    LogColorMapper,
    NumeralTickFormatter,
    Span,
)
from bokeh.palettes import Cividis256
from bokeh.plotting import figure

from zoo.report.history import Columns, heat, thin

# middle lightness, to be seen on white and on black; told apart by lightness and dashes where the hue is not enough
COLORS = ("#3f90da", "#e76300", "#2e9e4f", "#9467bd", "#d6404e", "#17919c", "#a96b59", "#717581")
DASHES = ("solid", "dashed", "dotted", "dotdash")
FIRST_LAYER, LAST_LAYER = (63, 144, 218), (231, 99, 0)  # of lines that are told apart by depth
BELOW, ZERO, ABOVE = (20, 110, 220), (150, 150, 150), (240, 100, 0)  # of signed values
INK = "#808182"
HEIGHT = 280  # pixels
LEAST_SHARE = 0.1  # that a scale of shares reaches to, so that a handful does not look like all
ROW = 18  # pixels of a row in a heat map
LONGEST = 26  # letters of a name along an axis
TABLE_COLUMNS = 6
MOST_LINE_POINTS = 12_000  # of all lines of one plot
SCROLLS = ".bk-Canvas { touch-action: pan-y; }"  # a finger on a plot still scrolls the page


@dataclass(frozen=True)
class Line:
    """A line of a plot: points, the name in the legend, and of which run it is; ``bold`` for validation."""

    x: np.ndarray
    y: np.ndarray
    name: str
    color: int = 0
    bold: bool = True


@dataclass(frozen=True)
class Plot:
    """One plot and what stands around it.

    Attributes:
        title: what is shown.
        caption: what to look for.
        item: what Bokeh needs to draw it, as JSON that is safe inside a script element.
        header, rows: the table with the same numbers, thinned.
        height: pixels.
    """

    title: str
    caption: str
    item: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    height: int


def line_plot(
    title: str, caption: str, lines: Sequence[Line], x_label: str, *, most: int, log: bool = False, unit: str = ""
) -> Plot:
    """Lines over steps or epochs.

    Args:
        most: points of a line.
        log: a logarithmic scale, from which what is not above zero is left out.
        unit: of the values, for the axis.
    """
    lines = [_drawable(line, log, _share(most, len(lines))) for line in lines]
    plot = _figure(title, x_label, unit, HEIGHT, y_axis_type="log" if log else "linear")
    for line in lines:
        looks = {"line_dash": DASHES[line.color // len(COLORS) % len(DASHES)], "line_width": 2.4 if line.bold else 1.2}
        color = COLORS[line.color % len(COLORS)]
        source = ColumnDataSource({"x": line.x, "y": line.y, "name": [line.name] * len(line.x)})
        plot.line("x", "y", source=source, color=color, alpha=1 if line.bold else 0.75, legend_label=line.name, **looks)
        if len(line.x) <= 12:  # a single point would be invisible
            plot.scatter("x", "y", source=source, color=color, size=5 if line.bold else 3, legend_label=line.name)
    plot.add_tools(HoverTool(tooltips=[("", "@name"), (x_label, "@x{0.[00]}"), ("value", "@y{0.[00000]}")]))
    _legend(plot, [line.name for line in lines])
    return _plot(title, caption, plot, *_line_table(lines, x_label))


def layer_lines(
    title: str, caption: str, steps: np.ndarray, names: Sequence[str], values: np.ndarray, mark: float, most: int
) -> Plot:
    """A line of at most ``most`` points for each parameter, from the first to the last color; ``mark`` is a dashed line.

    Args:
        values: [rows, n], above zero: the scale is logarithmic.
    """
    xs, ys = [], []
    for row in np.where(values > 0, values, np.nan):
        recorded = np.isfinite(row)
        x, y = thin(steps[recorded], row[recorded], _share(most, len(names)))
        xs.append(x.astype(np.float64))
        ys.append(y.astype(np.float32))
    plot = _figure(title, "step", "", HEIGHT + 60, y_axis_type="log")
    colors = _between(FIRST_LAYER, LAST_LAYER, len(names))
    source = ColumnDataSource({"xs": xs, "ys": ys, "name": list(names), "color": colors})
    glyph = plot.multi_line("xs", "ys", source=source, line_color="color", line_width=1.4)
    tips = [("", "@name"), ("step", "$x{0}"), ("value", "$y{0.[0000000]}")]  # what the pointer is at
    plot.add_tools(HoverTool(renderers=[glyph], tooltips=tips))
    plot.add_layout(Span(location=mark, dimension="width", line_dash="dashed", line_color=INK, line_width=1.5))
    return _plot(title, caption, plot, *_layer_table(names, steps, values))


def heat_map(
    title: str, caption: str, names: Sequence[str], steps: np.ndarray, values: np.ndarray, where: Columns, scale: str
) -> Plot:
    """Layers, the first on top, over steps.

    Args:
        names: of the rows.
        steps, values: all that was recorded, [n] and [rows, n], for the table.
        where: the columns, of ``heat``, that ``values`` are drawn in.
        scale: of the colors: ``log``; ``share``, which begins at zero; or ``signed``, which is even on both sides of zero.
    """
    cells = heat(values, where).astype(np.float32)
    mapper = _colors(cells, scale)
    rows = len(names)
    height = max(150, min(620, 90 + ROW * rows))
    plot = _figure(title, "step", "", height, x_range=(where.start, where.end), y_range=(rows, 0))
    source = ColumnDataSource(
        {
            "image": [row[None] for row in cells],
            "x": [where.start] * rows,
            "y": list(range(rows)),
            "dw": [where.end - where.start] * rows,
            "dh": [1] * rows,
            "name": list(names),
        }
    )
    glyph = plot.image("image", "x", "y", "dw", "dh", source=source, color_mapper=mapper)
    plot.add_tools(HoverTool(renderers=[glyph], tooltips=[("", "@name"), ("step", "$x{0}"), ("value", "@image{0.[000000]}")]))
    shared = _shared_prefix(names)
    ticks = [place + 0.5 for place in range(0, rows, math.ceil(rows / 30))]
    plot.yaxis.ticker = FixedTicker(ticks=ticks)
    plot.yaxis.major_label_overrides = {tick: _short(names[int(tick)][len(shared) :]) for tick in ticks}
    plot.grid.visible = False
    bar = ColorBar(color_mapper=mapper, width=10, padding=4, label_standoff=6, background_fill_alpha=0)
    bar.major_label_text_color, bar.major_tick_line_color = INK, None
    plot.add_layout(bar, "right")
    return _plot(title, caption, plot, *_layer_table(names, steps, values))


def confusion_plot(title: str, caption: str, counts: np.ndarray, classes: Sequence[str]) -> Plot:
    """A matrix of counts, [classes, classes]: rows are what is there, columns what was said; colors are shares of each row."""
    n = len(classes)
    shares = (counts / np.maximum(counts.sum(1, keepdims=True), 1)).astype(np.float32)
    side = max(260, min(620, 120 + 22 * n))
    names = [_short(name, 14) for name in classes]
    plot = _figure(title, "predicted", "true", side, x_range=(0, n), y_range=(n, 0))
    mapper = LinearColorMapper(palette=Cividis256, low=0, high=1)
    few = n <= 40  # beyond, single cells are not told apart, and one image is smaller
    if few:
        rows, columns = (grid.ravel() for grid in np.indices((n, n)))
        data = {
            "x": columns + 0.5, "y": rows + 0.5, "share": np.sqrt(shares).ravel(), "count": counts.ravel().astype(np.int32),
            "true": [classes[row] for row in rows], "said": [classes[column] for column in columns],
        }  # fmt: skip
        source = ColumnDataSource(data)
        glyph = plot.rect("x", "y", 1, 1, source=source, line_color=None, fill_color={"field": "share", "transform": mapper})
        tips = [("is", "@true"), ("taken for", "@said"), ("images", "@count")]
    else:
        source = {"image": [np.sqrt(shares)], "count": [counts.astype(np.int32)]}
        glyph = plot.image("image", 0, 0, n, n, source=source, color_mapper=mapper)
        tips = [("images", "@count")]
    plot.add_tools(HoverTool(renderers=[glyph], tooltips=tips))
    every = max(1, math.ceil(n / 40))
    ticks = [place + 0.5 for place in range(0, n, every)]
    for axis in (plot.xaxis, plot.yaxis):
        axis.ticker = FixedTicker(ticks=ticks)
        axis.major_label_overrides = {tick: names[int(tick)] for tick in ticks}
    plot.xaxis.major_label_orientation = "vertical" if max(map(len, names)) > 2 else "horizontal"
    plot.grid.visible = False
    wrong = [(int(counts[i, j]), i, j) for i in range(n) for j in range(n) if i != j and counts[i, j]]
    worst = sorted(wrong, reverse=True)[:20]
    rows = [(classes[i], classes[j], f"{count:,}", f"{count / counts[i].sum():.1%}") for count, i, j in worst]
    return _plot(
        title, caption, plot, ("is", "taken for", "images", "share of the class"), rows or [("nothing is wrong", "", "", "")]
    )


# ------------------------------------------------------------------ parts


def _colors(cells: np.ndarray, scale: str) -> LinearColorMapper | LogColorMapper:
    """A scale of colors from the smallest to the largest value; what is not a number is not drawn.

    A signed scale ends at the 98th percentile, since a single mean far out would make all others look like zero.
    """
    shown = cells[np.isfinite(cells) & ((cells > 0) | (scale != "log"))]
    low, high = (float(shown.min()), float(shown.max())) if len(shown) else (0.1, 1.0)
    if scale == "signed":
        high = float(np.percentile(np.abs(shown), 98)) if len(shown) else 1.0
        high = high or max(abs(low), abs(high)) or 1.0
        low = -high
    elif scale == "share":
        low, high = 0.0, max(high, LEAST_SHARE)
    elif low == high:
        low, high = low / 2, high * 2
    kind, palette = LogColorMapper if scale == "log" else LinearColorMapper, _signed() if scale == "signed" else Cividis256
    return kind(palette=palette, low=low, high=high, nan_color="rgba(0,0,0,0)", low_color=palette[0], high_color=palette[-1])


def _signed() -> list[str]:
    """Blue below zero, gray at zero, orange above: zero is seen on white and on black."""
    return [*_between(BELOW, ZERO, 128), *_between(ZERO, ABOVE, 128)]


def _between(first: tuple[int, int, int], last: tuple[int, int, int], count: int) -> list[str]:
    """So many colors from one to another."""
    shares = np.linspace(0, 1, count)[:, None]
    return ["#{:02x}{:02x}{:02x}".format(*map(int, color)) for color in (1 - shares) * first + shares * last]


def _figure(title: str, x_label: str, y_label: str, height: int, **more: Any) -> Any:
    plot = figure(
        height=height,
        sizing_mode="stretch_width",
        x_axis_label=x_label,
        y_axis_label=y_label,
        tools="pan,box_zoom,reset,save",
        active_drag="box_zoom",
        toolbar_location="above",
        background_fill_color=None,
        border_fill_color=None,
        outline_line_color=None,
        stylesheets=[InlineStyleSheet(css=SCROLLS)],
        min_border_right=12,
        output_backend="canvas",
        **more,
    )
    plot.toolbar.logo = None
    plot.axis.axis_label_text_font_style = "normal"
    for axis in (*plot.xaxis, *plot.yaxis):
        axis.axis_label_text_color = axis.major_label_text_color = axis.axis_line_color = axis.major_tick_line_color = INK
        axis.minor_tick_line_color = None
    plot.grid.grid_line_color = INK
    plot.grid.grid_line_alpha = 0.15
    if x_label == "step":
        plot.xaxis.formatter = NumeralTickFormatter(format="0.[00]a")  # as in 20k
    plot.xaxis.ticker.desired_num_ticks = 5
    return plot


def _legend(plot: Any, names: Sequence[str]) -> None:
    """Below the plot, where it hides nothing, however narrow the page; a name that is clicked hides its line."""
    if not plot.legend:
        return
    legend = plot.legend[0]
    if len(names) < 2:
        legend.visible = False
        return
    plot.add_layout(legend, "below")
    legend.orientation = "horizontal"
    legend.ncols = 2 if max(map(len, names)) <= 20 else 1  # a phone is about 50 letters wide
    legend.location = "left"
    legend.click_policy = "hide"
    legend.background_fill_alpha = 0
    legend.border_line_color = None
    legend.label_text_font_size = "12px"
    legend.label_text_color = INK
    plot.height += 20 * math.ceil(len(names) / legend.ncols)


def _plot(title: str, caption: str, plot: Any, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> Plot:
    item = json.dumps(json_item(plot), separators=(",", ":"), allow_nan=False)
    # a script element ends at the first "</script", wherever it stands
    safe = item.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
    return Plot(title, caption, safe, header, rows, plot.height)


def _share(most: int, lines: int) -> int:
    """Points of each line, if there are many."""
    return max(20, min(most, MOST_LINE_POINTS // max(1, lines)))


def _drawable(line: Line, log: bool, most: int) -> Line:
    y = np.where(np.isfinite(line.y) & ((line.y > 0) | (not log)), line.y, np.nan)
    x, y = thin(line.x, y, most)
    return Line(x.astype(np.float64), y.astype(np.float64), line.name, line.color, line.bold)


def _short(name: str, longest: int = LONGEST) -> str:
    """The end of a long name, which tells more than its beginning."""
    return name if len(name) <= longest else f"…{name[1 - longest :]}"


def _shared_prefix(names: Sequence[str]) -> str:
    """What all names begin with, up to a dot, as in ``network.``, where they are long; nothing tells them apart there."""
    is_long = max(map(len, names)) > LONGEST
    shared = os.path.commonprefix(list(names)) if len(names) > 1 and is_long else ""
    return shared[: shared.rfind(".") + 1]


def number(value: float) -> str:
    """A value as text, with four digits."""
    if not math.isfinite(value):
        return "–" if math.isnan(value) else str(value)
    return f"{value:,.0f}" if abs(value) >= 1e4 and abs(value) < 1e15 else f"{value:.4g}"


def _line_table(lines: Sequence[Line], x_label: str) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """A row for each line: its ends, and its extremes with where they are."""
    rows = []
    for line in lines:
        finite = np.flatnonzero(np.isfinite(line.y))
        if not len(finite):
            rows.append((line.name, "–", "–", "–", "–"))
            continue
        x, y = line.x[finite], line.y[finite]
        ends = [number(y[place]) for place in (0, -1)]
        extremes = [f"{number(y[place])} ({x_label} {number(x[place])})" for place in (y.argmin(), y.argmax())]
        rows.append((line.name, *ends, *extremes))
    return ("", "first", "last", "smallest", "largest"), rows


def _layer_table(names: Sequence[str], steps: np.ndarray, values: np.ndarray) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """A row for each layer, with the values on some steps from the first to the last."""
    places = np.unique(np.linspace(0, len(steps) - 1, min(TABLE_COLUMNS, len(steps))).round().astype(int))
    header = ("", *(f"step {steps[place]:,}" for place in places))
    return header, [(name, *(number(float(row[place])) for place in places)) for name, row in zip(names, values, strict=True)]
