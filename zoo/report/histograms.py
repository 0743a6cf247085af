"""Histograms over time as small images, one per layer: opacity is density.

PNGs with a transparent background work in the light and the dark theme, need no script, and take a few kB each.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from zoo.callbacks.bins import BINS, SMALLEST
from zoo.report.history import Columns, Table, magnitudes

COLOR = (63, 144, 218)
TICKS = ((0, "1"), (-12, "2⁻¹²"))  # (exponent, label), for positive and negative values


@dataclass(frozen=True)
class HistogramPicture:
    """The histograms of a layer: rows are magnitudes, the largest at the top, columns steps.

    Attributes:
        source: the PNG as a ``data:`` URL.
        median: at the first and the last step, as text.
        ticks: (per cent from the top, label) of the vertical axis.
    """

    name: str
    type: str
    source: str
    median: str
    ticks: tuple[tuple[float, str], ...]


def histogram_pictures(table: Table, where: Columns, names: list[str]) -> list[HistogramPicture]:
    """Draw the histograms of the layers that have any."""
    pictures = []
    for name in names:
        if name not in table.histograms:
            continue
        places, counts = table.histograms[name]
        shares = magnitudes(places, counts, where)
        middle = (
            f"{_median(counts[0])} at step {table.steps[places[0]]:,}, {_median(counts[-1])} at step {table.steps[places[-1]]:,}"
        )
        pictures.append(HistogramPicture(name, table.types.get(name, ""), _png(shares), middle, _ticks()))
    return pictures


def _png(shares: np.ndarray) -> str:
    """Draw shares, [BINS, columns], one pixel each, the last bin at the top."""
    beside_zero = np.delete(shares, BINS // 2, axis=0).max()  # a ReLU has so many zeros that all else would fade
    strength = np.sqrt(np.minimum(shares / (beside_zero or 1.0), 1))[::-1]
    image = Image.fromarray((strength * 255).round().astype(np.uint8))
    image = Image.frombytes("P", image.size, image.tobytes())
    image.putpalette(COLOR * 256)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=bytes(range(256)), optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _ticks() -> tuple[tuple[float, str], ...]:
    """Positions of ±1, ±2^-12 and zero, in per cent from the top."""
    ticks = [(50.0, "0")]
    for exponent, label in TICKS:
        edge = (BINS // 2 + 1 + exponent - SMALLEST) / BINS * 100  # from the bottom, where that magnitude begins
        ticks += [(100 - edge, label), (edge, f"−{label}")]
    return tuple(sorted(ticks))


def _median(counts: np.ndarray) -> str:
    """The median magnitude as text."""
    if not counts.sum():
        return "nothing"
    place = int(np.searchsorted(np.cumsum(counts), counts.sum() / 2)) - BINS // 2
    if place == 0:
        return "about 0"
    sign, k = ("−" if place < 0 else ""), abs(place) - 1 + SMALLEST
    return f"about {sign}{2.0**k:.2g}"
