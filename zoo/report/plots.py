"""Interactive plots of a report: lines, heat maps, confusion matrices and scatter plots, each with a table of the same numbers.

Bokeh draws them, since its Python package contains its JavaScript, which is inlined. The page replaces the color ``INK`` of text
and axes by that of its light or dark theme; colors of data have medium lightness.
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
    BasicTickFormatter,
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
from bokeh.palettes import Cividis256, interp_palette
from bokeh.plotting import figure

from zoo.core.counts import percentage
from zoo.pictures.predictions import MAX_NUMBERS, SHARES
from zoo.report.history import Columns, heat, thin

# medium lightness, visible on white and black; distinguishable by lightness where hue is not enough
COLORS = ("#3f90da", "#e76300", "#2e9e4f", "#9467bd", "#d6404e", "#17919c", "#a96b59", "#717581")
DASHES = ("solid", "dashed", "dotted", "dotdash")
BY_DEPTH = ("#3f90da", "#e76300")  # from the first layer to the last
DIVERGING = interp_palette(("#146edc", "#969696", "#f06400"), 256)  # gray at zero is visible on white and black
INK = "#808182"
HEIGHT = 280  # pixels
MIN_SHARE = 0.1  # at the end of a scale of shares, so that few do not look like all
ROW = 18  # pixels of a row in a heat map
LONGEST = 26  # characters of a tick label
LETTER = 7  # pixels, the width of a character of a tick label
PAIRS = 12  # of classes, beside a confusion matrix
TABLE_COLUMNS = 6
MOST_LINE_POINTS = 12_000  # of all lines of a plot
SCROLLS = ".bk-Canvas { touch-action: pan-y; }"  # a finger on a plot still scrolls the page


@dataclass(frozen=True)
class Line:
    """A line of a plot: points, name in the legend, color by run, and ``bold`` for validation."""

    x: np.ndarray
    y: np.ndarray
    name: str
    color: int = 0
    bold: bool = True


@dataclass(frozen=True)
class Plot:
    """A plot and its text.

    Attributes:
        caption: what to look for.
        item: JSON for Bokeh, safe inside a script element.
        header, rows: table of the same numbers, downsampled.
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
    """Plot lines over steps or epochs.

    Args:
        most: maximum number of points per line.
        log: use a logarithmic scale, without values that are not positive.
        unit: of the values, for the axis.
    """
    lines = [_drawable(line, log, _share(most, len(lines))) for line in lines]
    plot = _figure(title, x_label, unit, HEIGHT, y_axis_type="log" if log else "linear")
    for line in lines:
        looks = {"line_dash": DASHES[line.color // len(COLORS) % len(DASHES)], "line_width": 2.4 if line.bold else 1.2}
        color = COLORS[line.color % len(COLORS)]
        source = ColumnDataSource({"x": line.x, "y": line.y, "name": [line.name] * len(line.x)})
        plot.line("x", "y", source=source, color=color, alpha=1 if line.bold else 0.75, legend_label=line.name, **looks)
        if len(line.x) <= 12:  # single points would be invisible
            plot.scatter("x", "y", source=source, color=color, size=5 if line.bold else 3, legend_label=line.name)
    if max((np.nanmax(np.abs(line.y), initial=0) for line in lines), default=0) >= 1000:
        plot.yaxis.formatter = NumeralTickFormatter(format="0,0.[00]")  # 20,000
    plot.add_tools(HoverTool(tooltips=[("", "@name"), (x_label, "@x{0.[00]}"), ("value", "@y{0.[00000]}")]))
    _legend(plot, [line.name for line in lines])
    return _plot(title, caption, plot, *_line_table(lines, x_label))


def layer_lines(
    title: str, caption: str, steps: np.ndarray, names: Sequence[str], values: np.ndarray, mark: float, most: int
) -> Plot:
    """Plot a line of at most ``most`` points per parameter, colored by depth, and a dashed line at ``mark``.

    Args:
        values: [rows, n].
    """
    xs, ys = [], []
    for row in np.where(values > 0, values, np.nan):
        recorded = np.isfinite(row)
        x, y = thin(steps[recorded], row[recorded], _share(most, len(names)))
        xs.append(x.astype(np.float64))
        ys.append(y.astype(np.float32))
    plot = _figure(title, "step", "", HEIGHT + 60, y_axis_type="log")
    colors = list(interp_palette(BY_DEPTH, len(names)))
    source = ColumnDataSource({"xs": xs, "ys": ys, "name": list(names), "color": colors})
    glyph = plot.multi_line("xs", "ys", source=source, line_color="color", line_width=1.4)
    tips = [("", "@name"), ("step", "$x{0}"), ("value", "$y{0.[0000000]}")]  # at the pointer
    plot.add_tools(HoverTool(renderers=[glyph], tooltips=tips))
    plot.add_layout(Span(location=mark, dimension="width", line_dash="dashed", line_color=INK, line_width=1.5))
    return _plot(title, caption, plot, *_layer_table(names, steps, values))


def heat_map(
    title: str, caption: str, names: Sequence[str], steps: np.ndarray, values: np.ndarray, where: Columns, scale: str, height: int
) -> Plot:
    """Plot layers, the first at the top, over steps.

    Args:
        names: of the rows.
        steps, values: all records, [n] and [rows, n], for the table.
        where: columns that ``values`` are drawn in.
        scale: of the colors: ``log``; ``share``, which starts at zero; or ``signed``, which is symmetric around zero.
        height: pixels, as of ``height_of_rows``.
    """
    cells = heat(values, where).astype(np.float32)
    mapper = _colors(cells, scale)
    rows = len(names)
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
    _color_bar(plot, mapper)
    return _plot(title, caption, plot, *_layer_table(names, steps, values))


def height_of_rows(rows: int) -> int:
    """Height of a heat map in which so many rows can be told apart, and of those beside it."""
    return max(HEIGHT, min(620, 90 + ROW * rows))


def confusion_plot(title: str, caption: str, counts: np.ndarray, classes: Sequence[str]) -> Plot:
    """Plot a confusion matrix, [classes, classes], with colors normalized by row and, for few classes, counts in the cells."""
    n = len(classes)
    true, predicted = counts.nonzero()
    cells = counts[true, predicted]
    shares = cells / counts.sum(1)[true]
    names = [_short(name, 14) for name in classes]
    longest = max(map(len, names))
    side = min(700, 200 + 26 * n) + (LETTER * longest if longest > 2 else 0)
    plot = _figure(title, "predicted", "true", side, x_range=(0, n), y_range=(n, 0))
    mapper = LinearColorMapper(palette=Cividis256, low=0, high=1)
    plot.background_fill_color = Cividis256[0]  # cells without images
    data = {
        "x": predicted + 0.5, "y": true + 0.5, "share": np.sqrt(shares), "count": cells.astype(np.int32),
        "true": [classes[row] for row in true], "predicted": [classes[column] for column in predicted],
        "ink": np.where(shares > 0.3, "black", "white").tolist(), "text": [f"{count:,}" for count in cells],
    }  # fmt: skip
    source = ColumnDataSource(data)
    glyph = plot.rect("x", "y", 1, 1, source=source, line_color=None, fill_color={"field": "share", "transform": mapper})
    if n <= MAX_NUMBERS:
        style = {"text_align": "center", "text_baseline": "middle", "text_font_size": "11px"}
        plot.text("x", "y", "text", source=source, text_color="ink", **style)
        widest = LETTER * len(f"{int(cells.max()):,}") + 6
        plot.min_width = 110 + LETTER * longest + n * widest  # below which counts would overlap
    tips = [("true", "@true"), ("predicted", "@predicted"), ("images", "@count")]
    plot.add_tools(HoverTool(renderers=[glyph], tooltips=tips))
    ticks = [place + 0.5 for place in range(0, n, math.ceil(n / 40))]
    for axis in (plot.xaxis, plot.yaxis):
        axis.ticker = FixedTicker(ticks=ticks)
        axis.major_label_overrides = {tick: names[int(tick)] for tick in ticks}
    plot.xaxis.major_label_orientation = math.pi / 2 if longest > 2 else 0
    plot.grid.visible = False
    bar = _color_bar(plot, mapper)
    bar.ticker = FixedTicker(ticks=[math.sqrt(share) for share in SHARES])
    bar.major_label_overrides = {math.sqrt(share): f"{share:.0%}" for share in SHARES}
    wrong = ((int(count), i, j) for count, i, j in zip(cells, true, predicted, strict=True) if i != j)
    worst = sorted(wrong, reverse=True)[:PAIRS]
    rows = [(classes[i], classes[j], f"{count:,}", percentage(count, int(counts[i].sum()))) for count, i, j in worst]
    return _plot(title, caption, plot, ("true", "predicted", "images", "of the class"), rows or [("no mistakes", "", "", "")])


def scatter_plot(title: str, caption: str, true: np.ndarray, predicted: np.ndarray) -> Plot:
    """Plot predicted against true values, [n] each, with the diagonal; the table has the largest errors."""
    known = np.isfinite(true)
    true, predicted = true[known].astype(np.float64), predicted[known].astype(np.float64)
    plot = _figure(title, "true", "predicted", 320)
    plot.xaxis.formatter, plot.xaxis.ticker.min_interval = BasicTickFormatter(power_limit_low=-6), 0
    ends = [min(true.min(), predicted.min()), max(true.max(), predicted.max())]
    plot.line(ends, ends, line_color=INK, line_dash="dashed")
    source = ColumnDataSource({"x": true.astype(np.float32), "y": predicted.astype(np.float32)})
    glyph = plot.scatter("x", "y", source=source, size=4, fill_alpha=0.5, line_color=None)
    plot.add_tools(HoverTool(renderers=[glyph], tooltips=[("true", "@x"), ("predicted", "@y")]))
    worst = np.argsort(-np.abs(true - predicted), kind="stable")[:20]
    rows = [(f"{true[i]:.4g}", f"{predicted[i]:.4g}", f"{predicted[i] - true[i]:.2g}") for i in worst]
    return _plot(title, caption, plot, ("true", "predicted", "error"), rows)


# ------------------------------------------------------------------ parts


def _colors(cells: np.ndarray, scale: str) -> LinearColorMapper | LogColorMapper:
    """Color scale from the minimum to the maximum; NaN is transparent.

    A signed scale ends at the 98th percentile, so that outliers do not make all other values look like zero.
    """
    shown = cells[np.isfinite(cells) & ((cells > 0) | (scale != "log"))]
    low, high = (float(shown.min()), float(shown.max())) if len(shown) else (0.1, 1.0)
    if scale == "signed":
        high = float(np.percentile(np.abs(shown), 98)) if len(shown) else 1.0
        high = high or max(abs(low), abs(high)) or 1.0
        low = -high
    elif scale == "share":
        low, high = 0.0, max(high, MIN_SHARE)
    elif low == high:
        low, high = low / 2, high * 2
    kind, palette = LogColorMapper if scale == "log" else LinearColorMapper, DIVERGING if scale == "signed" else Cividis256
    return kind(palette=palette, low=low, high=high, nan_color="rgba(0,0,0,0)", low_color=palette[0], high_color=palette[-1])


def _color_bar(plot: Any, mapper: LinearColorMapper | LogColorMapper) -> ColorBar:
    bar = ColorBar(color_mapper=mapper, width=10, padding=4, label_standoff=6, background_fill_alpha=0)
    bar.major_label_text_color, bar.major_tick_line_color = INK, None
    plot.add_layout(bar, "right")
    return bar


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
    plot.xaxis.formatter = NumeralTickFormatter(format="0.[00]a")  # as in 20k
    plot.xaxis.ticker.desired_num_ticks, plot.xaxis.ticker.min_interval = 5, 1
    if more.get("y_axis_type") != "log":
        plot.yaxis.formatter = BasicTickFormatter(power_limit_low=-6)  # 0.003, not 3.000e-3
    return plot


def _legend(plot: Any, names: Sequence[str]) -> None:
    """Place the legend below the plot; clicking a name hides its line."""
    if not plot.legend:
        return
    legend = plot.legend[0]
    if len(names) < 2:
        legend.visible = False
        return
    plot.add_layout(legend, "below")
    legend.orientation = "horizontal"
    legend.ncols = 2 if max(map(len, names)) <= 20 else 1  # a phone is about 50 characters wide
    legend.location = "left"
    legend.click_policy = "hide"
    legend.background_fill_alpha = 0
    legend.border_line_color = None
    legend.label_text_font_size = "12px"
    legend.label_text_color = INK
    plot.height += 20 * math.ceil(len(names) / legend.ncols)


def _plot(title: str, caption: str, plot: Any, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> Plot:
    item = json.dumps(json_item(plot), separators=(",", ":"), allow_nan=False)
    # a script element ends at the first "</script", even in a string
    safe = item.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
    return Plot(title, caption, safe, header, rows, plot.height)


def _share(most: int, lines: int) -> int:
    """Points per line."""
    return max(20, min(most, MOST_LINE_POINTS // max(1, lines)))


def _drawable(line: Line, log: bool, most: int) -> Line:
    y = np.where(np.isfinite(line.y) & ((line.y > 0) | (not log)), line.y, np.nan)
    x, y = thin(line.x, y, most)
    return Line(x.astype(np.float64), y.astype(np.float64), line.name, line.color, line.bold)


def _short(name: str, longest: int = LONGEST) -> str:
    """Truncate a long name at its beginning, since its end is more specific."""
    return name if len(name) <= longest else f"…{name[1 - longest :]}"


def _shared_prefix(names: Sequence[str]) -> str:
    """The common prefix of long names up to a dot, as in ``network.``."""
    is_long = max(map(len, names)) > LONGEST
    shared = os.path.commonprefix(list(names)) if len(names) > 1 and is_long else ""
    return shared[: shared.rfind(".") + 1]


def number(value: float) -> str:
    """Format a value with four significant digits."""
    if not math.isfinite(value):
        return "–" if math.isnan(value) else str(value)
    return f"{value:,.0f}" if abs(value) >= 1e4 and abs(value) < 1e15 else f"{value:.4g}"


def _line_table(lines: Sequence[Line], x_label: str) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """A row per line: first and last values, and extremes with their positions."""
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
    return ("", "first", "last", "min", "max"), rows


def _layer_table(names: Sequence[str], steps: np.ndarray, values: np.ndarray) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """A row per layer, with values at evenly spaced steps."""
    places = np.unique(np.linspace(0, len(steps) - 1, min(TABLE_COLUMNS, len(steps))).round().astype(int))
    header = ("", *(f"step {steps[place]:,}" for place in places))
    return header, [(name, *(number(float(row[place])) for place in places)) for name, row in zip(names, values, strict=True)]
