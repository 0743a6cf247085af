"""The scan of a large folder of classes, kept in the cache: a million files take a while to list, their folders none to check."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

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
        tree, times = read_tree(path)
        is_unchanged = all(os.stat(folder).st_mtime_ns == changed for folder, changed in times)
        if is_unchanged and len(tree.classes) >= fewest_classes:
            return tree
    folders: list[str] = []
    tree = scan_tree(root, fewest_classes, folders)
    if sum(map(len, tree.files.values())) >= LARGE:
        with suppress(OSError):  # a cache that cannot be written costs time, nothing else
            _write(path, tree, folders)
    return tree


def _write(path: Path, tree: Tree, folders: list[str]) -> None:
    times = [(folder, os.stat(folder).st_mtime_ns) for folder in folders]
    if max(changed for _, changed in times) <= time.time_ns() - SETTLED:
        write_tree(path, tree, times)


def write_tree(path: Path, tree: Tree, state: Any) -> None:
    """Write a tree to a file, with plain data on which it depends."""
    about = {
        "state": state,
        "splits": {name: len(files) for name, files in tree.files.items()},
        "classes": tree.classes,
        "notes": tree.notes,
    }
    text = np.frombuffer(json.dumps(about).encode(), np.uint8)
    with replacing(path) as file:
        np.savez(file, about=text, paths=tree.paths().to_bytes(), labels=tree.labels())


def read_tree(path: Path) -> tuple[Tree, Any]:
    """The tree of a file, and what it depends on.

    Raises:
        Exception: it is missing or damaged, in whatever way.
    """
    with np.load(path) as kept:
        about = json.loads(kept["about"].tobytes())
        paths, labels = Paths.from_bytes(kept["paths"]), kept["labels"]
    if len(paths) != len(labels):
        raise ValueError("damaged")
    return Tree.of(tuple(about["classes"]), about["splits"], paths, labels, tuple(about["notes"])), about["state"]
