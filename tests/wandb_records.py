"""What W&B wrote of a run into its folder: records, as ``wandb sync`` sends them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def records(folder: Path) -> list[Any]:
    """What the one ``.wandb`` file of a run folder holds: protocol buffers in LevelDB's log format."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = folder.glob("wandb/*run-*/*.wandb")
    content, at, parts, found = path.read_bytes(), 7, b"", []
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        parts += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            found.append(Record.FromString(parts))
            parts = b""
    return found


def history(folder: Path) -> list[dict[str, Any]]:
    rows = [record.history.item for record in records(folder) if record.HasField("history")]
    return [{item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in row} for row in rows]


def run_record(folder: Path) -> Any:
    return next(record.run for record in records(folder) if record.HasField("run"))


def tables(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The rows of all tables, by the key that they are logged under."""
    found = {}
    for artifact in (record.artifact for record in records(folder) if record.HasField("artifact")):
        for entry in artifact.manifest.contents:
            if entry.path.endswith(".table.json"):
                content = json.loads(Path(entry.local_path).read_text())
                rows = [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]
                found[entry.path.removesuffix(".table.json")] = rows
    return found


def panels(folder: Path) -> dict[str, dict[str, Any]]:
    """How each custom chart is drawn, by its key."""
    updates = [item for record in records(folder) if record.HasField("config") for item in record.config.update]
    charts = {
        item.nested_key[2]: json.loads(item.value_json) for item in updates if item.nested_key[:2] == ["_wandb", "visualize"]
    }
    return {key: chart["panel_config"] for key, chart in charts.items()}


def summary(folder: Path) -> dict[str, Any]:
    updates = [item for record in records(folder) if record.HasField("summary") for item in record.summary.update]
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in updates}


def metric_names(folder: Path) -> set[str]:
    """All names that W&B has to keep: of the history, the summary and the definitions."""
    defined = {record.metric.name for record in records(folder) if record.HasField("metric") and record.metric.name}
    rows = [*history(folder), summary(folder)]
    tables = {
        key.removesuffix("._type") for row in rows for key in row if key.endswith("._type")
    }  # each is one, with all its fields
    return defined | {next((table for table in tables if key.startswith(f"{table}.")), key) for row in rows for key in row}
