"""Digests of the bytes of files, each computed when its file is first read: no pass over large data is made for them.

They are kept in a memory-mapped file of the cache, which processes and runs share. That of a file that was changed since is not
used.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from hashlib import blake2b

import numpy as np
from torch import Tensor

from zoo.core.files import cache_folder
from zoo.datamodules.files.decoded import DIGEST_BYTES, content_digest, locked
from zoo.datamodules.files.kept_rows import kept_rows
from zoo.datamodules.files.paths import Paths, file_state

# 32 bytes, so that no page of memory cuts a row, and each is written to the disk as a whole
ROW = np.dtype([("state", "u8"), ("digest", "u1", DIGEST_BYTES), ("unused", "u8")])
KEPT = 16  # files in the cache


class DigestTable:
    """The digests of the files at these paths, as far as they were read."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths
        self._places, self._rows = _open(paths)
        self._is_current = np.zeros(len(paths), bool)  # rows that this process has found to be of the file as it is

    def note(self, row: int) -> None:
        """Compute the digest of a file that is read, if it is not there."""
        if self._is_current[row]:
            return
        with suppress(OSError, ValueError):
            path, place = self.paths[row], self._places[row]
            state = _state(path)
            if self._rows["state"][place] != state:
                with open(path, "rb") as file:
                    self._rows["digest"][place] = content_digest(file)
                self._rows["state"][place] = state
            self._is_current[row] = True

    def get(self, row: int) -> bytes:
        """The digest of a file as it is now; empty if it was not read."""
        place = self._places[row]
        if not self._is_current[row] and self._rows["state"][place]:
            with suppress(OSError, ValueError):
                self._is_current[row] = self._rows["state"][place] == _state(self.paths[row])
        return self._rows["digest"][place].tobytes() if self._is_current[row] else b""


class NotedDigests:
    """Those of some rows of a table."""

    def __init__(self, table: DigestTable, rows: np.ndarray | None = None) -> None:
        self.table = table
        self._rows = np.arange(len(table.paths)) if rows is None else rows

    def __getitem__(self, indices: Tensor) -> NotedDigests:
        return NotedDigests(self.table, self._rows[indices.numpy()])

    def content(self) -> list[bytes]:
        """The digest of each file; empty for one that was not read."""
        return list(map(self.table.get, self._rows.tolist()))

    def read(self) -> None:
        """Read the files that were not read yet."""
        with ThreadPoolExecutor() as threads:
            for _ in threads.map(self.table.note, self._rows.tolist()):
                pass


def _state(path: str) -> int:
    """64 bits that change with the file, not zero."""
    return int.from_bytes(blake2b(file_state(path).encode(), digest_size=8).digest(), "little") | 1


def _open(paths: Paths) -> tuple[np.ndarray, np.ndarray]:
    """The place of each path among the rows, and the rows: in a file, or in memory, where none can be written."""
    name = blake2b(f"SHA-256 {paths.common_folder}".encode(errors="surrogateescape"), digest_size=16).hexdigest()
    path = cache_folder() / "digests" / f"{name}.digests"
    try:
        with locked(path):
            places, count = kept_rows(path, paths)
            with open(path, "ab") as file:
                file.truncate(max(file.tell(), count * ROW.itemsize))
        os.utime(path)  # the ones used last are kept
        for former in sorted(path.parent.glob("*.digests"), key=lambda other: other.stat().st_mtime)[:-KEPT]:
            for file_of_it in path.parent.glob(f"{former.stem}.*"):
                file_of_it.unlink()
        return places, np.memmap(path, ROW, "r+", shape=(count,)).view(np.ndarray)
    except (OSError, ValueError):
        return np.arange(len(paths)), np.zeros(len(paths), ROW)
