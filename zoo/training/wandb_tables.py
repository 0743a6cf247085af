"""Tables and charts of a finished training for W&B: what went on inside the network, and which classes are taken for which.

Charts are drawn by Vega specifications that every W&B server has, of tables that are sent with them, so nothing is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import wandb
from wandb.plot import CustomChart

from zoo.training.records import stream_records

FINDING = ("step", "severity", "name", "where", "evidence", "cause", "try")
LAYER = ("type", "mean", "std", "signal", "dead", "saturated", "rank")
PARAMETER = ("norm", "weight", "update", "cosine")
LINES = 6  # of a chart: records from the first to the last

Rows = dict[str, dict[str, Any]]  # name -> statistic -> value


def inside_tables(monitors: Path) -> dict[str, wandb.Table | CustomChart]:
    """What ``monitors.jsonl`` tells, by the key that it is logged under; what was not recorded is left out.

    ``findings`` holds each once, the worst first. ``layers`` and ``parameters`` hold the last record, a row each in the order of
    the network. ``depth/spread`` and ``depth/updates`` are charts over the places in those tables, with a line for each of some
    records.
    """
    findings: dict[tuple[str, str], list[Any]] = {}
    last: dict[str, Rows] = {}
    spread: dict[int, dict[str, float]] = {}
    updates: dict[int, dict[str, float]] = {}
    for record in stream_records(monitors):
        step, kind = record["step"], record["kind"]
        if kind == "finding":
            findings.setdefault((record["name"], record["where"]), [record.get(key) for key in FINDING])
        elif kind == "activations":
            last[kind] = record["layers"]
            spread[step] = {name: row["std"] for name, row in record["layers"].items()}
        elif kind == "gradients":
            last[kind] = record["parameters"]
            # biases start at zero, of which no share can be told
            updates[step] = {n: row["update"] for n, row in record["parameters"].items() if "bias" not in n.rpartition(".")[2]}
    tables: dict[str, wandb.Table | CustomChart] = {}
    if findings:
        worst_first = sorted(findings.values(), key=lambda row: (row[1], row[0]))  # "error" is before "warning"
        tables["findings"] = wandb.Table(columns=list(FINDING), data=worst_first)
    if layers := last.get("activations"):
        tables["layers"] = _table("layer", LAYER, layers)
        tables["depth/spread"] = _lines("log10 of the deviation of each layer's outputs", spread, layers)
    if parameters := last.get("gradients"):
        tables["parameters"] = _table("parameter", PARAMETER, parameters)
        tables["depth/updates"] = _lines("log10 of each step's share of the weights: about -3 fits", updates, parameters)
    return tables


def confusion_chart(classes: Sequence[str], counts: Sequence[Sequence[int]]) -> CustomChart:
    """How many images of each true class (row) were taken for each (column), ``counts`` [classes, classes]."""
    columns = ["Actual", "Predicted", "nPredictions"]
    rows = zip(classes, counts, strict=True)
    pairs = [[true, taken, number] for true, row in rows for taken, number in zip(classes, row, strict=True)]
    return wandb.plot_table(
        "wandb/confusion_matrix/v1",
        wandb.Table(columns=columns, data=pairs),
        fields={column: column for column in columns},
        string_fields={"title": "test images"},
    )


def _table(named: str, statistics: Sequence[str], rows: Rows) -> wandb.Table:
    data = [[place, name, *(row.get(key) for key in statistics)] for place, (name, row) in enumerate(rows.items())]
    return wandb.Table(columns=["place", named, *statistics], data=data)


def _lines(title: str, values: dict[int, dict[str, float]], rows: Rows) -> CustomChart:
    """A line for each of some steps: the place of a row of the table against the logarithm of its value."""
    steps = sorted(values)
    count = min(LINES, len(steps))
    chosen = [steps[round(number * (len(steps) - 1) / max(1, count - 1))] for number in range(count)]
    places = {name: place for place, name in enumerate(rows)}
    points = [
        [(places[name], math.log10(value)) for name, value in values[step].items() if name in places and (value or 0) > 0]
        for step in chosen
    ]
    width = len(str(steps[-1]))
    return wandb.plot.line_series(
        xs=[[x for x, _ in line] for line in points],
        ys=[[y for _, y in line] for line in points],
        keys=[f"step {step:0{width}}" for step in chosen],
        title=title,
        xname="place",
    )
