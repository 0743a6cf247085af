"""The range of values in deep images, those of more than 8 bits, over a whole set.

One range for all keeps how bright an image is against the others, as is done for computed tomography (Isensee et al. 2021,
nnU-Net, https://doi.org/10.1038/s41592-020-01008-z): a range of its own for each would make the dark ones as bright as the rest.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass

import numpy as np
from PIL import Image

from zoo.core.errors import some
from zoo.core.files import cache_folder, replace_file
from zoo.datamodules.files.decoded import identity_of_files, in_threads, locked
from zoo.datamodules.files.formats import open_image
from zoo.datamodules.files.images import mode_of
from zoo.datamodules.files.pixel_format import is_deep

HEADERS = 2000  # files whose modes are looked at
BULK = (0.5, 99.5)  # percentiles of each image without its extreme pixels
FEWEST_LEVELS = 32  # of 256, for the bulk of the values
NAMED = 3  # classes in a message


def sampled_modes(paths: Sequence[str]) -> set[str]:
    """Pillow's modes of the images, by the headers of ``HEADERS`` of them, evenly spaced; without those that cannot be read."""
    count = min(len(paths), HEADERS)
    chosen = [paths[place * len(paths) // count] for place in range(count)]
    Image.init()  # here, since loading the formats in several threads at once is not safe
    with ThreadPoolExecutor() as threads:
        return set(threads.map(mode_of, chosen)) - {""}


@dataclass(frozen=True)
class Values:
    """The values of deep images.

    Attributes:
        low, high: the lowest and the highest of all.
        bulk_low, bulk_high: the same without the extreme 0.5% of each image at both ends.
        spreads: the mean standard deviation within an image, for each class.
        ranges: the lowest and the highest value of each class.
    """

    low: float
    high: float
    bulk_low: float
    bulk_high: float
    spreads: dict[str, float]
    ranges: dict[str, tuple[float, float]]

    @property
    def value_range(self) -> tuple[float, float]:
        """What becomes 0 and 255."""
        return self.low, self.high if self.high > self.low else self.low + 1

    def warnings(self) -> Iterator[str]:
        """What the range does not show, one line each."""
        low, high = self.value_range
        level, shown = (high - low) / 255, f"{low:,g} to {high:,g}"
        if flat := [name for name, spread in self.spreads.items() if spread < level]:
            near, far = (f"{edge:g}" for edge in self.ranges[flat[0]])
            narrower = f"; data.value_range=[{near},{far}] would show {flat[0]} and clip all beyond" if near != far else ""
            yield (
                f"images of {some(flat, NAMED)} are nearly constant in the range of all training images, {shown}: "
                f"they vary by less than one of 255 levels{narrower}"
            )
        elif self.bulk_low < self.bulk_high < self.bulk_low + FEWEST_LEVELS * level:
            yield (
                f"few pixels stretch the range of the training images, {shown}: the others get fewer than {FEWEST_LEVELS} of 256 "
                f"levels; data.value_range=[{self.bulk_low:g},{self.bulk_high:g}] would clip those few"
            )

    def warnings_of(self, given: tuple[float, float]) -> Iterator[str]:
        """What a range that somebody chose does not show, one line each."""
        low, high = given
        shown = f"data.value_range=[{low:g},{high:g}]"
        if outside := [name for name, (least, most) in self.ranges.items() if most <= low or least >= high]:
            yield (
                f"all images of {some(outside, NAMED)} are outside {shown} and become black or white: "
                f"the training images have values from {self.low:,g} to {self.high:,g}"
            )


def measured_values(paths: Sequence[str], classes: Sequence[str]) -> Values | None:
    """Decode images to find the range of the deep ones, once, and keep it in the cache; None if none is deep.

    Args:
        classes: of each of the images.
    """
    path = cache_folder() / "ranges" / f"{identity_of_files(paths, (0, 0))}.json"
    with locked(path):  # processes that start together decode them once
        with suppress(OSError, ValueError, TypeError):
            kept = json.loads(path.read_text())
            return Values(**kept) if kept else None
        values = _measure(paths, classes)
        with suppress(OSError):  # a read-only cache costs time at the next start, nothing else
            replace_file(path, json.dumps(values and asdict(values)).encode())
    return values


def _measure(paths: Sequence[str], classes: Sequence[str]) -> Values | None:
    table = np.full((len(paths), 5), np.nan)  # of each image: lowest, highest, their bulk, standard deviation

    def work(chunk: slice) -> None:
        for index in range(len(paths))[chunk]:
            with suppress(Exception):  # a damaged file raises almost any
                table[index] = _values_of(paths[index])

    for _ in in_threads(work, len(paths), "measuring"):
        pass
    known = ~np.isnan(table[:, 0])
    if not known.any():
        return None
    names = np.asarray(classes)
    members = {str(name): table[known & (names == name)] for name in dict.fromkeys(names[known])}
    return Values(
        *(float(bound) for bound in (table[known, 0].min(), table[known, 1].max(), table[known, 2].min(), table[known, 3].max())),
        {name: float(rows[:, 4].mean()) for name, rows in members.items()},
        {name: (float(rows[:, 0].min()), float(rows[:, 1].max())) for name, rows in members.items()},
    )


def _values_of(path: str) -> tuple[float, ...]:
    with open_image(path) as image:
        if not is_deep(image.mode):
            return (np.nan,) * 5
        values = np.asarray(image)
    if image.mode == "F":
        values = values[np.isfinite(values)]
    return values.min(), values.max(), *np.percentile(values, BULK), values.std(dtype=np.float64)
