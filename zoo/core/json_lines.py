"""Files with one JSON object a line: append to them, read them, and follow them while another process writes."""

from __future__ import annotations

import json
import math
import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zoo.core.errors import UserError

Record = dict[str, Any]
POSITION = ("step", "epoch", "time")  # of a record in the training, where it has one
LARGEST = 1e15


class JsonLinesWriter:
    """Appends objects to a file; what is not finite becomes null, and floats are rounded to ``digits`` significant digits.

    A resumed training appends at the position of its checkpoint. What stands behind it is cut off at the first append, not
    before: a resume that fails changes nothing.

    Args:
        position: in bytes; by default the end of the file.

    Raises:
        UserError: a folder is in its place.
    """

    def __init__(self, path: Path, position: int | None = None, digits: int | None = None) -> None:
        self.path, self.digits = path, digits
        self._position, self._is_cut = position, False
        if path.is_dir():
            raise UserError(f"{path}: is a folder, not a file: move it away, and records begin anew")

    @property
    def has_lost_records(self) -> bool:
        """Whether the file ends before the position."""
        return self._position is not None and self._position > (self.path.stat().st_size if self.path.is_file() else 0)

    def append(self, record: Record) -> None:
        """Append an object.

        Raises:
            UserError: the file cannot be written, as on a full disk.
        """
        line = json.dumps(_plain(record, self.digits), allow_nan=False, separators=(",", ":")) + "\n"
        with self._named_in_errors():
            self._cut()
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line)

    def position(self) -> int:
        """The size of the file in bytes, all of it on the disk: what a checkpoint stores.

        Raises:
            UserError: as ``append``.
        """
        with self._named_in_errors():
            self._cut()
            if not self.path.exists():
                return 0
            with self.path.open("ab") as file:
                os.fsync(file.fileno())
                return file.tell()

    @contextmanager
    def _named_in_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(f"{self.path} could not be written: {(error.strerror or str(error)).lower()}") from error

    def _cut(self) -> None:
        """Cut off, once, what stands behind the position, and a last line that is not whole."""
        if self._is_cut:
            return
        if self.path.exists():
            with self.path.open("rb+") as file:
                size = file.seek(0, os.SEEK_END)
                end = size if self._position is None else min(self._position, size)
                if end:
                    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                        end = content.rfind(b"\n", 0, end) + 1
                if end < size:
                    file.truncate(end)
        self._is_cut = True


def read_json_lines(path: Path, on_damage: Callable[[], None] = lambda: None) -> Iterator[Record]:
    """Yield the objects of a file one after the other, and nothing where there is no file.

    Args:
        on_damage: called for each line that cannot be read, except for a last one that was cut off.
    """
    if not path.is_file():
        return
    with path.open("rb") as file:
        for line in file:
            record = parse_line(line)
            if record is not None:
                yield record
            elif line.endswith(b"\n") and line.strip():
                on_damage()


class JsonLinesFollower:
    """Reads what another process appends to a file, and only what is new.

    A half-written last line waits for its other half. A file that has become shorter, as a resumed run truncates it, is read
    again from the start.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0

    def update(self) -> Iterator[Record]:
        """The objects since the last call; the caller forgets former ones if ``is_restarted()``, which is asked first."""
        if not self.path.is_file():
            return
        with self.path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):  # the other half is not there yet
                    return
                self._offset += len(line)
                if (record := parse_line(line)) is not None:
                    yield record

    def is_restarted(self) -> bool:
        """Whether the file has become shorter, so that the next update reads it from the start."""
        is_shorter = (self.path.stat().st_size if self.path.is_file() else 0) < self._offset
        if is_shorter:
            self._offset = 0
        return is_shorter


def parse_line(line: bytes) -> Record | None:
    """The object of a line; None for anything else, and for an object whose position in the training is no number."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and all(_is_position(record.get(key)) for key in POSITION) else None


def _is_position(value: Any) -> bool:
    return value is None or (type(value) in (int, float) and 0 <= value < LARGEST)  # nan is not


def _plain(value: Any, digits: int | None) -> Any:
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return value if digits is None else float(f"{value:.{digits}g}")
    if isinstance(value, dict):
        return {key: _plain(inner, digits) for key, inner in value.items()}
    return [_plain(inner, digits) for inner in value] if isinstance(value, list) else value
