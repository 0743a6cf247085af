"""Images next to maps of the same size, such as saliency or attention maps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from zoo.pictures.figure import SEQUENTIAL, image_grid, longest_line

PERCENTILE = 99  # at which a color scale ends, so that single pixels do not dominate it
SCALE = 0.75  # inches below the maps


def draw_maps(
    images: np.ndarray, maps: np.ndarray, limits: np.ndarray, row_titles: Sequence[str], map_titles: Sequence[str], heading: str,
    tile: float = 0.95,
) -> tuple[Figure, np.ndarray]:  # fmt: skip
    """Draw a row per image: the image, then its maps.

    Args:
        images: RGB in [0, 1], [n, H, W, 3].
        maps: at least 0, [n, maps, rows, columns], or RGB as the images.
        limits: ends of the color scales, [n, maps].
        row_titles: to the left of each image; map_titles: above the first row.
        tile: inches per side.

    Returns:
        The figure and its axes, [n, 1 + maps].
    """
    count, columns = len(images), 1 + maps.shape[1]
    size = 0.3 + longest_line(row_titles, 8) + tile * columns, 0.85 + SCALE + (tile + 0.22) * count
    figure = Figure(size, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.04, h_pad=0.05)
    grid = image_grid(figure, count, columns)
    for row, image, of_image, ends, title in zip(grid, images, maps, limits, row_titles, strict=True):
        row[0].imshow(image, interpolation="nearest")
        row[0].set_ylabel(title, rotation=0, ha="right", va="center", fontsize=8, labelpad=6)
        for axes, values, end in zip(row[1:], of_image, ends, strict=True):
            axes.imshow(values, cmap=SEQUENTIAL, vmin=0, vmax=end or 1.0, interpolation="nearest")
    for axes, title in zip(grid[0], ["image", *map_titles], strict=True):
        axes.set_title(title, fontsize=9)
    figure.suptitle(f"{heading}\n", fontsize=10)  # the empty line keeps it off the titles below
    return figure, grid


def draw_scale(figure: Figure, grid: np.ndarray, end: float, label: str, *, is_exceeded: bool) -> None:
    """Draw the color scale, from 0 to ``end``, below the maps of ``draw_maps``."""
    scale, extend = ScalarMappable(Normalize(0, end), SEQUENTIAL), "max" if is_exceeded else "neither"
    bar = figure.colorbar(scale, ax=grid, orientation="horizontal", extend=extend, shrink=0.6, aspect=40)
    bar.set_label(label, fontsize=8)
