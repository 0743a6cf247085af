"""File paths in arrays: a million strings take hundreds of megabytes, and slow down each garbage collection."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np


class Paths(Sequence[str]):
    """Paths in one buffer of bytes; a selection of them shares it.

    Args:
        paths: strings, as ``os.fsencode`` takes them.
    """

    def __init__(self, paths: Iterable[str] = ()) -> None:
        names = [os.fsencode(path) for path in paths]
        lengths = np.fromiter(map(len, names), np.int64, len(names))
        self._bytes = np.frombuffer(b"".join(names), np.uint8)
        self._ends = lengths.cumsum()
        self._starts = self._ends - lengths

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
        return map(self.__getitem__, range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None
