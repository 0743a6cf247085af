"""Decoded images in a memory-mapped file, a row for each, that is filled when they are first asked for.

Any number of processes read and fill it at once; a row is decoded by one of them. Rows are written before they are entered in the
index and are checked by their checksum when a process first reads them, so a kill or a power failure costs single rows.
"""

from __future__ import annotations

import math
import os
import shutil
import time
import weakref
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from threading import Lock

import numpy as np

from zoo.core.files import cache_folder
from zoo.core.ranks import rank_zero_print
from zoo.datamodules.files.decoded import locked
from zoo.datamodules.files.kept_rows import kept_rows
from zoo.datamodules.files.paths import Paths, file_state

try:
    import fcntl
except ImportError:  # Windows: processes do not share their work
    fcntl = None

MISSING, READABLE, UNREADABLE = 0, 1, 2  # states of a row
LOCKS = 1024  # threads wait for each other if their rows are equal modulo this
POLL = 0.002  # seconds between tries to lock a row that another process decodes
LAYOUT = 2  # of the file
SUFFIXES = (".pixels", ".index", ".locks", ".keys", ".rows")
SHARE = 0.8  # of the free disk that one file may take


class MappedImages:
    """The file.

    Args:
        path: of the pixels; the index and the locks are next to it.
        count: rows in the file.
        row_bytes: of the largest image. What an image does not use of its row takes no place on the disk.
        places: int64 [n], in the file, of the rows that are asked for; None for all.

    Raises:
        OSError: it cannot be written.
    """

    def __init__(self, path: Path, count: int, row_bytes: int, places: np.ndarray | None = None) -> None:
        self._places = np.arange(count) if places is None else places
        self._descriptor = _open(path, count * row_bytes, sparse=True)
        weakref.finalize(self, os.close, self._descriptor)
        self._locks_file = _open(path.with_suffix(".locks"), 0, sparse=True)
        weakref.finalize(self, os.close, self._locks_file)
        index = path.with_suffix(".index")
        os.close(_open(index, count * 6 * 4, sparse=False))
        # state, shape of the image, checksum of the pixels, signature of the file
        self._index = _map(index, np.uint32, (count, 6))
        self._pixels = _map(path, np.uint8, (count, row_bytes))
        self._checked = np.zeros(count, bool)  # rows that this process has found to be whole
        self._locks = [Lock() for _ in range(LOCKS)]
        self._is_full = False

    def get(self, row: int, file: str, decode: Callable[[str], np.ndarray]) -> np.ndarray | None:
        """The pixels of a row, uint8 of three dimensions, decoded now if they are not there; None if the file cannot be read.

        Args:
            file: the image's path.
            decode: gives the pixels of a file; an exception means that it cannot be read.
        """
        row = int(self._places[row])
        if not self._is_whole(row, file):
            with self._locked(row):
                if not self._is_whole(row, file):  # another process may have been faster
                    return self._decode(row, file, decode)
        state, *shape = self._index[row, :4].tolist()
        return self._pixels[row, : math.prod(shape)].reshape(shape) if state == READABLE else None

    def take(self, rows: np.ndarray, out: np.ndarray) -> bool:
        """Copy images that fill their rows to ``out``, uint8 [n, ...], if this process has read all of them before."""
        rows = self._places[rows]
        if not self._checked[rows].all() or (self._index[rows, 0] != READABLE).any():
            return False
        np.take(self._pixels, rows, 0, out.reshape(len(rows), -1), "clip")  # the mode without another copy
        return True

    @property
    def holds_others(self) -> bool:
        """Whether there are rows that may not be asked for."""
        return len(np.unique(self._places)) < len(self._index)

    def missing(self, rows: np.ndarray | None = None) -> int:
        """How many of these rows, or of all that may be asked for, nothing is entered for yet."""
        places = self._places if rows is None else self._places[rows]
        return int((self._index[places, 0] == MISSING).sum())

    def _is_whole(self, row: int, file: str) -> bool:
        """Whether the row holds what is in the file now; unreadable files count."""
        if self._checked[row]:
            return True
        state, *shape, checksum, signature = self._index[row].tolist()
        if state == MISSING or signature != _signature(file):
            return False
        if state == READABLE and _checksum(self._pixels[row, : math.prod(shape)]) != checksum:
            return False
        self._checked[row] = True
        return True

    def _decode(self, row: int, file: str, decode: Callable[[str], np.ndarray]) -> np.ndarray | None:
        signature = _signature(file)
        try:
            pixels = np.ascontiguousarray(decode(file))
        except Exception as error:  # a damaged file raises almost any
            if getattr(error, "errno", None) is None:  # else of the disk or the network: the next time may be better
                self._enter(row, UNREADABLE, 0, 0, 0, 0, signature)
            return None
        if not self._is_full:
            try:
                self._write(pixels, row * self._pixels.shape[1])
                self._enter(row, READABLE, *pixels.shape, _checksum(pixels.reshape(-1)), signature)
            except OSError as error:
                self._is_full = True
                rank_zero_print(f"warning: decoded images are no longer kept in {cache_folder()}: {error.strerror}")
        return pixels

    def _write(self, pixels: np.ndarray, start: int) -> None:
        """Write to the file and not to the memory that it is mapped to: a full disk would be a fatal signal there."""
        left = memoryview(pixels).cast("B")
        while left:
            written = os.pwrite(self._descriptor, left, start)
            start, left = start + written, left[written:]

    def _enter(self, row: int, state: int, *values: int) -> None:
        self._index[row, 0] = MISSING
        self._index[row, 1:] = values
        self._index[row, 0] = state
        self._checked[row] = True

    @contextmanager
    def _locked(self, row: int) -> Iterator[None]:
        with self._locks[row % LOCKS]:
            held = fcntl is not None and self._lock_among_processes(row)
            try:
                yield
            finally:
                if held:
                    fcntl.lockf(self._locks_file, fcntl.LOCK_UN, 1, row)

    def _lock_among_processes(self, row: int) -> bool:
        """Lock a byte of a file, by polling: to the kernel, the threads of processes that wait for each other are a deadlock."""
        while True:
            try:
                fcntl.lockf(self._locks_file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, row)
            except (BlockingIOError, PermissionError):
                time.sleep(POLL)
            except OSError:  # a file system without locks
                return False
            else:
                return True


