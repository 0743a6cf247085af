"""The scan of a large folder of classes, kept in the cache: a million files take a while to list, their folders none to check."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

import numpy as np

from zoo.core.files import cache_folder, replacing
from zoo.datamodules.files.image_tree import Tree, scan_tree
from zoo.datamodules.files.paths import Paths

LARGE = 50_000  # files; fewer are listed within a second
SETTLED = 2 * 10**9  # nanoseconds: a folder that was changed later may change again without a new time


def kept_tree(root: Path | None, fewest_classes: int = 2) -> Tree:
    """What ``scan_tree`` finds, from the cache if no folder below the root was changed since.

    Raises:
        UserError: as ``scan_tree``.
    """
    place = f"{root}\0{os.path.abspath(root or '')}".encode(errors="surrogateescape")
    path = cache_folder() / "trees" / f"{blake2b(place, digest_size=16).hexdigest()}.npz"
    with suppress(Exception):  # missing or damaged, in whatever way
        tree = _read(path)
        if tree is not None and len(tree.classes) >= fewest_classes:
            return tree
    folders: list[str] = []
    tree = scan_tree(root, fewest_classes, folders)
    if sum(map(len, tree.files.values())) >= LARGE:
        with suppress(OSError):  # a cache that cannot be written costs time, nothing else
            _write(path, tree, folders)
    return tree


def _read(path: Path) -> Tree | None:
    with np.load(path) as kept:
        state = json.loads(kept["state"].tobytes())
        if any(os.stat(folder).st_mtime_ns != changed for folder, changed in state["folders"]):
            return None
        paths, labels = Paths.from_bytes(kept["paths"]), kept["labels"]
    if len(paths) != len(labels):
        return None
    return Tree.of(tuple(state["classes"]), state["splits"], paths, labels, tuple(state["notes"]))


def _write(path: Path, tree: Tree, folders: list[str]) -> None:
    times = [(folder, os.stat(folder).st_mtime_ns) for folder in folders]
    if max(changed for _, changed in times) > time.time_ns() - SETTLED:
        return
    state = {
        "folders": times,
        "splits": {name: len(files) for name, files in tree.files.items()},
        "classes": tree.classes,
        "notes": tree.notes,
    }
    with replacing(path) as file:
        np.savez(file, state=_bytes(json.dumps(state)), paths=tree.paths().to_bytes(), labels=tree.labels())


def _bytes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8)
