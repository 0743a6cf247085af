"""Sections of a report: learning curves, activations, gradients and updates, throughput."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from zoo.pictures.curves import curve
from zoo.report.histograms import HistogramPicture, histogram_pictures
from zoo.report.history import History, Table, columns
from zoo.report.plots import Line, Plot, heat_map, height_of_rows, layer_lines, line_plot
from zoo.report.subject import Subject

CELLS = 20_000  # of one heat map
MOST_ROWS = 300  # of a heat map
MOST_HISTOGRAMS = 60  # of one kind and run
PEAK = 50  # times the median, from which a scale is logarithmic
UPDATE = 1e-3  # recommended ratio of updates to weights
# the first curves, with title and caption; others have the names of their metrics
CURVES = {
    "loss": ("Loss", "Both high: underfitting. A widening gap: overfitting. Jumps: learning rate too high."),
    "accuracy": ("Accuracy", ""),
    "balanced_accuracy": ("Balanced accuracy", "Mean recall of the classes."),
    "f1_macro": ("Macro F1", "Mean F1 of the classes."),
    "lr": ("Learning rate", ""),
}
NOT_CURVES = ("samples_per_second",)


@dataclass(frozen=True)
class Part:
    """A section about the inside of the network: plots, and histograms of its layers."""

    id: str
    title: str
    about: str
    plots: list[Plot]
    histograms: list[HistogramPicture] = field(default_factory=list)
    histograms_title: str = ""
    histograms_about: str = ""


def curve_plots(subjects: Sequence[Subject], most: int) -> list[Plot]:
    """Plot each metric, with training thin and validation bold, and with a color per run if there are several."""
    lines: dict[str, list[Line]] = {}
    for place, subject in enumerate(subjects):
        metrics = subject.history.metrics
        for metric in metrics.of_stages("train", "val"):
            stage, _, quantity = metric.partition("/")
            if quantity in NOT_CURVES:
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # nearest neighbors have no steps and no epochs
                x, y = curve(metrics, metric, subject.label)
            if np.isfinite(x).all():
                only = stage if quantity != "lr" else ""
                color, name = (place, f"{subject.label} {only}".strip()) if len(subjects) > 1 else (stage == "val", stage)
                lines.setdefault(quantity, []).append(Line(x, y, name, int(color), stage == "val" or not only))
    # a single record is in the summary
    lines = {name: group for name, group in lines.items() if any(len(line.x) > 1 for line in group)}
    if not any(line.y.any() for line in lines.get("clipped", ())):
        lines.pop("clipped", None)
    order = sorted(lines, key=lambda quantity: list(CURVES).index(quantity) if quantity in CURVES else len(CURVES))
    plots = []
    for name in order:
        title, caption = CURVES.get(name, (name, ""))
        log = _has_peaks(lines[name])
        caption += " Logarithmic scale because of peaks." if log else ""
        plots.append(line_plot(title, caption, lines[name], "epochs", most=most, log=log))
    return plots


def _has_peaks(lines: Sequence[Line]) -> bool:
    """Whether positive values have outliers that would compress all others."""
    values = np.concatenate([line.y[np.isfinite(line.y)] for line in lines])
    return len(values) > 0 and bool(values.min() > 0) and bool(values.max() > PEAK * np.median(values))


# ------------------------------------------------------------------ inside the network


def _maps(table: Table, kinds: Sequence[tuple[str, str, str, str]], most: int) -> list[Plot]:
    """Heat maps of those (statistic, title, caption, scale) that were recorded."""
    plots, recorded = [], {statistic: np.flatnonzero(table.recorded(statistic)) for statistic, *_ in kinds}
    height = height_of_rows(max(map(len, recorded.values())))
    for statistic, title, caption, scale in kinds:
        rows = recorded[statistic]
        if not len(rows):
            continue
        if len(rows) > MOST_ROWS:
            caption += f" Showing {MOST_ROWS} of {len(rows):,} layers, evenly spaced."
            rows = rows[np.linspace(0, len(rows) - 1, MOST_ROWS).round().astype(int)]
        where = columns(table.steps, max(20, min(most, CELLS // len(rows))))
        names = [table.names[row] for row in rows]
        plots.append(heat_map(title, caption, names, table.steps, table.values[statistic][rows], where, scale, height))
    return plots


def _histograms(table: Table, findings: set[str], most: int) -> tuple[list[HistogramPicture], str]:
    """Histograms of the layers and a description; with many layers a selection, which includes all with findings."""
    names = list(table.histograms)
    left_out = ""
    if len(names) > MOST_HISTOGRAMS:
        kept = {names[place] for place in np.linspace(0, len(names) - 1, MOST_HISTOGRAMS).round().astype(int)}
        kept |= findings & set(names)
        left_out = f" Showing {len(kept)} of {len(names):,} layers, evenly spaced."
        names = [name for name in names if name in kept]
    where = columns(table.steps, most)
    first, last = f"{table.steps[0]:,}", f"{table.steps[-1]:,}"
    about = (
        f"Steps {first} to {last} from left to right; values from large negative ones at the bottom through zero to large "
        f"positive ones at the top, one row per power of two; opacity is density.{left_out}"
    )
    return histogram_pictures(table, where, names), about


def activations(history: History, most: int) -> Part | None:
    """Statistics of the outputs of each layer; None if they were not recorded."""
    table = history.activations
    if table is None:
        return None
    kinds = (
        ("std", "Activation standard deviation", "Should be of the same order of magnitude in all layers and over time.", "log"),
        ("signal", "Variation between samples", "Decreasing with depth: information about the input is lost.", "log"),
        ("dead", "Dead units", "Fraction of units that are zero for all recent samples.", "share"),
        (
            "saturated",
            "Saturated units",
            "Fraction of outputs near the limits of a sigmoid or tanh, where its derivative is almost zero.",
            "share",
        ),
        ("rank", "Input rank", "Effective rank of the inputs of a layer: 1 is a line.", "log"),
        ("mean", "Activation mean", "Far from zero relative to the deviation: it dominates the next layer.", "signed"),
    )
    pictures, about = _histograms(table, {finding.fields["where"] for finding in history.findings}, most)
    return Part(
        "activations",
        "Activations",
        "Outputs of each layer, the first at the top, over steps.",
        _maps(table, kinds, most),
        pictures,
        "Histograms of activations",
        about,
    )


def gradients(history: History, most: int) -> Part | None:
    """Gradients and updates of each parameter; None if they were not recorded."""
    table = history.gradients
    plots = [
        line_plot(title, caption, [Line(*history.series[name], title)], "step", log=log, most=most)
        for name, title, caption, log in (
            ("norm", "Global gradient norm", "Before clipping. Spikes: unstable steps.", True),
            ("clipped", "Clipped gradients", "Fraction of the records so far with a norm above recipe.gradient_clip_val.", False),
            ("noise_scale", "Gradient noise scale", "In samples: batch size above which larger batches gain little.", True),
        )
        if name in history.series and (name != "clipped" or history.series[name][1].any())
    ]
    if table is None:
        return Part("gradients", "Gradients and updates", "Gradients of the whole network over steps.", plots) if plots else None
    kinds = (
        ("norm", "Gradient norms", "Decreasing towards the first layers: vanishing; increasing: exploding.", "log"),
        ("cosine", "Gradient cosine similarity", "With the previous record: near 0 is noise, below 0 oscillation.", "signed"),
    )
    plots += _maps(table, kinds, most)
    recorded = np.flatnonzero(table.recorded("update_ratio"))
    if len(recorded) and len(table.steps) > 1:
        caption = (
            "Norm of the update relative to that of the weights, from blue for the first parameters to orange for the last. "
            "Around 1e-3 (dashed) the learning rate is right; far above it is too high, far below too low."
        )
        names = [table.names[row] for row in recorded]
        values = table.values["update_ratio"][recorded]
        plots.append(layer_lines("Update-to-weight ratios", caption, table.steps, names, values, UPDATE, most))
    pictures, about = _histograms(table, {finding.fields["where"] for finding in history.findings}, most)
    about_all = "Gradients of each parameter, the first at the top, over steps."
    return Part("gradients", "Gradients and updates", about_all, plots, pictures, "Histograms of gradients", about)


def throughput(subject: Subject, most: int) -> Part | None:
    """Throughput and memory; None if they were not recorded."""
    history, plots = subject.history, []
    kinds = (
        ("steps_per_second", "Steps per second", "Training only, without validation.", 1.0, ""),
        ("data_loading", "Data loading time", "Fraction of the time; near 0, data is no bottleneck.", 1.0, ""),
        ("memory", "Memory", "Peak: allocated on a GPU, resident in the process on a CPU.", 1e-6, "MB"),
    )
    for name, title, caption, factor, unit in kinds:
        if name in history.series:
            steps, values = history.series[name]
            plots.append(line_plot(title, caption, [Line(steps, values * factor, title)], "step", unit=unit, most=most))
    if "train/samples_per_second" in history.metrics.names:
        steps, _, values = history.metrics.table("train/samples_per_second")
        plots.append(line_plot("Samples per second", "Training only.", [Line(steps, values, "samples")], "step", most=most))
    return (
        Part("throughput", "Throughput and memory", "Steps per second, data loading time and memory.", plots) if plots else None
    )
