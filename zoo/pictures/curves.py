"""Learning curves of runs."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from zoo.core.errors import UserError, some, unknown
from zoo.core.json_lines import read_json_lines
from zoo.pictures.figure import COLORS, Picture, longest_line
from zoo.registry.registry import Registry
from zoo.training.records import Metrics
from zoo.training.run_folder import RunFolder

LINE_STYLES = ("-", "--", ":", "-.")  # for more runs than there are colors
STAGES = {"train": "training", "val": "validation"}
RECIPE = ("optimizer", "lr", "weight_decay", "schedule", "epochs", "batch_size")  # what is stated of it
NOT_COMPARED = ("seed", "checkpoint_minutes")
FEW = 12  # points, each drawn with a marker


def curves(registry: Registry, runs: list[RunFolder], metric: str = "") -> Picture:
    """Draw training and validation metrics over epochs, a panel per metric and a color per run, with the recipe of several."""
    recorded = [read_metrics(folder) for folder in runs]
    metrics = [name.strip() for name in metric.split(",") if name.strip()] or _default_metrics(recorded)
    lines = [{name: curve(of_run, name, folder.name) for name in metrics} for of_run, folder in zip(recorded, runs, strict=True)]
    names = " ".join(folder.name for folder in runs)
    errors = ["train/error", "val/error"]
    has_errors = metrics != errors and all(set(errors) <= set(metrics_of(of_run)) for of_run in recorded)
    return Picture(
        draw_curves(lines, run_labels(runs), compare_recipes(runs)),
        "thin lines are training, bold ones validation: a high loss in both means underfitting, a widening gap overfitting, and "
        "a loss that jumps too high a learning rate",
        f"zoo picture curves {names} --metric {','.join(errors)}" if has_errors else f"zoo report {names}",
    )


def compare_recipes(runs: Sequence[RunFolder]) -> str:
    """The recipe of several runs in a line, or in what theirs differ; empty for a single run."""
    if len(runs) < 2:
        return ""
    values = [folder.read_run().recipe.model_dump(mode="json", exclude=set(NOT_COMPARED)) for folder in runs]
    different = {key: list(dict.fromkeys(str(each[key]) for each in values)) for key in values[0]}
    different = {key: found for key, found in different.items() if len(found) > 1}
    if "optimizer" in different:
        different.pop("optimizer_args", None)
    if different:
        values_of = {key: " or ".join(found) if len(found) < 4 else f"{len(found)} values" for key, found in different.items()}
        return "recipes differ: " + some([f"{key} {found}" for key, found in values_of.items()], 4)
    return "one recipe: " + ", ".join(f"{key} {values[0][key]}" for key in RECIPE)


def read_metrics(folder: RunFolder) -> Metrics:
    """Read the metrics of a run.

    Raises:
        UserError: there are none yet, or they were lost.
    """
    metrics = Metrics(read_json_lines(folder.metrics_file))
    if not metrics and folder.has_ended_an_epoch():
        raise UserError(
            f"{folder.metrics_file} is missing or damaged; to record it again: "
            f"zoo train --config {shlex.quote(str(folder.run_file))} --name NEW"
        )
    if not metrics:
        raise UserError(f"run {folder.name} has recorded no metrics yet: zoo train --resume {folder.name}")
    return metrics


def metrics_of(metrics: Metrics) -> list[str]:
    """Names of the recorded metrics, in order, and of the errors derived from accuracies."""
    errors = [name.replace("/accuracy", "/error") for name in metrics.names if name.endswith("/accuracy")]
    return [*metrics.names, *errors]


def curve(metrics: Metrics, metric: str, run_name: str) -> tuple[np.ndarray, np.ndarray]:
    """Values of a metric over epochs: epochs and values, both [n].

    Training metrics are means since the previous record. The last record of an epoch may cover a single step and look like
    a spike: a record that covers less than half as many steps as the one before is merged with it.

    Raises:
        UserError: the run has not recorded the metric.
    """
    known = metrics_of(metrics)
    if metric not in known:
        raise unknown(f"metric of {run_name}", metric, known)
    is_derived = metric not in metrics.names
    table = metrics.table(metric.replace("/error", "/accuracy") if is_derived else metric)
    steps, values = _merge_remainders(table) if metric.startswith("train/") else table[[0, 2]]
    return steps / _steps_per_epoch(metrics), 1 - values if is_derived else values


def _merge_remainders(table: np.ndarray) -> np.ndarray:
    """Steps and values, [2, n], of steps, epochs and means since the previous step, [3, n], with remainders of epochs merged."""
    merged: list[tuple[float, float, float, float]] = []  # with the number of steps that each covers
    for step, epoch, value in table.T.tolist():
        covered = step - (merged[-1][0] if merged else 0)
        if merged and merged[-1][1] == epoch and covered < merged[-1][2] / 2:
            _, _, before, mean = merged.pop()
            value, covered = (before * mean + covered * value) / (before + covered), before + covered
        merged.append((step, epoch, covered, value))
    return np.array([(step, value) for step, _, _, value in merged], dtype=float).T


def _steps_per_epoch(metrics: Metrics) -> float:
    """Steps per epoch, from the records of validation; without any, the first epoch counts as complete."""
    if validated := metrics.of_stages("val"):
        step, epoch = metrics.last(*validated)
    else:
        tables = [metrics.table(name) for name in metrics.names]
        epoch = min(table[1, 0] for table in tables)
        step = max(table[0, table[1] == epoch].max(initial=0.0) for table in tables)
    return step / (epoch + 1)


def _default_metrics(runs: list[Metrics]) -> list[str]:
    """Metrics that every run has recorded in both training and validation."""
    recorded = [set(metrics_of(of_run)) for of_run in runs]
    first = [name for name in metrics_of(runs[0]) if name.startswith("train/") and not name.endswith("/error")]
    names = [name.partition("/")[2] for name in first]
    pairs = [(f"train/{name}", f"val/{name}") for name in names]
    found = [metric for pair in pairs if all(set(pair) <= by_run for by_run in recorded) for metric in pair]
    if not found:
        known = some(sorted(set.intersection(*recorded)), 8)
        raise UserError(f"no metric was recorded in both training and validation: --metric takes {known or 'nothing yet'}")
    return found


def run_labels(runs: Sequence[RunFolder]) -> list[str]:
    """Names of the runs, or their paths where names coincide."""
    names = [folder.path.resolve().name for folder in runs]
    return [name if names.count(name) == 1 else str(folder.path) for name, folder in zip(names, runs, strict=True)]


def draw_curves(lines: Sequence[dict[str, tuple[np.ndarray, np.ndarray]]], labels: Sequence[str], heading: str = "") -> Figure:
    """Draw a panel per metric name; ``lines`` holds per run metric -> (epochs, values)."""
    quantities = list(dict.fromkeys(metric.rpartition("/")[2] for metric in lines[0]))
    figure = Figure((0.8 + 4.6 * len(quantities), 4.2), layout="constrained")
    panels = figure.subplots(1, len(quantities), squeeze=False)[0]
    for axes, quantity in zip(panels, quantities, strict=True):
        for number, metrics in enumerate(lines):
            for metric, (epochs, values) in metrics.items():
                if metric.rpartition("/")[2] == quantity:
                    draw_line(axes, epochs, values, metric, run_style(number))
        axes.set(xlabel="epochs", ylabel=quantity.replace("_", " "))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.ticklabel_format(axis="y", useOffset=False, scilimits=(-6, 6))  # 0.0001, not 1e-4
        axes.grid(alpha=0.25)
    stages = dict.fromkeys(metric.partition("/")[0] for metrics in lines for metric in metrics)
    handles = [Line2D([], [], **run_style(number), label=name) for number, name in enumerate(labels)]
    if len(stages) > 1:
        handles += [Line2D([], [], color="gray", **stage_style(f"{stage}/"), label=STAGES.get(stage, stage)) for stage in stages]
    columns = max(1, int(figure.get_figwidth() / (0.7 + longest_line((str(each.get_label()) for each in handles), 9))))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(columns, len(handles)))
    if heading:
        figure.suptitle(textwrap.fill(heading, 64 * len(quantities)), fontsize=9)
    return figure


def run_style(number: int) -> dict[str, Any]:
    """Color and line style of the n-th run."""
    return {"color": COLORS[number % len(COLORS)], "linestyle": LINE_STYLES[number // len(COLORS) % len(LINE_STYLES)]}


def stage_style(metric: str) -> dict[str, Any]:
    """Line width of a metric: training thin, everything else bold."""
    return {"linewidth": 0.9, "alpha": 0.75} if metric.startswith("train/") else {"linewidth": 2.2}


def draw_line(axes: Axes, epochs: np.ndarray, values: Sequence[float], metric: str, style: dict[str, Any]) -> None:
    """Draw one metric of one run, with markers where there are few points."""
    marked = {"marker": "." if metric.startswith("train/") else "s", "markersize": 4} if len(epochs) <= FEW else {}
    axes.plot(epochs, values, **style, **stage_style(metric), **marked)
