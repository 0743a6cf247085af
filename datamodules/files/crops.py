"""Crops of whole images: random ones for training, drawn as torchvision draws them, and the largest in the middle."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from zoo.datamodules.files.formats import open_image
from zoo.datamodules.files.images import orientation, turned_size
from zoo.datamodules.files.pixel_format import RGB, PixelFormat

TRIES = 10  # boxes, of which the first that fits is taken
DRAWS = 2 * TRIES + 3  # uniform numbers for one image: the last three are of the box's place, and of flipping
WIDEST = math.log(4 / 3)  # of the logarithm of width over height
JPEG, SCAN, METADATA = b"\xff\xd8\xff", 0xDA, 0xE1  # how a file begins; the markers of pixels, and of EXIF and XMP data
CHANNELS_FIRST = (0, 3, 1, 2)  # the order of axes of a view of [n, h, w, C] as torch takes images
RESIZE = {"bilinear": torch.ops.aten._upsample_bilinear2d_aa.out, "bicubic": torch.ops.aten._upsample_bicubic2d_aa.out}
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


def cut(image: np.ndarray, box: Box, shape: tuple[int, int], interpolation: str = "bilinear", flip: bool = False) -> np.ndarray:
    """A box of uint8 [h, w, C], resized to ``shape`` (height, width), as ``cut_into`` does it; uint8 [height, width, C]."""
    out = np.empty((*shape, image.shape[2]), np.uint8)
    cut_into(out, image, box, interpolation, flip)
    return out


def cut_into(out: np.ndarray, image: np.ndarray, box: Box, interpolation: str = "bilinear", flip: bool = False) -> None:
    """Write a box of uint8 [h, w, C] to ``out``, uint8 [height, width, C], resized as Pillow does it, within 1.

    Views are taken by numpy, since every operation of torch hands the interpreter's lock to another thread.

    Args:
        flip: left to right.
    """
    top, left, height, width = box
    part = image.reshape(1, *image.shape)[:, top : top + height, left : left + width]
    if flip:
        pixels = torch.from_numpy(part.transpose(CHANNELS_FIRST)).flip(-1)
    else:
        pixels = torch.from_numpy(np.ascontiguousarray(part).transpose(CHANNELS_FIRST))
    if (height, width) == out.shape[:2]:
        out[...] = pixels.numpy()[0].transpose(1, 2, 0)
    else:
        _resize_into(out, pixels, interpolation)


def _resize_into(out: np.ndarray, pixels: Tensor, interpolation: str = "bilinear") -> None:
    """``F.interpolate`` of [1, C, h, w], antialiased, to ``out``, [height, width, C], without another copy."""
    resize = RESIZE["bicubic" if interpolation == "bicubic" else "bilinear"]
    place = torch.from_numpy(out.reshape(1, *out.shape).transpose(CHANNELS_FIRST))
    resize(pixels, out.shape[:2], False, None, None, out=place)


def decode_whole(path: str, side: int, pixel_format: PixelFormat = RGB) -> np.ndarray:
    """The whole image, uint8 [h, w, C], upright, scaled down to a shorter side of ``side`` pixels and ``LONGEST`` squares of it.

    Raises:
        Exception: the file cannot be read; a damaged one raises almost any.
    """

    def size(height: int, width: int) -> tuple[int, int]:
        scale = min(1, side / min(height, width), math.sqrt(LONGEST * side * side / (height * width)))
        return max(1, int(height * scale)), max(1, int(width * scale))

    image = _upright(path, lambda height, width: min(size(height, width)) / min(height, width), pixel_format)
    return cut(image, Box(0, 0, *image.shape[:2]), size(*image.shape[:2]))


def decode_box(
    path: str,
    choose: Callable[[int, int], Box],
    shape: tuple[int, int],
    interpolation: str,
    pixel_format: PixelFormat = RGB,
    flip: bool = False,
) -> np.ndarray:
    """A box of the whole image, resized to ``shape``, uint8 [height, width, C]; a JPEG is decoded no larger than it needs.

    Args:
        choose: the box, for the height and width of the image.
        flip: left to right.

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
    return cut(image, box, shape, interpolation, flip)


def _upright(path: str, scale: Callable[[int, int], float], pixel_format: PixelFormat) -> np.ndarray:
    """The image as uint8 [h, w, C], turned upright; a JPEG may have less than its size, but at least twice ``scale`` of it."""
    pixels = _plain_jpeg(path, scale, pixel_format.channels)
    if pixels is not None:
        return pixels
    with open_image(path) as image:
        size, is_upright = image.size, orientation(image) == 1
        enough = 2 * scale(*turned_size(image))
        image.draft("RGB", (math.ceil(enough * size[0]), math.ceil(enough * size[1])))
        turned = image if is_upright else ImageOps.exif_transpose(image)
        return np.atleast_3d(np.array(pixel_format.convert(turned)))


def _plain_jpeg(path: str, scale: Callable[[int, int], float], channels: int) -> np.ndarray | None:
    """The pixels of an upright JPEG in color or gray, as Pillow has them, in half the time; None if it takes Pillow."""
    try:
        import simplejpeg
    except ImportError:
        return None
    with open(path, "rb") as file:
        content = file.read()
    if not content.startswith(JPEG) or (_may_be_turned(content) and not _is_upright(path)):
        return None
    with suppress(ValueError):  # it is damaged, and Pillow tells whether too much
        height, width, space, _ = simplejpeg.decode_jpeg_header(content)
        as_it_is = ("Gray",) if channels == 1 else ("Gray", "YCbCr")  # what is converted to the pixels of Pillow
        enough = 2 * scale(height, width)
        is_larger = min(width // math.ceil(enough * width), height // math.ceil(enough * height)) > 1  # decoded at a fraction
        if space in as_it_is and not is_larger and height * width <= (Image.MAX_IMAGE_PIXELS or math.inf):
            return simplejpeg.decode_jpeg(content, "GRAY" if channels == 1 else "RGB")
    return None


def _may_be_turned(content: bytes) -> bool:
    """Whether there is metadata before the pixels of a JPEG, or what comes before them is not as it should be."""
    place = 2
    while content[place : place + 1] == b"\xff" and len(content) > place + 4:
        marker = content[place + 1]
        if marker in (SCAN, METADATA):
            return marker == METADATA
        place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
    return True


def _is_upright(path: str) -> bool:
    with open_image(path) as image:
        return orientation(image) == 1
