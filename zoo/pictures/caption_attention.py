"""Where a captioner looks for each of its words, and what it says of its test pictures, the best and the worst of it."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from zoo.core.errors import UserError
from zoo.metrics.captions import cider_of_each
from zoo.pictures.figure import Picture
from zoo.pictures.predictions import as_colors, load_trained, open_test_data
from zoo.pictures.shown import choose_images
from zoo.registry.registry import Registry
from zoo.spec import START
from zoo.tasks.captioning import Captioner
from zoo.training.run_folder import RunFolder

SHOWN_IMAGES = 4  # of a test split
MOST_IMAGES = 12  # files
COLUMNS = 10  # tiles beside each other
TILE = 1.15  # inches a side
DARKEST = 0.12  # what is left of a pixel where nobody looks
SHOWN_CAPTIONS = 20
WRAPPED = 34  # letters in a line below a picture


def attention(
    registry: Registry,
    runs: list[RunFolder],
    images: Sequence[str] = (),
    checkpoint: str = "best",
    data: str = "",
    settings: Sequence[str] = (),
    layer: str = "",
) -> Picture:
    """A caption of each picture, word by word, each with the picture lit where the network looked for it."""
    folder = runs[0]
    if layer:
        raise UserError("--layer is for networks that read pictures with layers of attention: a captioner is drawn without it")
    task, run = load_trained(registry, folder, checkpoint)
    if not hasattr(task, "decode_with_attention"):
        raise UserError(
            f"{folder.name} has no attention ({run.model['name']}): train captioner-attention or captioner-transformer"
        )
    shown = choose_images(registry, run, task.spec, images, data, settings, SHOWN_IMAGES, MOST_IMAGES)
    words, maps = look(task, shown.images)
    return Picture(
        draw_words(as_colors(shown.images), shown.names, words, maps, f"{folder.path.name}: where it looks for each word"),
        "a picture is lit where the network looked when it wrote the word above: look whether that is the thing that the word is "
        "about, and what it looks at for small words",
        f"zoo picture captions {folder.name}",
    )


def look(task: Captioner, images: Tensor) -> tuple[list[list[str]], list[np.ndarray]]:
    """What a network with attention writes of pictures, uint8 [n, C, H, W], and where it looks meanwhile.

    Returns:
        For each picture the words of its caption, and for each word a map, [words, rows, columns], of shares that sum to one.
    """
    with torch.inference_mode():
        encoded = task.encode(images)
        written = task.generate(encoded, task.beams)
        captions = F.pad(written, (1, 0), value=START)[:, None]
        maps = task.decode_with_attention(encoded, captions[:, :, :-1])[1][:, 0].unflatten(2, task.encoder.grid)
    words = [task.spec.decode(row) for row in written.tolist()]
    return words, [of_words[: len(said)].float().numpy() for of_words, said in zip(maps, words, strict=True)]


def draw_words(
    images: np.ndarray, names: Sequence[str], words: Sequence[Sequence[str]], maps: Sequence[np.ndarray], heading: str
) -> Figure:
    """For each picture, itself and then a tile a word: the picture, lit where the word was looked for.

    Args:
        images: colors in [0, 1], [n, H, W, 3].
        names: above each picture.
        words, maps: as ``look`` gives them; the brightest place of a map has all its light.
    """
    rows = [math.ceil((1 + len(said)) / COLUMNS) for said in words]
    columns = min(COLUMNS, 1 + max(map(len, words)))
    figure = Figure((TILE * columns + 0.3, (TILE + 0.25) * sum(rows) + 0.5), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03)
    grid = figure.subplots(sum(rows), columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for place, (image, name, said, of_words) in enumerate(zip(images, names, words, maps, strict=True)):
        tiles = grid[sum(rows[:place]) : sum(rows[: place + 1])].flat
        axes = next(tiles)
        axes.imshow(image, interpolation="nearest")
        axes.set_title(name if len(name) < 16 else f"{name[:14]}…", fontsize=8, fontstyle="italic")
        for word, values in zip(said, of_words, strict=True):
            axes = next(tiles)
            axes.imshow(lit(image, values), interpolation="nearest")
            axes.set_title(word, fontsize=9)
    figure.suptitle(heading, fontsize=10)
    return figure


def lit(image: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The picture, [H, W, 3], in the light of a map, [rows, columns], whose largest value leaves it as it is."""
    height, width = image.shape[:2]
    light = values / max(float(values.max()), 1e-12)
    light = light[np.arange(height) * values.shape[0] // height][:, np.arange(width) * values.shape[1] // width]
    return image * (DARKEST + (1 - DARKEST) * light[:, :, None])


# ---------------------------------------------------------------------------------------------- good and bad captions


def captions(
    registry: Registry, runs: list[RunFolder], checkpoint: str = "best", data: str = "", settings: Sequence[str] = ()
) -> Picture:
    """Test pictures with what a network says of them and what a person did: the best captions, and the worst."""
    folder = runs[0]
    task, run = load_trained(registry, folder, checkpoint)
    module = open_test_data(registry, run, task.spec, data, settings)
    written, pictures = write_all(task, module)
    references = module.references(pictures)
    scores = torch.tensor(cider_of_each(written, references))
    truths = module.true_captions(pictures, written) if hasattr(module, "true_captions") else None
    # a false caption is worse than any true one
    worth = scores if truths is None else scores + 100.0 * torch.tensor(truths)
    order = worth.argsort(descending=True, stable=True)
    half = min(SHOWN_CAPTIONS // 2, len(order) // 2)
    chosen = torch.cat([order[:half], order[len(order) - half :]])
    images = next(module.splits["test"].images.batches(iter([chosen])))
    titles = [
        _told(written[i], references[i][0], float(scores[i]), None if truths is None else truths[i]) for i in chosen.tolist()
    ]
    said = "" if truths is None else f", {sum(truths) / len(truths):.1%} of all {len(truths):,} captions are true"
    heading = f"{folder.path.name}: the best captions above, the worst below{said}"
    return Picture(
        draw_captions(as_colors(images), titles, heading),
        "below each picture stands what the network says and, in brackets, what a person did: look for what the bad ones have in "
        "common, and whether they are wrong or only said otherwise",
        f"zoo picture attention {folder.name}" if hasattr(task, "decode_with_attention") else f"zoo test {folder.name}",
    )


def write_all(task: Captioner, data: Any) -> tuple[list[list[str]], Tensor]:
    """The caption of each test picture, in words, and the numbers by which the data knows the pictures."""
    words, pictures = [], []
    with torch.inference_mode():
        for batch in data.test_dataloader():
            written = task.generate(task.encode(batch["images"]), task.beams)
            words += [task.spec.decode(row) for row in written.tolist()]
            pictures.append(batch["image_id"])
    return words, torch.cat(pictures)


def _told(said: Sequence[str], given: Sequence[str], score: float, truth: bool | None) -> str:
    judged = f"CIDEr {score:.2f}" if truth is None else f"{'true' if truth else 'FALSE'}, CIDEr {score:.2f}"
    lines = [judged, *textwrap.wrap(" ".join(said), WRAPPED), *textwrap.wrap(f"[{' '.join(given)}]", WRAPPED)]
    return "\n".join(lines)


def draw_captions(images: np.ndarray, titles: Sequence[str], heading: str) -> Figure:
    """Pictures, [n, H, W, 3], five in a row, with text below each."""
    columns = 5
    rows = math.ceil(len(images) / columns)
    figure = Figure((2.5 * columns, 2.9 * rows + 0.5), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    for axes, image, title in zip(grid.flat, images, titles, strict=False):
        axes.imshow(image, interpolation="nearest" if image.shape[0] < 100 else "antialiased")
        axes.set_xlabel(title, fontsize=7, labelpad=3)
    figure.suptitle(heading, fontsize=10)
    return figure
