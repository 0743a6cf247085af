"""Previews of data sets: samples, with augmented versions below them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from zoo.core.files import write_output
from zoo.core.randomness import derive_seed
from zoo.spec import ImageSpec

SAMPLES, VERSIONS = 8, 4  # columns, and rows of augmented versions
SMALLEST = 72  # pixels; smaller images are enlarged without interpolation
GAP, CAPTION = 4, 18
BACKGROUND = "#d9d9d9"  # sets off white and black images


def write_preview(data: Any, name: str, path: Path) -> Path:
    """Draw training samples of different classes, or all points of a plane, and write a PNG.

    Args:
        data: data module of images; prepared here.
        name: for the caption.

    Raises:
        UserError: the file cannot be written.
    """
    data.prepare_data()
    data.setup()
    if data.image_spec.are_points:
        return _write_points(data, name, path)
    split = data.splits["train"]
    has_classes = isinstance(data.spec, ImageSpec)
    chosen = _one_of_each_class(split.labels, SAMPLES) if has_classes else torch.arange(min(SAMPLES, len(split)))
    images = next(split.images.batches(iter([chosen])))
    # each version is a batch, in which every image has its own random parameters
    versions = [] if data.augment == "none" else [_augmented(data, images, split.labels[chosen], n) for n in range(VERSIONS)]
    numbers = [str(place + 1) for place in chosen.tolist()]
    captions = [data.spec.classes[label] for label in split.labels[chosen].tolist()] if has_classes else numbers
    below = f", augmented by {data.augment} below" if versions else ""
    picture = _grid([images, *versions], captions, f"{name}: samples{below}")
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    write_output(path, buffer.getvalue())
    return path


def _write_points(data: Any, name: str, path: Path) -> Path:
    """Draw training and test points side by side."""
    from matplotlib.figure import Figure

    from zoo.pictures.figure import check_output, style, write_png
    from zoo.pictures.plane import class_handles, draw_points, set_up_axes

    check_output(path)
    with style():
        figure = Figure((8, 4.5), layout="constrained")
        for axes, part in zip(figure.subplots(1, 2), ("train", "test"), strict=True):
            split = data.splits[part]
            set_up_axes(axes, f"{name}, {part}: {len(split):,} points")
            draw_points(axes, split.images.pixels, split.labels, len(data.spec.classes))
        figure.legend(handles=class_handles(data.spec.classes), loc="outside lower center", ncols=len(data.spec.classes))
        write_png(figure, path)
    return path


def _one_of_each_class(labels: Tensor, count: int) -> Tensor:
    """Indices of up to ``count`` samples: the first of each class, then the second, and so on."""
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
    sheet = Image.new("RGB", (sheet_width, top + len(rows) * (height + GAP) + GAP), BACKGROUND)
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
            # a gap between the samples and their augmented versions
            sheet.paste(tile, (GAP + column * (width + GAP), top + r * (height + GAP) + (GAP if r else 0)))
    return sheet
