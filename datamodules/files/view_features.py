"""Precomputed features of the 36 views from each viewpoint, as the Matterport3D Simulator's TSV files have them.

They take gigabytes of text, so they are converted once to a file of numbers that is mapped into memory.
"""

from __future__ import annotations

import binascii
import json
import sys
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from zoo.core.errors import UserError, some
from zoo.core.files import cache_folder, replace_file, replacing, require_regular

HEADINGS, ELEVATIONS = 12, 3  # views 30 degrees apart: all headings at an elevation of -30 degrees, then level, then at 30
VIEWS = HEADINGS * ELEVATIONS
WORTH_A_LINE = 1e8  # bytes; less takes no time
FIELDS = 6  # scanId, viewpointId, image_w, image_h, vfov, features; there is no line of names


@dataclass(frozen=True)
class ViewFeatures:
    """Features of views, in a file that is mapped into memory.

    Attributes:
        source: the TSV file.
        table: float16 [viewpoints, VIEWS, width].
        row_of: (scan, viewpoint) -> row of the table.
    """

    source: Path
    table: Tensor
    row_of: dict[tuple[str, str], int]

    def rows(self, scan: str, viewpoints: tuple[str, ...]) -> Tensor:
        """The rows of viewpoints, int64 [n].

        Raises:
            UserError: the file lacks one.
        """
        if missing := [viewpoint for viewpoint in viewpoints if (scan, viewpoint) not in self.row_of]:
            raise UserError(f"{self.source}: has no features of viewpoints of scan {scan}: {some(missing)}")
        return torch.tensor([self.row_of[scan, viewpoint] for viewpoint in viewpoints])


def feature_width(source: Path) -> int:
    """The number of features of a view, from the first line.

    Raises:
        UserError: it is no such file.
    """
    require_regular(source)
    with source.open("rb") as file:
        return _parse(file.readline(), source, 1)[2].shape[1]


def load_view_features(source: Path) -> ViewFeatures:
    """Map the features into memory, converted if that has not been done: one process converts, the others wait.

    Raises:
        UserError: the file is damaged, or the cache cannot be written.
    """
    require_regular(source)
    state = source.stat()
    about = f"{source.resolve()} {state.st_size} {state.st_mtime_ns}"
    path = cache_folder() / "features" / f"{source.stem}-{blake2b(about.encode(), digest_size=8).hexdigest()}.f16"
    index = path.with_suffix(".json")  # written last, so the table is whole
    if not index.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{path}.lock"):
                if not index.is_file():
                    _convert(source, path, index)
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"features cannot be cached in {path.parent}: {reason}; set ZOO_HOME to another folder") from error
    content = json.loads(index.read_bytes())
    shape = len(content["viewpoints"]), VIEWS, content["width"]
    table = np.memmap(path, np.float16, "c", shape=shape)  # a copy if written to, which torch wants to be possible
    row_of = {(scan, viewpoint): row for row, (scan, viewpoint) in enumerate(content["viewpoints"])}
    return ViewFeatures(source, torch.from_numpy(table), row_of)


def _convert(source: Path, path: Path, index: Path) -> None:
    viewpoints: list[tuple[str, str]] = []
    width = 0
    with replacing(path, exclusive=True) as out, _read_with_progress(source) as lines:
        for number, line in enumerate(lines, 1):
            scan, viewpoint, features = _parse(line, source, number)
            width = width or features.shape[1]
            if features.shape[1] != width:
                raise UserError(f"{source}: line {number} has {features.shape[1]} features, those before have {width}")
            halves = features.astype(np.float16)
            if not np.isfinite(halves).all():
                raise UserError(f"{source}: line {number} has features that are not finite or above 65,504")
            out.write(halves.tobytes())
            viewpoints.append((scan, viewpoint))
    replace_file(index, json.dumps({"width": width, "viewpoints": viewpoints}).encode())


def _parse(line: bytes, source: Path, number: int) -> tuple[str, str, np.ndarray]:
    """Scan, viewpoint and features, float32 [VIEWS, width], of a line."""
    fields = line.rstrip(b"\r\n").split(b"\t")
    try:
        if len(fields) != FIELDS:
            raise ValueError(f"{len(fields)} columns in place of {FIELDS}")
        features = np.frombuffer(b64decode(fields[5], validate=True), "<f4")
        if not features.size or features.size % VIEWS:
            raise ValueError(f"{features.size} numbers, which are not those of {VIEWS} views")
        return fields[0].decode(), fields[1].decode(), features.reshape(VIEWS, -1)
    except (ValueError, binascii.Error) as error:  # also of an encoding
        raise UserError(f"{source}: line {number} is not one of precomputed features: {error}") from None


@contextmanager
def _read_with_progress(source: Path) -> Iterator[BinaryIO]:
    """A file to read, with a progress bar and the time left on a terminal, and one line in a log."""
    what = f"converting {source.name}, once"
    if not sys.stderr.isatty():
        if (size := source.stat().st_size) >= WORTH_A_LINE:
            print(f"{what} ({size / 1e9:.1f} GB)", file=sys.stderr, flush=True)
        with source.open("rb") as file:
            yield file
        return
    from rich.console import Console
    from rich.progress import Progress

    bar = Progress(console=Console(stderr=True), transient=True, redirect_stdout=False)
    with bar as progress, progress.open(source, "rb", description=what) as file:
        yield file
