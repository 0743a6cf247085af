"""Crops of whole images: random ones for training, drawn as torchvision draws them, and the largest in the middle."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import numpy as np
import torch
from PIL import ImageOps
from torch import Tensor
from torch.nn import functional as F

from zoo.datamodules.files.formats import open_image
from zoo.datamodules.files.images import orientation, turned_size
from zoo.datamodules.files.pixel_format import RGB, PixelFormat

TRIES = 10  # boxes, of which the first that fits is taken
DRAWS = 2 * TRIES + 3  # uniform numbers for one image: the last three are of the box's place, and of flipping
WIDEST = math.log(4 / 3)  # of the logarithm of width over height
GRAIN = 2**15  # values, from which on torch spreads an operation over threads of its own, next to ours
LONGEST = 2  # an image is stored in the area of this many squares at most


class Box(NamedTuple):
    """A part of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


def uniforms(seed: int, indices: Tensor) -> np.ndarray:
    """Uniform numbers in [0, 1), float64 [n, DRAWS], each row a function of (seed, index) alone.

    They are the SplitMix64 generator's (Steele et al. 2014), which needs no state per image.
    """
    places = indices.numpy().astype(np.uint64)[:, None] * np.uint64(DRAWS) + np.arange(1, DRAWS + 1, dtype=np.uint64)
    bits = np.uint64(seed) + places * np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((bits ^ (bits >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53


def random_box(height: int, width: int, min_scale: float, draws: list[float]) -> Box:
    """A box as of torchvision's ``RandomResizedCrop`` (Szegedy et al. 2015): area in [min_scale, 1], aspect ratio in [3/4, 4/3].

    Args:
        draws: DRAWS uniform numbers.
    """
    for first in range(0, 2 * TRIES, 2):
        area = height * width * (min_scale + (1 - min_scale) * draws[first])
        ratio = math.exp(WIDEST * (2 * draws[first + 1] - 1))
        across, down = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < across <= width and 0 < down <= height:
            return Box(int(draws[-3] * (height - down + 1)), int(draws[-2] * (width - across + 1)), down, across)
    return center_box(height, width, min(max(width / height, 3 / 4), 4 / 3))


def center_box(height: int, width: int, ratio: float) -> Box:
    """The largest box in the middle whose width over height is ``ratio``."""
    down, across = min(height, max(1, round(width / ratio))), min(width, max(1, round(height * ratio)))
    return Box((height - down) // 2, (width - across) // 2, down, across)


def cut(image: np.ndarray, box: Box, shape: tuple[int, int], interpolation: str = "bilinear") -> np.ndarray:
    """A box of uint8 [h, w, C], resized to ``shape`` (height, width) as Pillow does it, within 1; uint8 [height, width, C]."""
    top, left, height, width = box
    part = image[top : top + height, left : left + width]
    return part if (height, width) == shape else _resized(part, shape, interpolation)


def _resized(image: np.ndarray, shape: tuple[int, int], interpolation: str = "bilinear") -> np.ndarray:
    # torch would copy a part of an image itself, in several threads for each of ours; channels are last as in the result
    channels_last = torch.from_numpy(np.ascontiguousarray(image))[None].permute(0, 3, 1, 2)
    mode = interpolation if interpolation == "bicubic" else "bilinear"
    resized = F.interpolate(channels_last, shape, mode=mode, antialias=True, align_corners=False)
    return resized[0].permute(1, 2, 0).numpy()


def flip_into(out: np.ndarray, image: np.ndarray) -> None:
    """Write an image, uint8 [h, w, C], flipped left to right."""
    rows = max(1, GRAIN // image[0].size - 1)
    for part, place in zip(_parts(image, rows), _parts(out, rows), strict=True):
        channels_last = torch.from_numpy(part)[None].permute(0, 3, 1, 2)  # which torch flips several times faster than numpy
        place[...] = channels_last.flip(-1)[0].permute(1, 2, 0).numpy()


def _parts(image: np.ndarray, rows: int) -> list[np.ndarray]:
    return [image[first : first + rows] for first in range(0, len(image), rows)]


def decode_whole(path: str, side: int, pixel_format: PixelFormat = RGB) -> np.ndarray:
    """The whole image, uint8 [h, w, C], upright, scaled down to a shorter side of ``side`` pixels and ``LONGEST`` squares of it.

    Raises:
        Exception: the file cannot be read; a damaged one raises almost any.
    """

    def size(height: int, width: int) -> tuple[int, int]:
        scale = min(1, side / min(height, width), math.sqrt(LONGEST * side * side / (height * width)))
        return max(1, int(height * scale)), max(1, int(width * scale))

    image = _upright(path, lambda height, width: min(size(height, width)) / min(height, width), pixel_format)
    if image.shape[:2] == size(*image.shape[:2]):
        return image
    return _resized(image, size(*image.shape[:2]))


def decode_box(
    path: str,
    choose: Callable[[int, int], Box],
    shape: tuple[int, int],
    interpolation: str,
    pixel_format: PixelFormat = RGB,
) -> np.ndarray:
    """A box of the whole image, resized to ``shape``, uint8 [height, width, C]; a JPEG is decoded no larger than it needs.

    Args:
        choose: the box, for the height and width of the image.

    Raises:
        Exception: the file cannot be read; a damaged one raises almost any.
    """
    full: list[tuple[int, int, Box]] = []

    def scale(height: int, width: int) -> float:
        box = choose(height, width)
        full.append((height, width, box))
        return max(shape[0] / box.height, shape[1] / box.width)

    image = _upright(path, scale, pixel_format)
    (height, width, box), (down, across) = full[0], image.shape[:2]
    if (down, across) != (height, width):
        top, bottom = (round(edge * down / height) for edge in (box.top, box.top + box.height))
        left, right = (round(edge * across / width) for edge in (box.left, box.left + box.width))
        box = Box(min(top, down - 1), min(left, across - 1), max(1, bottom - top), max(1, right - left))
    return cut(image, box, shape, interpolation)


def _upright(path: str, scale: Callable[[int, int], float], pixel_format: PixelFormat) -> np.ndarray:
    """The image as uint8 [h, w, C], turned upright; a JPEG may have less than its size, but at least twice ``scale`` of it."""
    with open_image(path) as image:
        size, is_upright = image.size, orientation(image) == 1
        enough = 2 * scale(*turned_size(image))
        image.draft("RGB", (math.ceil(enough * size[0]), math.ceil(enough * size[1])))
        kept = ("L",) if pixel_format.channels == 1 else ("L", "RGB")  # modes without a conversion that differs from Pillow's
        if image.format == "JPEG" and image.mode in kept and is_upright and image.size == size:
            with suppress(ImportError, ValueError):  # not installed; or damaged, and Pillow tells whether too much
                import simplejpeg  # the pixels of Pillow, from the same library, in two thirds of the time

                return simplejpeg.decode_jpeg(np.fromfile(path, np.uint8), "GRAY" if pixel_format.channels == 1 else "RGB")
        turned = image if is_upright else ImageOps.exif_transpose(image)
        return np.atleast_3d(np.array(pixel_format.convert(turned)))
