"""Histograms over time as small pictures: one for each layer, in one color that is the stronger the more values lie there.

They are PNGs with a transparent ground, so that they look right on light and dark, need no script, and take a few kB each.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from zoo.report.history import BINS, SMALLEST, Columns, Table, magnitudes

COLOR = (63, 144, 218)
TICKS = ((0, "1"), (-12, "2⁻¹²"))  # (exponent, label), each above zero and below


@dataclass(frozen=True)
class HistogramPicture:
    """The histograms of one layer: rows are magnitudes, the largest above, columns steps.

    Attributes:
        source: the PNG as a ``data:`` address.
        median: in words, where half of the values lie below, at the first step and at the last.
        ticks: (per cent from above, label) along the vertical axis.
    """

    name: str
    type: str
    source: str
    median: str
    ticks: tuple[tuple[float, str], ...]


def histogram_pictures(table: Table, where: Columns, names: list[str]) -> list[HistogramPicture]:
    """Pictures of the histograms of those layers that have any."""
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
    """Shares, [BINS, columns], as a picture of so many pixels, the last bin above."""
    beside_zero = np.delete(shares, BINS // 2, axis=0).max()  # zeros of a rectifier are so many that the rest would pale
    strength = np.sqrt(np.minimum(shares / (beside_zero or 1.0), 1))[::-1]
    image = Image.fromarray((strength * 255).round().astype(np.uint8))
    image = Image.frombytes("P", image.size, image.tobytes())
    image.putpalette(COLOR * 256)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=bytes(range(256)), optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _ticks() -> tuple[tuple[float, str], ...]:
    """Where ±1 and ±2^-12 and zero stand, in per cent from above."""
    ticks = [(50.0, "0")]
    for exponent, label in TICKS:
        edge = (BINS // 2 + 1 + exponent - SMALLEST) / BINS * 100  # from below, where that magnitude begins
        ticks += [(100 - edge, label), (edge, f"−{label}")]
    return tuple(sorted(ticks))


def _median(counts: np.ndarray) -> str:
    """The magnitude in the middle, as an interval in words."""
    if not counts.sum():
        return "nothing"
    place = int(np.searchsorted(np.cumsum(counts), counts.sum() / 2)) - BINS // 2
    if place == 0:
        return "about 0"
    sign, k = ("−" if place < 0 else ""), abs(place) - 1 + SMALLEST
    return f"about {sign}{2.0**k:.2g}"
