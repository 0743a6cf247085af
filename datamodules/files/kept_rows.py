"""Which row of a file each path has, whatever other paths there are: files that come or go leave the rest where they are."""

from __future__ import annotations

from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

import numpy as np

from zoo.core.files import replacing
from zoo.datamodules.files.paths import Paths


def kept_rows(path: Path, paths: Paths) -> tuple[np.ndarray, int]:
    """The row of each path, int64 [n], and how many rows there are; paths that are new get new rows.

    The caller keeps other processes from doing this at the same time.

    Args:
        path: of the pixels; next to it are the key of each row, and the rows of the paths that were asked for last.

    Raises:
        OSError: they cannot be written.
    """
    keys_file, rows_file, digest = path.with_suffix(".keys"), path.with_suffix(".rows"), paths.digest
    known = np.fromfile(keys_file, np.uint64) if keys_file.exists() else np.empty(0, np.uint64)
    with suppress(OSError, ValueError):  # not there, or damaged
        former = rows_file.read_bytes()
        rows = np.frombuffer(former, np.int64, offset=len(digest))
        if former.startswith(digest) and len(rows) == len(paths) and rows.max(initial=-1) < len(known):
            return rows, len(known)
    keys = np.fromiter(map(_key, paths.absolute()), np.uint64, len(paths))
    added = np.setdiff1d(keys, known)
    if len(added):
        with keys_file.open("r+b" if keys_file.exists() else "wb") as file:
            file.seek(len(known) * known.itemsize)  # and not to the end, where a kill may have left a part of one
            file.write(added.tobytes())
        known = np.concatenate([known, added])
    order = known.argsort()
    rows = order[np.searchsorted(known, keys, sorter=order)].astype(np.int64)
    with replacing(rows_file) as file:
        file.write(digest + rows.tobytes())
    return rows, len(known)


def _key(name: bytes) -> int:
    return int.from_bytes(blake2b(name, digest_size=8).digest(), "little")
