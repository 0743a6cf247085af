"""File paths in arrays, as a million strings take hundreds of megabytes and slow down garbage collection; states of files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import overload

import numpy as np


def file_state(path: str) -> str:
    """Size, times and inode of a file: what changes with its content, and when two files change places.

    Raises:
        OSError: it is gone.
    """
    stat = os.stat(path)
    return f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino}"


class Paths(Sequence[str]):
    """Paths in one buffer of bytes; a selection of them shares it.

    Args:
        paths: strings, as ``os.fsencode`` takes them.
    """

    def __init__(self, paths: Iterable[str] = ()) -> None:
        names = [os.fsencode(path) for path in paths]
        lengths = np.fromiter(map(len, names), np.int64, len(names))
        self._bytes = np.frombuffer(b"\0".join(names), np.uint8)
        self._starts = np.arange(len(names)) + lengths.cumsum() - lengths
        self._ends = self._starts + lengths

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice | np.ndarray) -> Paths: ...
    def __getitem__(self, index: int | slice | np.ndarray) -> str | Paths:
        """One path, or those of a slice, of indices or of a mask."""
        if isinstance(index, slice | np.ndarray):
            chosen = object.__new__(Paths)
            chosen._bytes, chosen._starts, chosen._ends = self._bytes, self._starts[index], self._ends[index]
            return chosen
        return os.fsdecode(self._bytes[self._starts[index] : self._ends[index]].tobytes())

    def __iter__(self) -> Iterator[str]:
        text = self._bytes.tobytes()
        return (os.fsdecode(text[start:end]) for start, end in zip(self._starts.tolist(), self._ends.tolist(), strict=True))

    def digest(self) -> bytes:
        """16 bytes that change with the paths that were given, of which a selection has the same."""
        start = b"" if self._bytes[:1].tobytes() == os.fsencode(os.sep) else os.fsencode(os.getcwd())
        return blake2b(start + b"\0" + self._bytes.tobytes(), digest_size=16).digest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None


def select(paths: Sequence[str], indices: np.ndarray) -> Sequence[str]:
    """The paths at these indices, of none none."""
    if isinstance(paths, Paths):
        return paths[indices]
    return tuple(paths[index] for index in indices.tolist()) if paths else ()
