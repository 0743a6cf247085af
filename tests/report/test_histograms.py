"""Small pictures of histograms: what lies where in them, read back by a decoder of PNG."""

from __future__ import annotations

import base64
import io
import math

import numpy as np
import pytest
from PIL import Image

from zoo.report.histograms import histogram_pictures
from zoo.report.history import Table, columns

HALF = 32


def bin_of(value: float) -> int:
    """Where the records put a value: k of 2^(k-24) <= |x| < 2^(k-23), negative ones mirrored, tiny ones in the middle."""
    if abs(value) < 2**-24:
        return HALF
    k = min(31, int(math.floor(math.log2(abs(value)))) + 24)
    return HALF + 1 + k if value > 0 else HALF - 1 - k


def picture(values_by_step: list[list[float]]) -> tuple[np.ndarray, object]:
    """The opacity of each pixel, [65, steps], of a layer with these values, and the picture's description."""
    counts = np.zeros((len(values_by_step), 65), np.float32)
    for step, values in enumerate(values_by_step):
        for value in values:
            counts[step, bin_of(value)] += 1
    steps = np.arange(len(values_by_step))
    table = Table(steps, ["layer"], {"layer": "Linear"}, {}, {"layer": (steps, counts)})
    (described,) = histogram_pictures(table, columns(steps, 300), ["layer", "unknown"])
    kind, _, data = described.source.partition(",")
    assert kind == "data:image/png;base64"
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    return np.array(image.convert("RGBA"))[:, :, 3], described


def test_values_lie_where_the_axis_says() -> None:
    opacity, described = picture([[1.5], [-1.5], [0.0], [2.0**-12 * 1.5]])
    rows = opacity.argmax(0)
    ticks = {label: pytest.approx(place / 100 * 65) for place, label in described.ticks}
    assert opacity.shape == (65, 4)
    assert rows[0] + 1 == ticks["1"]  # the row whose lower edge is 1
    assert rows[1] == ticks["−1"]  # the row whose upper edge is -1
    assert rows[2] + 0.5 == ticks["0"]
    assert rows[3] + 1 == ticks["2⁻¹²"]
    assert rows[0] < rows[3] < rows[2] < rows[1]  # large positive values above, large negative ones below


def test_where_nothing_lies_the_ground_shows_through() -> None:
    opacity, _ = picture([[1.0, 1.0, 1.0, 4.0]])
    column = opacity[:, 0]
    assert (column > 0).sum() == 2 and column.max() == 255
    assert column[64 - bin_of(4.0)] == round(255 * math.sqrt(1 / 3))


def test_the_zeros_of_a_rectifier_do_not_pale_the_rest() -> None:
    opacity, _ = picture([[0.0] * 1000 + [1.0]])
    assert opacity[64 - bin_of(1.0), 0] == 255 and opacity[HALF, 0] == 255


def test_a_layer_of_nothing_but_zeros_is_drawn() -> None:
    opacity, described = picture([[0.0] * 10])
    assert (opacity[:, 0] > 0).sum() == 1 and "about 0 at step 0" in described.median


def test_the_median_is_told_in_words() -> None:
    _, described = picture([[0.5] * 3 + [8.0], [-4.0] * 5])
    assert described.median == "about 0.5 at step 0, about −4 at step 1"
    assert (described.name, described.type) == ("layer", "Linear")
