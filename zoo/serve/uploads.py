"""From what somebody uploads to images: how much is taken, and what is refused before it costs anything."""

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
from zoo.datamodules.files.images import UnreadableImage, open_image, read_image

FIELD = "images"
BODY = "body"  # the name of an image that is sent without one
MEGABYTE = 10**6


@dataclass(frozen=True)
class Limits:
    """What one request may ask for.

    Attributes:
        bytes: of its body.
        images: in it.
        pixels: of an image, as its header tells before anything is decoded.
        seconds: until the body has come.
    """

    bytes: int = 20 * MEGABYTE
    images: int = 64
    pixels: int = 50_000_000
    seconds: float = 60.0


class TooLarge(HTTPException):
    """A body of more bytes than are taken."""

    def __init__(self, limits: Limits) -> None:
        # what was not read stays in the connection, which is therefore not used again
        text = f"the upload is larger than the {limits.bytes / MEGABYTE:g} MB that are taken"
        super().__init__(413, text, {"Connection": "close"})


class InMemory(MultiPartParser):
    """Starlette's parser, but large parts do not go to a file."""

    spool_max_size = 0  # for SpooledTemporaryFile: no limit; that of the whole body holds


async def read_uploads(request: Request, limits: Limits) -> list[tuple[str, bytes]]:
    """The files that a request brings, with their names.

    Raises:
        HTTPException: too large (413), too slow (408), or not as described (400).
    """
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limits.bytes:
        raise TooLarge(limits)
    try:
        async with asyncio.timeout(limits.seconds):
            body = await _read(request, limits)
    except TimeoutError:
        text = f"the upload took longer than {limits.seconds:g} seconds"
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
        text = f"at most {limits.images} images a request" if "Too many files" in error.message else one_line(error.message)
        raise HTTPException(400, text) from None
    files = []
    for field, value in form.multi_items():
        if field != FIELD or not isinstance(value, UploadFile):
            raise HTTPException(400, f"field {one_line(field, 50)!r}: images are sent as files in the field {FIELD!r}")
        files.append((one_line(value.filename or BODY, 200), await value.read()))
    return files


def read_upload(name: str, content: bytes, shape: tuple[int, int, int], limits: Limits) -> Tensor:
    """uint8 [channels, height, width] of an uploaded file.

    Raises:
        HTTPException: it is no image (400), or one of too many pixels (413).
    """
    try:
        with open_image(BytesIO(content)) as image:
            width, height = image.size
    except Exception:  # a damaged file raises almost any, and a bomb one of Pillow's own
        width = height = 0  # the reader says why
    if width * height > limits.pixels:
        most = f"{limits.pixels / 1e6:g} million"
        raise HTTPException(413, f"{name}: has {width}x{height} pixels, at most {most} are taken")
    try:
        return read_image(BytesIO(content), *shape)
    except UnreadableImage as error:
        raise HTTPException(400, f"{name}: {one_line(error, 200)}") from None
