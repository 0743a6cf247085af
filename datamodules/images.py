"""One image file to pixels: what Pillow can read, made into the shape that a network takes."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

EXTENSIONS = frozenset(
    (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
)  # fmt: skip


class UnreadableImage(Exception):
    """A file that is not an image, or not a whole one; the text says why."""


def read_image(path: Path, channels: int, height: int, width: int) -> Tensor:
    """uint8 [channels, height, width]: turned upright, scaled to cover the size, and cut to it around the centre.

    Args:
        channels: 3 makes everything RGB, 1 makes everything grey.

    Raises:
        UnreadableImage: truncated, not an image, or so large that it must be an attack (Pillow's limit).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as file:
                image = ImageOps.exif_transpose(file)
                if image.mode.startswith("I") or image.mode == "F":  # 16 bits: convert() would clip instead of scaling
                    values = np.asarray(image, dtype=np.float32)
                    image = Image.fromarray((values / max(float(values.max()), 255.0) * 255).astype(np.uint8))
                image = image.convert("L" if channels == 1 else "RGB")
                if image.size != (width, height):
                    image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableImage(_reason(error)) from error
    pixels = torch.from_numpy(np.array(image))
    return pixels[None] if channels == 1 else pixels.permute(2, 0, 1).contiguous()


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return "not an image" if "cannot identify" in str(error) else " ".join(str(error).split())
