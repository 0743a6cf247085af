"""Tables and charts of a finished training for W&B: records of the monitors, samples, and the confusion matrix.

Charts use Vega specifications that every W&B server has, and tables that are logged with them, so nothing is downloaded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import wandb
from wandb.plot import CustomChart

from zoo.core.json_lines import read_json_lines
from zoo.tasks.samples import Samples
from zoo.training.records import StandingFindings
from zoo.training.tracking.media import picture

FINDING = ("step", "severity", "name", "where", "evidence", "cause", "try")
LAYER = ("type", "mean", "std", "signal", "dead", "saturated", "rank")
PARAMETER = ("norm", "weight_norm", "update_ratio", "cosine")
LINES = 6  # of a chart: records from the first to the last

Rows = dict[str, dict[str, Any]]  # name -> statistic -> value


def monitor_tables(monitors: Path) -> dict[str, wandb.Table | CustomChart]:
    """Tables and charts of ``monitors.jsonl`` by the key to log them under, as far as they were recorded.

    ``findings`` has each finding once, the most severe first. ``layers`` and ``parameters`` have the last record, in the order of
    the network. ``depth/spread`` and ``depth/updates`` are charts over the rows of those tables, with a line for each of up to
    six records.
    """
    findings = StandingFindings()
    last: dict[str, Rows] = {}
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
    tables: dict[str, wandb.Table | CustomChart] = {}
    if found := [[each.first.get(key) for key in FINDING] for each in findings]:
        worst_first = sorted(found, key=lambda row: (row[1], row[0]))  # "error" is before "warning"
        tables["findings"] = wandb.Table(columns=list(FINDING), data=worst_first)
    if layers := last.get("activations"):
        tables["layers"] = _table("layer", LAYER, layers)
        tables["depth/spread"] = _lines("log10 of the standard deviation of each layer's outputs", spread, layers)
    if parameters := last.get("gradients"):
        tables["parameters"] = _table("parameter", PARAMETER, parameters)
        tables["depth/updates"] = _lines("log10 of the update-to-weight ratio: about -3 fits", updates, parameters)
    return tables


def sample_table(samples: Samples) -> wandb.Table | None:
    """Samples as a table, None without any: a row for each classified image, each question about an image, or each text."""
    if samples.images:
        table = wandb.Table(columns=["image", "label", "prediction", "probability"])
        for each in samples.images:
            table.add_data(wandb.Image(picture(each.image)), each.label, each.predicted, each.probability)
    elif samples.scenes:
        table = wandb.Table(columns=["image", "title", "question", "prediction", "expected", "correct", "probability"])
        for scene in samples.scenes:
            image = wandb.Image(picture(scene.image))
            for turn in scene.turns:
                answer = (turn.question, turn.answer, turn.expected, turn.is_correct, turn.probability)
                table.add_data(image, scene.title, *answer)
    elif samples.texts:
        table = wandb.Table(columns=["title", "text"], data=[[text.title, text.text] for text in samples.texts])
    else:
        return None
    return table


def confusion_chart(classes: Sequence[str], counts: Sequence[Sequence[int]]) -> CustomChart:
    """Confusion matrix of test images: ``counts`` [classes, classes] by true class (row) and predicted class (column)."""
    columns = ["Actual", "Predicted", "nPredictions"]
    rows = zip(classes, counts, strict=True)
    pairs = [[true, predicted, number] for true, row in rows for predicted, number in zip(classes, row, strict=True)]
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
    """A line for each of up to six steps: log10 of the value of each row of a table."""
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
