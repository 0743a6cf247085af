"""Results of a search: a table, a picture, and the best Run as a file."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from optuna.trial import FrozenTrial, TrialState

from zoo.core.errors import one_line
from zoo.core.files import replace_file
from zoo.pictures.figure import style, write_png
from zoo.registry.registry import Registry
from zoo.studies.plan import Search
from zoo.studies.points import planned_trials
from zoo.studies.progress import format_value
from zoo.studies.space import Dimension
from zoo.studies.study import DUPLICATE, REASON, StudyLocation, best_trial, is_finished
from zoo.studies.trial import FOLDS, SECONDS

ORDER = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING, TrialState.WAITING)
COLUMNS = 3  # panels per row of the picture
ERROR_WIDTH = 50  # characters of a reason in the table
IN_TIME = LinearSegmentedColormap.from_list("in time", colormaps["viridis_r"](np.linspace(0.15, 1, 256)))  # yellow is too pale
BEST = "crimson"


def records(study: optuna.Study, search: Search) -> list[dict[str, Any]]:
    """All trials as plain data, best first: number, state, value, parameters, seconds, epochs or the value of each fold, and the
    reason of a failure."""
    sign = -1 if search.direction == "max" else 1
    trials = [trial for trial in planned_trials(study) if DUPLICATE not in trial.user_attrs]
    trials.sort(key=lambda t: (ORDER.index(t.state), sign * t.value if t.value is not None else 0, t.number))
    return [_record(trial, search) for trial in trials]


def _record(trial: FrozenTrial, search: Search) -> dict[str, Any]:
    states = {TrialState.PRUNED: "stopped early", TrialState.FAIL: "failed" if is_finished(trial) else "lost; retried"}
    record: dict[str, Any] = {
        "trial": trial.number,
        "state": states.get(trial.state, trial.state.name.lower()),
        search.metric: trial.value,
        "parameters": search.values(trial.params),
        "seconds": trial.user_attrs.get(SECONDS),
    }
    if search.folds > 1:
        record["folds"] = trial.user_attrs.get(FOLDS, [])
    else:
        record["epochs"] = max(trial.intermediate_values, default=0)
    if REASON in trial.user_attrs:
        record["reason"] = trial.user_attrs[REASON]
    return record


def table(study: optuna.Study, search: Search) -> tuple[list[tuple[str, ...]], tuple[str, ...]]:
    """Rows and header of a table of all trials."""
    folds = search.folds > 1
    steps = ("spread", "folds") if folds else ("epochs",)
    header = ("trial", search.metric, *(dimension.key for dimension in search.space), *steps, "seconds", "state")
    rows = []
    for record in records(study, search):
        value = record[search.metric]
        parameters = [_cell(record["parameters"].get(dimension.key)) for dimension in search.space]
        steps = (_spread(record["folds"]), str(len(record["folds"]))) if folds else (str(record["epochs"]),)
        state = ": ".join(filter(None, (record["state"], one_line(record.get("reason", ""), ERROR_WIDTH))))
        number, value = str(record["trial"]), "" if value is None else f"{value:.4f}"
        rows.append((number, value, *parameters, *steps, _cell(record["seconds"]), state))
    return rows, header


def _cell(value: Any) -> str:
    return "" if value is None else format_value(value)


def _spread(values: list[float]) -> str:
    """Standard deviation over the folds."""
    return f"{statistics.stdev(values):.4f}" if len(values) > 1 else ""


def write_best(study: optuna.Study, location: StudyLocation, search: Search, registry: Registry) -> Path | None:
    """Write the Run of the best trial as YAML for ``zoo train --config``; None while no trial is complete."""
    best = best_trial(study)
    if best is None:
        return None
    path = location.folder / "best.yaml"
    replace_file(path, search.run(registry, search.values(best.params)).to_yaml().encode())
    return path


# ---------------------------------------------------------------------------------------------- the picture


def write_picture(study: optuna.Study, location: StudyLocation, search: Search) -> Path | None:
    """Plot the metric over each hyperparameter, and the best value over the trials; None while no trial is complete.

    Color is the order of the trials; trials that were stopped early are crosses at their last value, and the best is a star.
    """
    if best_trial(study) is None:
        return None
    path = location.folder / "search.png"
    with style():
        write_png(_draw(study, location, search), path)
    return path


def _draw(study: optuna.Study, location: StudyLocation, search: Search) -> Figure:
    trials = [trial for trial in planned_trials(study) if trial.value is not None]
    panels = len(search.space) + 1
    rows = -(-panels // COLUMNS)
    columns = -(-panels // rows)
    figure = Figure(figsize=(4.2 * columns + 0.8, 3.4 * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True).flatten()
    for axis, dimension in zip(axes, search.space, strict=False):
        points = _draw_key(axis, dimension, trials, study, search)
    _draw_history(axes[panels - 1], trials, search)
    values = [trial.value for trial in trials]
    if 0 < 100 * min(values) < max(values):
        axes[0].set_yscale("log")  # in all panels: a few very bad losses would hide the differences of the others
    for axis in axes[panels:]:
        axis.set_visible(False)
    for axis in axes[:panels:columns]:
        axis.set_ylabel(f"validation {search.metric}" + (f", mean of {search.folds} folds" if search.folds > 1 else ""))
    bar = figure.colorbar(points, ax=list(axes), label="trial")
    bar.ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    marks = {"complete": ("o", "dimgray"), "stopped early": ("x", "dimgray"), "best": ("*", BEST)}
    handles = [Line2D([], [], linestyle="", marker=marker, color=color, label=name) for name, (marker, color) in marks.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    figure.suptitle(f"{location.name}: {search.base['model']['name']} on {search.base['data']['name']}")
    return figure


def _draw_key(axis: Axes, dimension: Dimension, trials: list[FrozenTrial], study: optuna.Study, search: Search) -> Any:
    """Draw one panel; returns the artist for the color bar."""
    newest = max(trial.number for trial in trials)
    points = None
    for state, marker, size in ((TrialState.PRUNED, "x", 26), (TrialState.COMPLETE, "o", 34)):
        chosen = [trial for trial in trials if trial.state is state]
        drawn = axis.scatter(
            [_place(dimension, trial) for trial in chosen], [trial.value for trial in chosen],
            c=[trial.number for trial in chosen], vmin=0, vmax=max(1, newest), cmap=IN_TIME, marker=marker, s=size,
            linewidths=1.4 if marker == "x" else 0.5, **({} if marker == "x" else {"edgecolors": "white"}),
        )  # fmt: skip
        points = drawn if chosen else points
    best = study.best_trial
    axis.plot(_place(dimension, best), best.value, "*", color=BEST, markersize=11, zorder=3)
    if search.folds > 1:
        for trial in trials:
            spread = statistics.stdev(values) if len(values := trial.user_attrs.get(FOLDS, [])) > 1 else 0
            axis.errorbar(_place(dimension, trial), trial.value, spread, color="gray", linewidth=0.8, zorder=0)
    axis.set_xlabel(dimension.key)
    if dimension.kind == "choice":
        axis.set_xticks(range(len(dimension.choices)), dimension.choices, rotation=30 if len(dimension.choices) > 4 else 0)
        axis.set_xlim(-0.5, len(dimension.choices) - 0.5)
    elif dimension.kind == "log":
        axis.set_xscale("log")
    elif dimension.is_integer:
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(alpha=0.25)
    return points


def _place(dimension: Dimension, trial: FrozenTrial) -> float:
    """Position of a trial on the axis of a key; equal choices are jittered by their number."""
    value = trial.params[dimension.key]
    if dimension.kind != "choice":
        return value
    return dimension.choices.index(value) + 0.3 * math.modf(trial.number * 0.618)[0] - 0.15


def _draw_history(axis: Axes, trials: list[FrozenTrial], search: Search) -> None:
    better = max if search.direction == "max" else min
    best: list[float] = []
    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    for trial in complete:
        best.append(better([*best[-1:], trial.value]))
    for trial in trials:
        axis.plot(trial.number, trial.value, "o" if trial in complete else "x", color="darkgray", markersize=5)
    axis.step([*(trial.number for trial in complete), trials[-1].number], [*best, best[-1]], where="post", color=BEST)
    axis.set_xlabel("trial (line: best so far)")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(alpha=0.25)
