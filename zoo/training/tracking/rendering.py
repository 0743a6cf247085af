"""Texts and tables in Markdown and CSV, and statistics over depth as pictures, for loggers without tables and charts."""

from __future__ import annotations

import html
import re
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from zoo.core.printing import csv_line
from zoo.training.tracking.tables import DepthChart, Table


def depth_figure(chart: DepthChart) -> Figure:
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    shades = colormaps["viridis_r"](np.linspace(0.15, 1, len(chart.lines)))  # yellow is too pale
    for (label, line), shade in zip(chart.lines.items(), shades, strict=True):
        axes.plot([place for place, _ in line], [value for _, value in line], ".-", label=label, color=shade)
    axes.set(title=chart.title, xlabel="place in the network")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25)
    figure.legend(loc="outside right upper")
    return figure


def csv_table(table: Table) -> str:
    return "".join(map(csv_line, (table.columns, *table.rows)))


def markdown_table(table: Table) -> str:
    cells = [table.columns, ["---"] * len(table.columns), *([_cell(value) for value in row] for row in table.rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def _cell(value: Any) -> str:
    text = "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
    return markdown(" ".join(text.split()))


def markdown(text: str) -> str:
    """Text as it stands, line by line, in Markdown."""
    return re.sub(r"([\\`*_{}\[\]()#+\-.!|])", r"\\\1", html.escape(text, quote=False)).replace("\n", "  \n")


def code(text: str) -> str:
    """Text as it stands, spaces included, in Markdown."""
    return "\n".join(f"    {line}" for line in text.splitlines())
