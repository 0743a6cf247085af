"""File paths in arrays, as a million strings take hundreds of megabytes and slow down garbage collection; states of files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
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
        self._ends = np.arange(len(names)) + lengths.cumsum()
        self._starts = self._ends - lengths

    @classmethod
    def from_bytes(cls, text: np.ndarray) -> Paths:
        """Paths, at least one, from their uint8 bytes with a null between them."""
        nulls = (text == 0).nonzero()[0]
        return cls._of(text, np.concatenate([[0], nulls + 1]), np.concatenate([nulls, [len(text)]]))

    @classmethod
    def concatenate(cls, parts: Sequence[Paths]) -> Paths:
        """All paths of several selections, which may be of the same paths."""
        if len({id(part._bytes) for part in parts}) == 1:
            starts, ends = (np.concatenate([getattr(part, name) for part in parts]) for name in ("_starts", "_ends"))
            return cls._of(parts[0]._bytes, starts, ends)
        return cls(path for part in parts for path in part)

    @classmethod
    def _of(cls, text: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> Paths:
        paths = object.__new__(cls)
        paths._bytes, paths._starts, paths._ends = text, starts, ends
        return paths

    def to_bytes(self) -> np.ndarray:
        """uint8 with a null between paths, as ``from_bytes`` takes it."""
        return Paths(self)._bytes

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice | np.ndarray) -> Paths: ...
    def __getitem__(self, index: int | slice | np.ndarray) -> str | Paths:
        """One path, or those of a slice, of indices or of a mask."""
        if isinstance(index, slice | np.ndarray):
            return self._of(self._bytes, self._starts[index], self._ends[index])
        return os.fsdecode(self._bytes[self._starts[index] : self._ends[index]].tobytes())

    def __iter__(self) -> Iterator[str]:
        return map(os.fsdecode, self._texts())

    @cached_property
    def digest(self) -> bytes:
        """16 bytes that change with these paths."""
        digest = blake2b(self._start() + b"\0", digest_size=16)
        for part in (self._bytes, self._starts, self._ends):
            digest.update(np.ascontiguousarray(part))
        return digest.digest()

    def absolute(self) -> Iterator[bytes]:
        """The paths as bytes, absolute."""
        start = self._start()
        return (start + text for text in self._texts())

    def _texts(self) -> Iterator[bytes]:
        first = self._starts.min(initial=len(self._bytes))  # a selection may be a small part
        text = self._bytes[first : self._ends.max(initial=0)].tobytes()
        starts, ends = (self._starts - first).tolist(), (self._ends - first).tolist()
        return (text[start:end] for start, end in zip(starts, ends, strict=True))

    @cached_property
    def common_folder(self) -> str:
        """The folder, absolute, that all paths are below of which these are a selection."""
        text, separator = self._bytes.tobytes(), os.fsencode(os.sep)
        others = text.count(b"\0")
        folder = os.path.dirname(text[: text.index(b"\0")] if others else text)
        while folder:
            beginning = folder.rstrip(separator) + separator
            if text.startswith(beginning) and text.count(b"\0" + beginning) == others:
                break
            above = os.path.dirname(folder)
            folder = above if above != folder else b""
        return os.path.abspath(os.fsdecode(self._start() + folder))

    def _start(self) -> bytes:
        """What makes the paths absolute."""
        return b"" if self._bytes[:1].tobytes() == os.fsencode(os.sep) else os.fsencode(os.path.join(os.getcwd(), ""))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None


def select(paths: Sequence[str], indices: np.ndarray) -> Sequence[str]:
    """The paths at these indices, of none none."""
    if isinstance(paths, Paths):
        return paths[indices]
    return tuple(paths[index] for index in indices.tolist()) if paths else ()
