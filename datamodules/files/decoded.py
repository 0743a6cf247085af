"""Decoding of all of many image files, once, into a cache, if they fit in memory.

Threads decode them (Pillow releases the interpreter's lock), and the next start reads one file.
"""

from __future__ import annotations

import json
import os
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from hashlib import blake2b, file_digest
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from filelock import FileLock
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from zoo.core.errors import some
from zoo.core.files import cache_folder, replacing_path
from zoo.core.ranks import rank_zero_print
from zoo.datamodules.files.formats import how_to_read
from zoo.datamodules.files.images import FIT, decode, mode_of, upright_size
from zoo.datamodules.files.paths import file_state
from zoo.datamodules.files.pixel_format import RGB, PixelFormat, is_gray
from zoo.datamodules.files.progress import shown
from zoo.datamodules.files.threads import reading_threads
from zoo.spec import Crop

MIXED_SIZE = 224  # pixels a side, where the images have different sizes: what most pretrained networks take
VERSION = 4  # of decoding; a cache of another version is not used
DIGEST_BYTES = 16
KEPT = 8  # decoded folders in the cache
CHUNK = 128  # images that a thread takes at a time
NAMED = 3  # files in a message


class Content(NamedTuple):
    """The content of image files.

    Attributes:
        readable: bool, one for each file.
        digests: uint8 [files, 16], of the bytes of each file.
        pixels: uint8 [N, C, H, W] of the N readable ones, or None where they do not fit in memory.
    """

    readable: Tensor
    digests: Tensor
    pixels: Tensor | None


def common_size(paths: Sequence[str]) -> tuple[int, int] | None:
    """(height, width) if all images whose header can be read have the same, else None."""
    sizes: set[tuple[int, int] | None] = set()
    for found in in_threads(lambda chunk: {upright_size(path) for path in paths[chunk]}, len(paths), "scanning"):
        sizes |= found - {None}
        if len(sizes) > 1:
            return None
    return sizes.pop() if sizes else None


def kept_content(
    paths: Sequence[str],
    shape: tuple[int, int],
    memory_gb: float,
    fingerprint: str,
    crop: Crop = FIT,
    pixel_format: PixelFormat = RGB,
) -> Content:
    """Decode these files, or load them from the cache: one process decodes, the others wait.

    Args:
        memory_gb: pixels up to this many gigabytes are kept.
        fingerprint: changes with the files and with their content.
    """
    in_memory = len(paths) * pixel_format.channels * shape[0] * shape[1] <= memory_gb * 1e9
    cache = Cache(fingerprint, pixel_format.channels)
    content = cache.load(len(paths), shape, in_memory)
    if content is not None:
        return content
    with locked(cache.path):
        content = cache.load(len(paths), shape, in_memory)
        if content is None:
            content = decode_all(paths, shape, in_memory, crop, pixel_format)
            cache.save(content, shape)
        return content


def decode_all(
    paths: Sequence[str], shape: tuple[int, int], in_memory: bool, crop: Crop = FIT, pixel_format: PixelFormat = RGB
) -> Content:
    """Read every file once, to keep its digest and its pixels, or only to find out whether it can be read."""
    readable = np.zeros(len(paths), bool)
    digests = np.zeros((len(paths), DIGEST_BYTES), np.uint8)
    colored = np.zeros(len(paths), bool)
    pixels = np.empty((len(paths), pixel_format.channels, *shape), np.uint8) if in_memory else None

    def work(chunk: slice) -> None:
        for index in range(len(paths))[chunk]:
            try:
                with open(paths[index], "rb") as file:
                    digests[index] = content_digest(file)
                    file.seek(0)
                    colored[index] = pixel_format.channels == 1 and not is_gray(mode_of(file))
                    file.seek(0)
                    image = decode(file, shape, crop, pixel_format)
            except Exception:  # a damaged file raises almost any
                continue
            readable[index] = True
            if pixels is not None:
                pixels[index] = image.transpose(2, 0, 1)

    for _ in in_threads(work, len(paths), "decoding" if in_memory else "checking"):
        pass
    if (colored & readable).any():
        say_converted([paths[index] for index in (colored & readable).nonzero()[0]], len(paths))
    if pixels is not None and not readable.all():
        pixels = pixels[readable]
    return Content(torch.from_numpy(readable), torch.from_numpy(digests), None if pixels is None else torch.from_numpy(pixels))


