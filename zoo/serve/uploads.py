"""Reading of uploads, with limits that are checked before anything is decoded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from io import BytesIO

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from torch import Tensor

from zoo.core.errors import one_line
from zoo.datamodules.files.formats import open_image
from zoo.datamodules.files.images import UnreadableImage, read_image
from zoo.spec import ImageSpec

FIELD = "images"
BODY = "body"  # name of an image without a file name
MEGABYTE = 10**6


@dataclass(frozen=True)
class Limits:
    """Limits of a request.

    Attributes:
        bytes: of its body.
        images: number of images.
        pixels: per image, according to its header.
        seconds: to receive the body.
    """

    bytes: int = 20 * MEGABYTE
    images: int = 64
    pixels: int = 50_000_000
    seconds: float = 60.0


class TooLarge(HTTPException):
    """A request body above the limit."""

    def __init__(self, limits: Limits) -> None:
        # unread data stays in the connection, so it cannot be reused
        text = f"upload too large: at most {limits.bytes / MEGABYTE:g} MB"
        super().__init__(413, text, {"Connection": "close"})


class InMemory(MultiPartParser):
    """Starlette's parser without temporary files."""

    spool_max_size = 0  # for SpooledTemporaryFile: unlimited, since the body is limited


async def read_uploads(request: Request, limits: Limits) -> list[tuple[str, bytes]]:
    """Read the files of a request: names and contents.

    Raises:
        HTTPException: too large (413), too slow (408), or malformed (400).
    """
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limits.bytes:
        raise TooLarge(limits)
    try:
        async with asyncio.timeout(limits.seconds):
            body = await _read(request, limits)
    except TimeoutError:
        text = f"upload took longer than {limits.seconds:g} seconds"
        raise HTTPException(408, text, {"Connection": "close"}) from None
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "multipart/form-data":
        files = [(BODY, body)] if body else []
    else:
        files = await _files_of_form(request, body, limits)
    if not files:
        raise HTTPException(400, f"no image: send files in the field {FIELD!r}, or one image as the body")
    return files


async def _read(request: Request, limits: Limits) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        if len(body) + len(chunk) > limits.bytes:
            raise TooLarge(limits)
        body += chunk
    return bytes(body)


async def _files_of_form(request: Request, body: bytes, limits: Limits) -> list[tuple[str, bytes]]:
    async def stream() -> AsyncIterator[bytes]:
        yield body

    try:
        form = await InMemory(request.headers, stream(), max_files=limits.images, max_fields=limits.images).parse()
    except MultiPartException as error:
        text = f"at most {limits.images} images per request" if "Too many files" in error.message else one_line(error.message)
        raise HTTPException(400, text) from None
    files = []
    for field, value in form.multi_items():
        if field != FIELD or not isinstance(value, UploadFile):
            raise HTTPException(400, f"field {one_line(field, 50)!r}: images are sent as files in the field {FIELD!r}")
        files.append((one_line(value.filename or BODY, 200), await value.read()))
    return files


@dataclass(frozen=True)
class Unreadable:
    """An uploaded file that is no image (``status`` 400), or one of too many pixels (413), and why."""

    status: int
    reason: str


def read_upload(content: bytes, spec: ImageSpec, limits: Limits) -> Tensor | Unreadable:
    """Decode an uploaded file to uint8 [channels, height, width]."""
    try:
        with open_image(BytesIO(content)) as image:
            width, height = image.size
    except Exception:  # of many types
        width = height = 0  # read_image gives the reason
    if width * height > limits.pixels:
        most = f"{limits.pixels / 1e6:g} million"
        return Unreadable(413, f"{width}x{height} pixels, at most {most} are allowed")
    try:
        return read_image(BytesIO(content), spec)
    except UnreadableImage as error:
        return Unreadable(400, one_line(error, 200))
