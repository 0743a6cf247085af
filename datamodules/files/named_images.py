"""Image files found by the names that annotations give them, with or without folders."""

from __future__ import annotations

import filecmp
from collections import Counter, defaultdict
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from zoo.core.files import files_below
from zoo.datamodules.files.images import is_image


class NamedImages(NamedTuple):
    """Files by name, the names of several files with different content, and the files that nothing names."""

    paths: dict[str, str]
    ambiguous: list[str]
    unnamed: list[str]


def find_images(folder: Path, names: Collection[str]) -> NamedImages:
    """Find the image files below a folder that have these names.

    A name with folders is that of a file whose path ends so or, if there is none, of the only file with its last part. Of equal
    files with one name the first in the order of their paths is taken.

    Raises:
        OSError: a folder cannot be read.
    """
    files: dict[str, list[str]] = defaultdict(list)
    for path in sorted(filter(is_image, files_below(folder))):
        files[Path(path).name].append(path)
    parts = {name: PurePosixPath(name.replace("\\", "/").removeprefix("./")).parts for name in names}
    sharing = Counter(each[-1] for each in parts.values() if each)
    paths, ambiguous, named = {}, [], set()
    for name, own in parts.items():
        alike = files.get(own[-1], []) if own else []
        found = [path for path in alike if Path(path).parts[-len(own) :] == own]
        if not found and len(alike) == 1 and sharing[own[-1]] == 1:
            found = alike
        named.update(found)
        if found and all(filecmp.cmp(found[0], other, shallow=False) for other in found[1:]):
            paths[name] = found[0]
        elif found:
            ambiguous.append(name)
    return NamedImages(paths, ambiguous, [path for alike in files.values() for path in alike if path not in named])
