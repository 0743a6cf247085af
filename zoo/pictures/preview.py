"""Previews of data sets: samples, with augmented versions below them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from zoo.core.files import write_output
from zoo.pictures.figure import check_output
from zoo.spec import image_spec

SMALLEST = 72  # pixels; smaller images are enlarged without interpolation
GAP, CAPTION = 4, 18
BACKGROUND = "#d9d9d9"  # sets off white and black images


def write_preview(data: Any, preview: Any, name: str, path: Path) -> Path:
    """Draw a ``Preview`` that has images, or all points of a plane, and write a PNG.

    Args:
        data: data module, set up.
        name: for the title.

    Raises:
        UserError: the file cannot be written.
    """
    check_output(path)
    if image_spec(data.spec).are_points:
        return _write_points(data, name, path)
    picture = _grid([preview.images, *preview.augmented], preview.captions, f"{name}: {preview.shows}")
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    write_output(path, buffer.getvalue())
    return path


def _write_points(data: Any, name: str, path: Path) -> Path:
    """Draw training and test points side by side."""
    from matplotlib.figure import Figure

    from zoo.pictures.figure import style, write_png
    from zoo.pictures.plane import class_handles, draw_points, set_up_axes

    with style():
        figure = Figure((8, 4.5), layout="constrained")
        for axes, part in zip(figure.subplots(1, 2), ("train", "test"), strict=True):
            split = data.splits[part]
            set_up_axes(axes, f"{name}, {part}: {len(split):,} points")
            draw_points(axes, split.images.pixels, split.labels, len(data.spec.classes))
        figure.legend(handles=class_handles(data.spec.classes), loc="outside lower center", ncols=len(data.spec.classes))
        write_png(figure, path)
    return path


def _grid(rows: list[Tensor], captions: Sequence[str], title: str) -> Image.Image:
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
