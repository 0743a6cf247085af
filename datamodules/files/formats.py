"""Which files are images: the one rule for training, prediction and annotations."""

from __future__ import annotations

import errno
import os
import re
import warnings
from collections.abc import Iterable
from contextlib import suppress
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError, features

# formats that are read, with their endings; others, such as EPS, would start programs
FORMATS = {
    "JPEG": ("jpg", "jpeg", "jpe", "jfif", "mpo"),
    "PNG": ("png", "apng"),
    "BMP": ("bmp",),
    "WEBP": ("webp",),
    "GIF": ("gif",),
    "TIFF": ("tif", "tiff"),
    "PPM": ("ppm", "pgm", "pbm", "pnm", "pfm"),
    "AVIF": ("avif", "avifs"),
    "HEIF": ("heic", "heif", "heics", "heifs", "hif"),
}
REMEDIES = {"AVIF": "pip install -U pillow", "HEIF": "pip install 'bestiary[heic]'"}
BRANDS = {b"avif": "AVIF", b"avis": "AVIF"} | dict.fromkeys((b"heic", b"heix", b"hevc", b"hevx", b"mif1", b"msf1"), "HEIF")
ENDING = re.compile(r"[a-z][a-z0-9]{1,4}")
OTHER = "of other types"


def _readable() -> tuple[str, ...]:
    """The formats that this installation reads; found at import, as threads that open files must not load them."""
    with suppress(ImportError):
        from pillow_heif import register_heif_opener

        register_heif_opener()
    Image.init()
    optional = {"WEBP": "webp", "AVIF": "avif"}
    return tuple(name for name in FORMATS if name in Image.OPEN and (name not in optional or features.check(optional[name])))


READABLE = _readable()
FORMAT_OF = {ending: name for name, endings in FORMATS.items() for ending in endings}


def why_no_image(path: str) -> str:
    """Why a file does not count as an image, in words; empty if it does.

    The ending decides, in any case, and the content where the name has none. What an image's ending stands on is opened by its
    content, whatever the ending.
    """
    _, dot, ending = path.rpartition(".")
    ending = ending.lower()
    if found := FORMAT_OF.get(ending):
        return "" if found in READABLE else f"of type {found}, which needs {REMEDIES.get(found, 'another build of Pillow')}"
    if dot and ENDING.fullmatch(ending):
        return OTHER
    return "" if _opens(path) else OTHER


def is_image(path: str) -> bool:
    """Whether a file counts as an image, by ``why_no_image``."""
    return not why_no_image(path)


def how_to_read(paths: Iterable[str]) -> str:
    """The end of a message about files that cannot be read: what reads those of formats that are not installed; else empty."""
    missing = {FORMAT_OF.get(path.rpartition(".")[2].lower()) for path in paths} & (REMEDIES.keys() - set(READABLE))
    return "".join(f"; {name} images need {REMEDIES[name]}" for name in sorted(missing))


class MissingFormat(OSError):
    """An image of a format that another installation reads. It has a number of an error, as what may be readable another time."""


def open_image(path: str | BinaryIO | Image.Image) -> Image.Image:
    """Open an image of a readable format, lazily; one that is open already is copied.

    Raises:
        MissingFormat: it takes another installation.
        Exception: it is no image; a damaged file raises almost any.
    """
    if isinstance(path, Image.Image):
        return path.copy()
    try:
        return Image.open(path, formats=READABLE)
    except UnidentifiedImageError:
        found = _brand(path)
        if found and found not in READABLE:
            raise MissingFormat(errno.ENOTSUP, f"of type {found}, which needs {REMEDIES[found]}") from None
        raise


def _brand(path: str | BinaryIO) -> str | None:
    """The format that the first bytes of an HEIF container name."""
    if isinstance(path, str | os.PathLike):
        with open(path, "rb") as file:
            start = file.read(12)
    else:
        path.seek(0)
        start = path.read(12)
    return BRANDS.get(start[8:]) if start[4:8] == b"ftyp" else None


def _opens(path: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, about large images and odd metadata
            open_image(path).close()
    except Exception:  # a file that is something else raises almost any
        return False
    return True
