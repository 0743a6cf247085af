"""Decode one image file, of any size and mode that Pillow reads, to 8-bit pixels of a given shape."""

from __future__ import annotations

import warnings
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from zoo.core.errors import UserError, one_line
from zoo.datamodules.files.formats import MissingFormat, open_image
from zoo.datamodules.files.pixel_format import RGB, PixelFormat
from zoo.spec import Crop, ImageSpec

FIT = Crop()
ORIENTATION = 0x0112  # EXIF tag; from 5 on, width and height are exchanged


class UnreadableImage(Exception):
    """A file that is not an image, or not a whole one; the text says why."""


def read_image(path: str | BinaryIO | Image.Image, spec: ImageSpec) -> Tensor:
    """Decode a file, by path or open, that may be anything, or an image, to uint8 [channels, height, width] of ``spec``.

    Raises:
        UnreadableImage: truncated, not an image, or so large that it must be an attack (Pillow's limit).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, about large images and odd metadata
            pixels = decode(path, spec.shape[1:], spec.crop, PixelFormat.of(spec))
    except Exception as error:  # a damaged file raises almost any
        raise UnreadableImage(_reason(error)) from error
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror if isinstance(error, MissingFormat) else error.strerror.lower()
    return "not an image" if "cannot identify" in str(error) else f"cannot be read: {one_line(error)}"


def array_to_image(array: np.ndarray, is_deep: bool = False) -> Image.Image:
    """Convert an array to an image.

    Args:
        array: [H, W], [H, W, C] or [C, H, W] with 1, 3 or 4 channels; uint8, or floats from 0 to 1.
        is_deep: gray values of other types than uint8 are those of a deep image.

    Raises:
        UserError: another shape, type or range.
    """
    channels = (1, 3, 4)
    if array.ndim == 3 and array.shape[-1] not in channels and array.shape[0] in channels:
        array = array.transpose(1, 2, 0)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.size == 0 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in channels)):
        expected = "[H, W], [H, W, C] or [C, H, W] with 1, 3 or 4 channels"
        raise UserError(f"an array of shape {array.shape} is not an image: expected {expected}")
    if is_deep and array.ndim == 2 and array.dtype.kind in "iuf" and array.dtype != np.uint8:
        return Image.fromarray(array.astype(np.float32))
    if np.issubdtype(array.dtype, np.floating):
        if not (array.min() >= 0 and array.max() <= 1):
            raise UserError(f"floating-point pixels from {array.min():.3g} to {array.max():.3g}: expected 0 to 1, or uint8")
        array = (array * 255).round().astype(np.uint8)
    if array.dtype != np.uint8:
        raise UserError(f"pixels of type {array.dtype}: expected uint8, or floats from 0 to 1")
    return Image.fromarray(array)


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) to 8; damaged EXIF data is no reason to lose the image."""
    if image.format == "PNG" and "exif" not in image.info:
        return 1  # Pillow would decode the whole image to look for it
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception:  # whatever a damaged block may raise
        return 1


def upright_size(path: str) -> tuple[int, int] | None:
    """(height, width) from the header, or None if it cannot be read."""
    try:
        with open_image(path) as image:
            return turned_size(image)
    except Exception:  # a damaged file raises almost any
        return None


def mode_of(path: str | BinaryIO) -> str:
    """Pillow's mode of an image, from its header; empty if it cannot be read."""
    try:
        with open_image(path) as image:
            return image.mode
    except Exception:  # a damaged file raises almost any
        return ""


def turned_size(image: Image.Image) -> tuple[int, int]:
    """(height, width) of an image that is not loaded yet, once it is turned upright."""
    # Pillow's size of a TIFF is turned already, in newer versions
    width, height = (image.tag_v2[256], image.tag_v2[257]) if image.format == "TIFF" else image.size
    return (width, height) if orientation(image) >= 5 else (height, width)


def decode(
    path: str | BinaryIO | Image.Image, shape: tuple[int, int], crop: Crop = FIT, pixel_format: PixelFormat = RGB
) -> np.ndarray:
    """Pixels, uint8 [height, width, channels], turned upright, resized and cropped to ``shape``.

    Raises:
        Exception: the file cannot be read; a damaged one raises almost any.
    """
    height, width = shape
    with open_image(path) as image:
        if crop.mode == "fit" and image.size != (width, height):  # the other modes are those of published weights, to the pixel
            # JPEG decodes at 1/2, 1/4 or 1/8 for much less work; twice the final size leaves the scaling to the filter
            image.draft("RGB", (2 * max(shape),) * 2)
        turned = ImageOps.exif_transpose(image) if orientation(image) != 1 else image
        return np.atleast_3d(np.asarray(resize_and_crop(pixel_format.convert(turned), shape, crop)))


def resize_and_crop(image: Image.Image, shape: tuple[int, int], crop: Crop = FIT) -> Image.Image:
    """An image of ``shape`` (height, width); ``center`` and ``squash`` give the pixels of torchvision's and timm's transforms."""
    if crop.mode == "fit":
        return fit(image, shape, crop.interpolation)
    from torchvision.transforms import InterpolationMode, functional  # slow to import, and seldom used

    sides = [round(side / crop.pct) for side in shape]
    resized = functional.resize(image, sides if crop.mode == "squash" else min(sides), InterpolationMode(crop.interpolation))
    return functional.center_crop(resized, shape)


def fit(image: Image.Image, shape: tuple[int, int], interpolation: str = FIT.interpolation) -> Image.Image:
    """The largest box in the middle that has the proportions of ``shape`` (height, width), scaled to it."""
    height, width = shape
    if image.size == (width, height):
        return image
    scale = min(image.width / width, image.height / height)  # pixels there for one here
    left, top = max(0.0, (image.width - scale * width) / 2), max(0.0, (image.height - scale * height) / 2)
    box = (left, top, image.width - left, image.height - top)
    return image.resize((width, height), Image.Resampling[interpolation.upper()], box)
