"""Files with one JSON object a line: append to them, read them, and follow them while another process writes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from zoo.core.files import replace_file

Record = dict[str, Any]


def append_json_line(path: Path, record: Record, digits: int | None = None) -> None:
    """Append an object; what is not finite becomes null, and floats are rounded to ``digits`` significant digits."""
    with path.open("a", encoding="utf-8") as file:
        file.write(_to_line(_plain(record, digits)))


def read_json_lines(path: Path, on_damage: Callable[[], None] = lambda: None) -> Iterator[Record]:
    """Yield the objects of a file one after the other, and nothing where there is no file.

    Args:
        on_damage: called for each line that cannot be read, except for a last one that was cut off.
    """
    if not path.is_file():
        return
    with path.open("rb") as file:
        for line in file:
            record = _parse(line)
            if record is not None:
                yield record
            elif line.endswith(b"\n") and line.strip():
                on_damage()


def filter_json_lines(path: Path, keep: Callable[[Record], bool]) -> None:
    """Rewrite a file, if there is one, without the objects that ``keep`` rejects and without lines that cannot be read."""
    if path.is_file():
        replace_file(path, "".join(_to_line(record) for record in read_json_lines(path) if keep(record)).encode())


class JsonLinesFollower:
    """Reads what another process appends to a file, and only what is new.

    A half-written last line waits for its other half. A file that has become shorter, as a resumed run truncates it, is read
    again from the start.
    """

    def __init__(self, path: Path, keep: Callable[[Record], bool] = lambda record: True) -> None:
        self.path, self.keep = path, keep
        self.records: list[Record] = []
        self._offset = 0
        self._rest = b""

    def update(self) -> list[Record]:
        """All objects so far that ``keep`` accepts."""
        size = self.path.stat().st_size if self.path.exists() else 0
        if size < self._offset:
            self.records, self._offset, self._rest = [], 0, b""
        if size > self._offset:
            with self.path.open("rb") as file:
                file.seek(self._offset)
                content = file.read()
            self._offset += len(content)
            *lines, self._rest = (self._rest + content).split(b"\n")
            self.records += [record for line in lines if (record := _parse(line)) is not None and self.keep(record)]
        return self.records


def _parse(line: bytes) -> Record | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _to_line(record: Record) -> str:
    return json.dumps(record, allow_nan=False, separators=(",", ":")) + "\n"


def _plain(value: Any, digits: int | None) -> Any:
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return value if digits is None else float(f"{value:.{digits}g}")
    if isinstance(value, dict):
        return {key: _plain(inner, digits) for key, inner in value.items()}
    return [_plain(inner, digits) for inner in value] if isinstance(value, list) else value
