"""Records of a run, one JSON object a line: ``metrics.jsonl`` and ``monitors.jsonl``."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from zoo.core.files import replace_file


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a ``metrics.jsonl`` or ``monitors.jsonl``, without a last line that was cut off."""
    return list(stream_records(path))


def stream_records(path: Path) -> Iterator[dict[str, Any]]:
    """The same one after the other, of a file that may be large; none where there is no file."""
    if not path.exists():
        return
    with path.open(encoding="utf-8") as file:
        for line in file:
            try:
                yield json.loads(line)
            except ValueError:
                continue


def test_metrics(path: Path) -> dict[str, float]:
    """The test figures of the best checkpoint, by name as in ``test/accuracy``, from a ``metrics.jsonl``; none before the end."""
    tested = [
        {key: value for key, value in record.items() if key.startswith("test/") and value is not None}
        for record in read_metrics(path)
    ]
    return next((figures for figures in reversed(tested) if figures), {})


DIGITS = 5  # of each number that is written


class MonitorsLog:
    """Appends records; numbers are rounded to five digits, and what is not finite is null."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, record: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(_plain(record), separators=(",", ":")) + "\n")

    def rewind(self, step: int) -> None:
        """Drop what a resumed run will record again."""
        kept = [record for record in read_metrics(self.path) if record["step"] < step]
        if self.path.exists():
            replace_file(self.path, "".join(json.dumps(record, separators=(",", ":")) + "\n" for record in kept).encode())


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


class Lines:
    """The objects of a file of JSON lines that another process adds to; only what is new is read.

    A last line that is half written waits for its other half. A file that has become shorter, as a resumed run cuts off what it
    goes through again, is read from its beginning.
    """

    def __init__(self, path: Path, keep: Callable[[dict[str, Any]], bool] = lambda record: True) -> None:
        self.path, self.keep = path, keep
        self.records: list[dict[str, Any]] = []
        self._read = 0
        self._rest = b""

    def new(self) -> list[dict[str, Any]]:
        """All objects so far that are to be kept."""
        size = self.path.stat().st_size if self.path.exists() else 0
        if size < self._read:
            self.records, self._read, self._rest = [], 0, b""
        if size > self._read:
            with self.path.open("rb") as file:
                file.seek(self._read)
                content = file.read()
            self._read += len(content)
            *lines, self._rest = (self._rest + content).split(b"\n")
            for line in lines:
                try:
                    record = json.loads(line)
                except ValueError:
                    continue
                if isinstance(record, dict) and self.keep(record):
                    self.records.append(record)
        return self.records
