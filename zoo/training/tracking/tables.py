"""Tables of a finished training for any tracker: findings, layers and parameters, statistics over depth, the confusion matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.core.json_lines import read_json_lines
from zoo.training.records import StandingFindings

FINDING = ("step", "severity", "name", "where", "evidence", "cause", "try")
LAYER = ("type", "mean", "std", "signal", "dead", "saturated", "rank")
PARAMETER = ("norm", "weight_norm", "update_ratio", "cosine")
LINES = 6  # of a chart: records from the first to the last

Statistics = dict[str, dict[str, Any]]  # name -> statistic -> value


@dataclass(frozen=True)
class Table:
    """Rows of values under named columns."""

    columns: Sequence[str]
    rows: list[list[Any]]


@dataclass(frozen=True)
class DepthChart:
    """A statistic over depth: label -> (place in a table, value), a line for each recorded step."""

    title: str
    lines: dict[str, list[tuple[int, float]]]


def monitor_tables(monitors: Path) -> dict[str, Table | DepthChart]:
    """Tables and charts of ``monitors.jsonl`` by the key to log them under, as far as they were recorded.

    ``findings`` has each finding once, the most severe first. ``layers`` and ``parameters`` have the last record, in the order of
    the network. ``depth/spread`` and ``depth/updates`` are charts over the rows of those tables, with a line for each of up to
    six records.
    """
    findings = StandingFindings()
    last: dict[str, Statistics] = {}
    spread: dict[int, dict[str, Any]] = {}
    updates: dict[int, dict[str, Any]] = {}
    for record in read_json_lines(monitors):
        step, kind = record.get("step"), record.get("kind")
        rows = record.get("layers" if kind == "activations" else "parameters")
        findings.add(record)
        if step is None or not isinstance(rows, dict) or not all(isinstance(row, dict) for row in rows.values()):
            continue
        if kind == "activations":
            last[kind] = rows
            spread[step] = {name: row.get("std") for name, row in rows.items()}
        elif kind == "gradients":
            last[kind] = rows
            # biases start at zero, so they have no ratio
            updates[step] = {n: row.get("update_ratio") for n, row in rows.items() if "bias" not in n.rpartition(".")[2]}
    tables: dict[str, Table | DepthChart] = {}
    if found := [[each.first.get(key) for key in FINDING] for each in findings]:
        worst_first = sorted(found, key=lambda row: (row[1], row[0]))  # "error" is before "warning"
        tables["findings"] = Table(FINDING, worst_first)
    if layers := last.get("activations"):
        tables["layers"] = _statistics("layer", LAYER, layers)
        tables["depth/spread"] = _over_depth("log10 of the standard deviation of each layer's outputs", spread, layers)
    if parameters := last.get("gradients"):
        tables["parameters"] = _statistics("parameter", PARAMETER, parameters)
        tables["depth/updates"] = _over_depth("log10 of the update-to-weight ratio: about -3 fits", updates, parameters)
    return tables


def confusion_table(classes: Sequence[str], counts: Sequence[Sequence[int]]) -> Table:
    """``counts`` of test images, [classes, classes], by true class (row) and predicted class (column)."""
    rows = zip(classes, counts, strict=True)
    pairs = [[true, predicted, number] for true, row in rows for predicted, number in zip(classes, row, strict=True)]
    return Table(("Actual", "Predicted", "nPredictions"), pairs)


def _statistics(named: str, statistics: Sequence[str], rows: Statistics) -> Table:
    data = [[place, name, *(row.get(key) for key in statistics)] for place, (name, row) in enumerate(rows.items())]
    return Table(("place", named, *statistics), data)


def _over_depth(title: str, values: dict[int, dict[str, float]], rows: Statistics) -> DepthChart:
    """A line for each of up to six steps: log10 of the value of each row of a table."""
    steps = sorted(values)
    count = min(LINES, len(steps))
    chosen = [steps[round(number * (len(steps) - 1) / max(1, count - 1))] for number in range(count)]
    places = {name: place for place, name in enumerate(rows)}
    width = len(str(steps[-1]))
    lines = {
        f"step {step:0{width}}": [
            (places[name], math.log10(value)) for name, value in values[step].items() if name in places and (value or 0) > 0
        ]
        for step in chosen
    }
    return DepthChart(title, lines)
