"""A picture of a data set: a row of samples, and under each of them what augmentation makes of it, if there is any."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from zoo.core.errors import UserError
from zoo.core.files import replace_file
from zoo.core.randomness import derive_seed
from zoo.spec import ImageSpec

SAMPLES, VERSIONS = 8, 4  # columns, and augmented rows
SMALLEST = 72  # pixels a side; smaller images are enlarged without smoothing, so that their pixels can be seen
GAP, CAPTION = 4, 18
GROUND = "#d9d9d9"  # neither white nor black pictures run together on it


def write_preview(data: Any, name: str, path: Path) -> Path:
    """Draw samples of the training images, as different classes as possible, and write a PNG; points in the plane are all drawn.

    Of pictures with words, the first are drawn and numbered.

    Args:
        data: a DataModule of images; it is prepared here.
        name: for the caption.

    Returns:
        The path that was written.

    Raises:
        UserError: it cannot be written.
    """
    data.prepare_data()
    data.setup()
    if data.image_spec.are_points:
        return _write_points(data, name, path)
    split = data.splits["train"]
    has_classes = isinstance(data.spec, ImageSpec)
    chosen = _one_of_each_class(split.labels, SAMPLES) if has_classes else torch.arange(min(SAMPLES, len(split)))
    images = next(split.images.batches(iter([chosen])))
    # each version is a batch of its own, in which every image meets its own random parameters
    versions = [] if data.augment == "none" else [_augmented(data, images, split.labels[chosen], n) for n in range(VERSIONS)]
    numbers = [str(place + 1) for place in chosen.tolist()]
    captions = [data.spec.classes[label] for label in split.labels[chosen].tolist()] if has_classes else numbers
    below = f", and below augmented by {data.augment}" if versions else ""
    picture = _grid([images, *versions], captions, f"{name}: samples{below}")
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    try:
        replace_file(path, buffer.getvalue())
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror.lower()}") from None
    return path


def _write_points(data: Any, name: str, path: Path) -> Path:
    """Training and test points, side by side."""
    from matplotlib.figure import Figure

    from zoo.pictures.figure import check_output, style, write_png
    from zoo.pictures.plane import class_handles, draw_points, set_up

    check_output(path)
    with style():
        figure = Figure((8, 4.5), layout="constrained")
        for axes, part in zip(figure.subplots(1, 2), ("train", "test"), strict=True):
            split = data.splits[part]
            set_up(axes, f"{name}, {part}: {len(split):,} points")
            draw_points(axes, split.images.pixels, split.labels, len(data.spec.classes))
        figure.legend(handles=class_handles(data.spec.classes), loc="outside lower center", ncols=len(data.spec.classes))
        write_png(figure, path)
    return path


def _one_of_each_class(labels: Tensor, count: int) -> Tensor:
    """Indices of ``count`` samples, or all if there are fewer: the first of each class, then the second, and so on."""
    order = torch.empty(len(labels), dtype=torch.long)
    for label in labels.unique():
        members = (labels == label).nonzero()[:, 0]
        order[members] = torch.arange(len(members)) * (int(labels.max()) + 1) + label
    return order.argsort()[:count]


def _augmented(data: Any, images: Tensor, labels: Tensor, version: int) -> Tensor:
    batch = {"images": images, "labels": labels, "seed": derive_seed(data.seed, "preview", version)}
    return data.on_after_batch_transfer(batch, 0)["images"].round().clamp(0, 255).to(torch.uint8)


def _grid(rows: list[Tensor], captions: list[str], title: str) -> Image.Image:
    height, width = rows[0].shape[-2:]
    scale = max(1, -(-SMALLEST // min(height, width)))
    height, width = height * scale, width * scale
    columns = len(captions)
    top = 2 * CAPTION + GAP  # the title and the captions
    font = ImageFont.load_default(12)
    sheet_width = max(columns * (width + GAP) + GAP, round(font.getlength(title)) + 2 * GAP)
    sheet = Image.new("RGB", (sheet_width, top + len(rows) * (height + GAP) + GAP), GROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, 2), title, "black", font)
    for column, caption in enumerate(captions):
        while font.getlength(caption) > width and len(caption) > 1:
            caption = caption[:-2] + "…"
        draw.text((GAP + column * (width + GAP), CAPTION + 2), caption, "black", font)
    for r, row in enumerate(rows):
        for column, pixels in enumerate(row):
            tile = Image.fromarray(pixels.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy())
            tile = tile.resize((width, height), Image.Resampling.NEAREST)
            # the samples stand apart from what was made of them
            sheet.paste(tile, (GAP + column * (width + GAP), top + r * (height + GAP) + (GAP if r else 0)))
    return sheet