def open_mapped(
    identity: str, paths: Paths, row_bytes: int, usual_bytes: int, rows: np.ndarray | None = None
) -> MappedImages | None:
    """Open the file of this identity in the cache, or None where the disk does not suffice or cannot be written.

    A path has the same row whatever other paths there are, so what is kept stays when files come or go.

    Args:
        identity: of all that pixels depend on besides their file.
        paths: the files of the rows.
        usual_bytes: that a row takes; other such files are deleted, the least recently used first, if there is no room.
        rows: that will be asked for; None for all.
    """
    digest = blake2b(f"{LAYOUT} {identity} {paths.common_folder}".encode(errors="surrogateescape"), digest_size=16)
    path = cache_folder() / "images" / f"{digest.hexdigest()}.pixels"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path):
            is_new = not path.exists()
            mapped = _open_rows(path, paths, row_bytes)
            has_room = _make_room(path, usual_bytes * mapped.missing(rows))
            if not has_room and mapped.holds_others:
                _delete(path)
                mapped = _open_rows(path, paths, row_bytes)
                has_room = _make_room(path, usual_bytes * mapped.missing(rows))
            if not has_room:
                if is_new:
                    _delete(path)
                return None
            os.utime(path)  # the ones used last are kept
    except OSError:
        return None
    if is_new:
        rank_zero_print(f"images are decoded once, into {path.parent} (about {_size(usual_bytes * mapped.missing())})")
    return mapped


def _open_rows(path: Path, paths: Paths, row_bytes: int) -> MappedImages:
    places, count = kept_rows(path, paths)
    return MappedImages(path, count, row_bytes, places)


def _make_room(path: Path, expected: int) -> bool:
    """Whether there is room for so much more in the file, after deleting others for it."""
    others = sorted(set(path.parent.glob("*.pixels")) - {path}, key=lambda other: other.stat().st_mtime)
    while expected > SHARE * shutil.disk_usage(path.parent).free:
        if not others:
            return False
        _delete(others.pop(0))
    return True


def _size(count: float) -> str:
    """A number of bytes as it is read."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{max(1, round(count / 1e6))} MB"


def _delete(path: Path) -> None:
    for suffix in SUFFIXES:
        path.with_suffix(suffix).unlink(missing_ok=True)


def _map(path: Path, kind: type, shape: tuple[int, int]) -> np.ndarray:
    """The file as a plain array, of which a row is taken in a fraction of the time that the class ``memmap`` needs."""
    return np.memmap(path, kind, "r+", shape=shape).view(np.ndarray)  # r+: torch warns of what is read-only


def _open(path: Path, size: int, sparse: bool) -> int:
    """A descriptor of a file of at least this size."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if os.fstat(descriptor).st_size < size:
            if sparse or not hasattr(os, "posix_fallocate"):
                os.ftruncate(descriptor, size)
            else:
                os.posix_fallocate(descriptor, 0, size)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _checksum(pixels: np.ndarray) -> int:
    """32 bits that change with any of the pixels, uint8 [n]: their sum as 64-bit numbers, in a tenth of the time of a CRC."""
    whole = len(pixels) // 8 * 8
    total = int(pixels[:whole].view(np.uint64).sum()) + int(pixels[whole:].sum())
    return (total ^ total >> 32) & 0xFFFFFFFF


def _signature(file: str) -> int:
    """32 bits that change with the file; 0 if it is gone."""
    with suppress(OSError, ValueError):
        return zlib.crc32(f"{file_state(file)} {file}".encode(errors="surrogateescape")) | 1
    return 0
