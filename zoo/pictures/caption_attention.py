"""Attention maps of captioners for each word, and their best and worst captions of test images."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from zoo.config.run import Run
from zoo.core.counts import out_of
from zoo.core.errors import UserError
from zoo.metrics.captions import cider_of_each
from zoo.pictures.figure import Picture
from zoo.pictures.predictions import load_trained, open_test_data, to_rgb
from zoo.pictures.shown import select_images
from zoo.pictures.tiles import draw_tiles
from zoo.registry.registry import Registry
from zoo.spec import START
from zoo.tasks.captioning import Captioner
from zoo.training.run_folder import RunFolder

TEST_IMAGES = 4
MAX_FILES = 12
COLUMNS = 10  # tiles per row
TILE = 1.15  # inches per side
MIN_WIDTH = 4.6  # inches of a figure, for its heading and the scale
DARKEST = 0.12  # brightness where there is no attention
SHOWN_CAPTIONS = 20
CAPTION_WIDTH = 32  # characters per line
CAPTION_TILE = 340  # pixels


def word_attention(
    registry: Registry,
    folder: RunFolder,
    task: Captioner,
    run: Run,
    images: Sequence[str],
    data: str,
    settings: Sequence[str],
    layer: str,
) -> Picture:
    """Draw the attention over each image for every word of its caption."""
    if layer:
        raise UserError("--layer is not for captioners")
    if not hasattr(task, "decode_with_attention"):
        raise UserError(
            f"{folder.name} has no attention ({run.model['name']}): train captioner-attention or captioner-transformer"
        )
    shown = select_images(registry, run, task.spec, images, data, settings, TEST_IMAGES, MAX_FILES)
    words, maps = caption_attention(task, shown.images)
    return Picture(
        draw_words(
            to_rgb(shown.images),
            shown.names,
            words,
            maps,
            f"{folder.path.name}: attention for each word",
        ),
        "brightness is the attention when the word above was generated, and the number below its maximum, relative to uniform "
        "attention: check whether the network attends to the object that the word names; function words need none",
        f"zoo picture captions {folder.name}",
    )


def caption_attention(task: Captioner, images: Tensor) -> tuple[list[list[str]], list[np.ndarray]]:
    """Caption images, uint8 [n, C, H, W], and return the attention for each word.

    Returns:
        For each image the words of its caption, and attention maps that sum to one, [words, rows, columns].
    """
    with torch.inference_mode():
        encoded = task.encode(images)
        written = task.generate(encoded, task.beams)
        captions = F.pad(written, (1, 0), value=START)[:, None]
        maps = task.decode_with_attention(encoded, captions[:, :, :-1])[1][:, 0].unflatten(2, task.encoder.grid)
    words = [task.spec.decode(row) for row in written.tolist()]
    return words, [of_words[: len(caption)].float().numpy() for of_words, caption in zip(maps, words, strict=True)]


def draw_words(
    images: np.ndarray, names: Sequence[str], words: Sequence[Sequence[str]], maps: Sequence[np.ndarray], heading: str
) -> Figure:
    """Draw each image, followed by a tile per word with the image shaded by the attention for that word.

    Args:
        images: RGB in [0, 1], [n, H, W, 3].
        names: above each image.
        words, maps: as returned by ``caption_attention``; each map is scaled by its maximum.
    """
    rows = [math.ceil((1 + len(caption)) / COLUMNS) for caption in words]
    columns = min(COLUMNS, 1 + max(map(len, words)))
    figure = Figure((max(TILE * columns + 0.3, MIN_WIDTH), (TILE + 0.4) * sum(rows) + 1.2), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03)
    grid = figure.subplots(sum(rows), columns, squeeze=False)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[], frame_on=False)
    for place, (image, name, caption, of_words) in enumerate(zip(images, names, words, maps, strict=True)):
        tiles = grid[sum(rows[:place]) : sum(rows[: place + 1])].flat
        axes = next(tiles)
        axes.imshow(image, interpolation="nearest")
        axes.set_title(name if len(name) < 16 else f"{name[:14]}…", fontsize=8, fontstyle="italic")
        for word, values in zip(caption, of_words, strict=True):
            axes = next(tiles)
            axes.imshow(shade(image, values), interpolation="nearest")
            axes.set_title(word, fontsize=9)
            axes.set_xlabel(f"{values.max() * values.size:.1f}×", fontsize=7, labelpad=2)
    figure.suptitle(f"{heading}\n", fontsize=10)  # the empty line keeps it off the titles below
    brightness = ScalarMappable(Normalize(0, 1), LinearSegmentedColormap.from_list("brightness", [(DARKEST,) * 3, (1.0,) * 3]))
    bar = figure.colorbar(brightness, ax=grid, orientation="horizontal", shrink=0.4, aspect=40)
    bar.set_ticks([0, 0.5, 1], labels=["0", "half", "maximum"])
    bar.set_label("attention; below each map its maximum relative to uniform attention", fontsize=8)
    return figure


def shade(image: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Shade an image, [H, W, 3], by a map, [rows, columns]; the maximum of the map keeps full brightness."""
    height, width = image.shape[:2]
    light = values / max(float(values.max()), 1e-12)
    light = light[np.arange(height) * values.shape[0] // height][:, np.arange(width) * values.shape[1] // width]
    return image * (DARKEST + (1 - DARKEST) * light[:, :, None])


# ---------------------------------------------------------------------------------------------- best and worst captions


def captions(
    registry: Registry, runs: list[RunFolder], checkpoint: str = "best", data: str = "", settings: Sequence[str] = ()
) -> Picture:
    """Draw test images with the best and the worst captions by CIDEr, beside a reference caption."""
    folder = runs[0]
    task, run = load_trained(registry, folder, checkpoint)
    module = open_test_data(registry, run, task.spec, data, settings)
    written, pictures = write_captions(task, module)
    references = module.references(pictures)
    scores = torch.tensor(cider_of_each(written, references))
    truths = module.true_captions(pictures, written) if hasattr(module, "true_captions") else None
    # false captions rank below all true ones
    worth = scores if truths is None else scores + 100.0 * torch.tensor(truths)
    order = worth.argsort(descending=True, stable=True)
    half = min(SHOWN_CAPTIONS // 2, len(order) // 2)
    chosen = torch.cat([order[:half], order[len(order) - half :]])
    images = next(module.splits["test"].images.batches(iter([chosen])))
    titles = [
        _title(written[i], references[i][0], float(scores[i]), None if truths is None else truths[i]) for i in chosen.tolist()
    ]
    share = "" if truths is None else f"; {out_of(sum(truths), len(truths), 'captions')} true"
    heading = f"{folder.path.name}: best captions first, worst last, with a reference in brackets{share}"
    return Picture(
        draw_tiles(to_rgb(images), titles, heading, side=CAPTION_TILE),
        "above each image are the CIDEr score, the caption and, in brackets, a reference: look for what the bad captions "
        "have in common, and whether they are wrong or only worded differently",
        f"zoo picture attention {folder.name}" if hasattr(task, "decode_with_attention") else f"zoo test {folder.name}",
    )


def write_captions(task: Captioner, data: Any) -> tuple[list[list[str]], Tensor]:
    """Caption all test images: the words of each, and the index of its image in the data."""
    words, pictures = [], []
    with torch.inference_mode():
        for batch in data.test_dataloader():
            written = task.generate(task.encode(batch["images"]), task.beams)
            words += [task.spec.decode(row) for row in written.tolist()]
            pictures.append(batch["image_id"])
    return words, torch.cat(pictures)


def _title(caption: Sequence[str], reference: Sequence[str], score: float, truth: bool | None) -> str:
    rating = f"CIDEr {score:.2f}" if truth is None else f"{'true' if truth else 'FALSE'}, CIDEr {score:.2f}"
    texts = " ".join(caption), f"[{' '.join(reference)}]"
    return "\n".join([rating, *(line for text in texts for line in textwrap.wrap(text, CAPTION_WIDTH))])