def say_converted(colored: Sequence[str], count: int) -> None:
    """Say which of ``count`` images lose their colors."""
    rank_zero_print(f"{len(colored):,} of {count:,} images have colors and become gray: {some(colored, NAMED)}")


def content_digest(file: BinaryIO) -> np.ndarray:
    """The first bytes of the SHA-256 of an open file, uint8 [16]: processors compute it in half the time of BLAKE2."""
    return np.frombuffer(file_digest(file, "sha256").digest(), np.uint8, DIGEST_BYTES)


def in_threads(work: Callable[[slice], Any], count: int, what: str) -> Iterator[Any]:
    """The results of ``work`` for each chunk of ``count`` images, in order."""
    chunks = [slice(start, start + CHUNK) for start in range(0, count, CHUNK)]
    Image.init()  # here, since loading the formats in several threads at once is not safe
    pool = reading_threads(os.cpu_count() or 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, about large images and odd metadata
            yield from shown(pool.map(work, chunks), count, CHUNK, what)
    finally:
        pool.shutdown(cancel_futures=True)  # when interrupted, do not first finish all that waits


def identity_of_files(paths: Sequence[str], shape: tuple[int, int], crop: Crop = FIT, pixel_format: PixelFormat = RGB) -> str:
    """Hex digits that change with the files, with their content, with the shape, the crop and the format.

    Of the content it knows size, times and inode, so it changes when two files change places. It changes, too, when their format
    is installed.
    """
    digest = blake2b(f"{VERSION} {shape} {crop} {pixel_format}".encode(), digest_size=16)
    for path in paths:
        digest.update(f"{os.path.abspath(path)} {file_state(path)}{how_to_read([path])}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes from writing the same file; where nothing can be written, each works for itself."""
    with ExitStack() as held:
        with suppress(OSError, NotImplementedError):
            path.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(FileLock(path.with_name(f".{path.stem}.lock")))
        yield


class Cache:
    """Decoded images on disk, one file for each state of a folder. A fault of it costs time and nothing else."""

    def __init__(self, fingerprint: str, channels: int = 3) -> None:
        self.channels, self.folder = channels, cache_folder() / "folder"
        self.path = self.folder / f"{fingerprint}.safetensors"

    def shape(self) -> tuple[int, int] | None:
        """(height, width) of the cached images, if there are any."""
        try:
            with safe_open(self.path, "pt") as file:
                height, width = json.loads(file.metadata()["shape"])
                return height, width
        except Exception:  # missing or damaged, in whatever way
            return None

    def load(self, count: int, shape: tuple[int, int], in_memory: bool) -> Content | None:
        """The cached content of ``count`` files, or None if it is missing, damaged or less than is asked for."""
        try:
            with safe_open(self.path, "pt") as file:
                checksums = json.loads(file.metadata()["checksums"])
                tensors = {name: file.get_tensor(name) for name in ("readable", "digests", "pixels")[: 2 + in_memory]}
            if any(zlib.crc32(tensor.numpy()) != checksums[name] for name, tensor in tensors.items()):
                return None
            content = Content(tensors["readable"], tensors["digests"], tensors.get("pixels"))
            if content.readable.shape != (count,) or content.digests.shape != (count, DIGEST_BYTES):
                return None
            if in_memory and content.pixels.shape != (int(content.readable.sum()), self.channels, *shape):
                return None
            os.utime(self.path)  # the ones used last are kept
        except Exception:
            return None
        return content

    def save(self, content: Content, shape: tuple[int, int]) -> None:
        """Write the content, if the cache can be written, and delete the least recently used."""
        tensors = {"readable": content.readable, "digests": content.digests}
        if content.pixels is not None:
            tensors["pixels"] = content.pixels
        checksums = {name: zlib.crc32(tensor.numpy()) for name, tensor in tensors.items()}
        with suppress(Exception):  # a full disk or a read-only folder, as whichever library raises it
            with replacing_path(self.path) as beside:
                save_file(tensors, beside, {"shape": json.dumps(shape), "checksums": json.dumps(checksums)})
            self._prune()

    def _prune(self) -> None:
        by_age = sorted(self.folder.glob("*.safetensors"), key=lambda path: path.stat().st_mtime)
        left_by_killed = [path for path in self.folder.glob(".*") if path.stat().st_mtime < time.time() - 86400]
        for path in by_age[:-KEPT] + left_by_killed:
            path.unlink(missing_ok=True)
