"""Image files found by the names that annotations give them, with or without folders."""

from __future__ import annotations

import filecmp
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Collection
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from zoo.core.files import files_below
from zoo.core.printing import composed
from zoo.datamodules.files.formats import is_image


class NamedImages(NamedTuple):
    """Files by name, the names of several files with different content, and the files that nothing names."""

    paths: dict[str, str]
    ambiguous: list[str]
    unnamed: list[str]


def find_images(folder: Path, names: Collection[str]) -> NamedImages:
    """Find the image files below a folder that have these names.

    A name with folders is that of a file whose path ends so or, if there is none, of the only file with its last part. A name in
    composed Unicode is that in decomposed Unicode, too, if no file has exactly this one. Of equal files with one name the first
    in the order of their paths is taken. Whatever its ending, a file is an image if it is named; one that is not counts as
    unnamed if it is an image by ``is_image``.

    Raises:
        OSError: a folder cannot be read.
    """
    files: dict[str, list[str]] = defaultdict(list)
    for path in sorted(files_below(folder)):
        files[composed(os.path.basename(path))].append(path)
    parts = {name: PurePosixPath(name.replace("\\", "/").removeprefix("./")).parts for name in names}
    sharing = Counter(composed(each[-1]) for each in parts.values() if each)
    paths, ambiguous, named = {}, [], set()
    for name, own in parts.items():
        alike = files.get(composed(own[-1]), []) if own else []
        found = _ending_in(alike, own, str) or _ending_in(alike, own, composed)
        if not found and len(alike) == 1 and sharing[composed(own[-1])] == 1:
            found = alike
        named.update(found)
        if found and all(filecmp.cmp(found[0], other, shallow=False) for other in found[1:]):
            paths[name] = found[0]
        elif found:
            ambiguous.append(name)
    unnamed = (path for alike in files.values() for path in alike if path not in named)
    return NamedImages(paths, ambiguous, list(filter(is_image, unnamed)))


def _ending_in(paths: list[str], parts: tuple[str, ...], form: Callable[[str], str]) -> list[str]:
    """Those of the paths whose last parts are these, in a form of Unicode."""
    wanted = tuple(map(form, parts))
    return [path for path in paths if tuple(map(form, Path(path).parts[-len(parts) :])) == wanted]
