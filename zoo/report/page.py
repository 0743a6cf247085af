"""Write a report: read runs, predict samples, plot, and render the page."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import bokeh
import jinja2
import yaml
from bokeh.resources import Resources

from zoo.core import __version__
from zoo.core.errors import some
from zoo.core.files import write_output
from zoo.pictures.curves import run_labels
from zoo.registry.registry import Registry
from zoo.report.history import MOST_POINTS
from zoo.report.plots import INK, confusion_plot, scatter_plot
from zoo.report.samples import scene, take_samples, thumbnail
from zoo.report.subject import (
    TIME,
    Subject,
    count_findings,
    facts,
    network_and_data,
    read_subject,
    reproduce_command,
    summarize_metrics,
)
from zoo.report.views import activations, curve_plots, gradients, throughput
from zoo.tasks.samples import Samples
from zoo.training.run_folder import RunFolder

MOST_SCATTERS = 8  # numbers of a regression that are plotted
LARGEST = 5_000_000  # bytes of a page; histories are downsampled until it fits


def write_report(
    registry: Registry, folders: Sequence[RunFolder], path: Path, with_samples: bool = True, command: str = "zoo"
) -> list[Subject]:
    """Write the report of one run, or a comparison of several, as one HTML file.

    Args:
        with_samples: include predictions, which need the checkpoints and the data.
        command: beginning of suggested commands, with options for plugins.

    Raises:
        UserError: the file cannot be written; an older one is kept.
    """
    subjects = [read_subject(registry, folder, label) for folder, label in zip(folders, run_labels(folders), strict=True)]
    for subject in subjects:
        subject.command = command
        if with_samples:
            subject.samples = take_samples(registry, subject.folder)
        else:
            subject.samples = Samples(missing="Left out because of --no-samples.")
    most = MOST_POINTS
    while len(page := render(subjects, most).encode(errors="backslashreplace")) > LARGEST and most > 40:
        most //= 2
    write_output(path, page)
    return subjects


# ------------------------------------------------------------------ the page


def render(subjects: Sequence[Subject], most: int) -> str:
    """Render the page, with at most ``most`` points per line and columns per heat map; every value is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_own_file), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"thumbnail": thumbnail, "scene": scene}
    several = len(subjects) > 1
    runs = [_described(subject, most, with_curves=not several) for subject in subjects]
    names = [subject.label for subject in subjects]
    return environment.get_template("page.html").render(
        title=f"Report: {some(names, 4)}",
        subtitle=f"Comparison of {len(names)} runs" if several else runs[0]["headline"],
        contents=_contents(runs, several),
        runs=runs,
        compared=_compared(subjects, most) if several else None,
        footer=f"Written by zoo report, bestiary {__version__}; plots by Bokeh {bokeh.__version__}.",
        ink=INK,
        style=_own_file("style.css"),
        scripts=Resources(mode="inline", components=["bokeh"], log_level="error").js_raw,
    )


def _own_file(name: str) -> str:
    return files("zoo.report").joinpath(name).read_text(encoding="utf-8")


def _contents(runs: list[dict[str, Any]], several: bool) -> list[tuple[str, str]]:
    if several:
        links = [("compared", "Comparison")]
        for place, run in enumerate(runs, 1):
            links.append((f"run-{place}", run["label"]))
            links += [(f"findings-{place}", f"{run['label']}: {count_findings(run['findings'])}")] if run["findings"] else []
        return links
    run = runs[0]
    inside = [(f"{part.id}-1", part.title) for part in run["inside"]]
    curves = ("curves-1", "Learning curves")
    first = [("summary-1", "Summary"), ("findings-1", "Findings"), curves, ("samples-1", "Predictions")]
    return [*first, *inside, ("settings-1", "Configuration and environment")]


def _described(subject: Subject, most: int, with_curves: bool) -> dict[str, Any]:
    history, samples = subject.history, subject.samples
    confusion = None
    if samples.confusion is not None:
        caption = "Rows are true classes, columns predictions; colors are fractions of each row on a square-root scale."
        confusion = confusion_plot("Confusion matrix", caption, samples.confusion.numpy(), samples.classes)
    caption = "Each point is an image; on the dashed diagonal the prediction is right."
    pairs = list(samples.scatter.items())[:MOST_SCATTERS]
    scatter = [scatter_plot(name, caption, true.numpy(), predicted.numpy()) for name, (true, predicted) in pairs]
    no_findings = "No problems were detected." if history.has_monitors else "This run was not monitored, or records were lost."
    network, data = network_and_data(subject)
    return {
        "label": subject.label,
        "headline": " on ".join(filter(None, (network, data))),
        "summary": subject.summary,
        "facts": facts(subject),
        "metrics_header": ("metric", "best", "at epoch", "last", "test"),
        "metrics": [(name, *row) for name, row in summarize_metrics(subject).items()],
        "notes": subject.notes,
        "findings": history.findings,
        "no_findings": no_findings,
        "curves": curve_plots([subject], most) if with_curves else None,
        "samples": samples,
        "confusion": confusion,
        "scatter": scatter,
        "inside": [part for part in (activations(history, most), gradients(history, most), throughput(subject, most)) if part],
        "reproduce": reproduce_command(subject),
        "settings_text": yaml.safe_dump(subject.settings, sort_keys=False, allow_unicode=True) if subject.settings else "unknown",
        "environment": _flat(subject.environment),
    }


def _flat(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Flatten to dotted keys and values as text."""
    rows = []
    for key, value in tree.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", "none" if value is None else str(value)))
    return rows


# ------------------------------------------------------------------ several runs


def _compared(subjects: Sequence[Subject], most: int) -> dict[str, Any]:
    tables = [summarize_metrics(subject) for subject in subjects]
    names = dict.fromkeys(name for table in tables for name in table)
    missing = ("–",) * 4
    rows = []
    for subject, table in zip(subjects, tables, strict=True):
        cells = [table.get(name, missing) for name in names]
        values = dict(facts(subject))
        ends = [values.get(key, "–") for key in ("Parameters", "Epochs", TIME)]
        wrong = count_findings(subject.history.findings) or "none"
        rows.append((subject.label, *(text for cell in cells for text in (cell[0], cell[3])), *ends, wrong))
    of_names = (text for name in names for text in (f"best val/{name}", f"test/{name}"))
    header = ("run", *of_names, "parameters", "epochs", "time", "findings")
    tasks = dict.fromkeys(subject.task for subject in subjects if subject.task)
    data = dict.fromkeys(name for subject in subjects if (name := network_and_data(subject)[1]))
    unlike = f"tasks ({some(tasks)})" if len(tasks) > 1 else f"data ({some(data)})" if len(data) > 1 else ""
    notes = [f"These runs have different {unlike}: their metrics are not comparable."] if unlike else []
    notes += [f"{subject.label}: {subject.lacking}" for subject in subjects if subject.lacking]
    return {
        "notes": notes,
        "metrics_header": header,
        "metrics": rows,
        "settings_header": ("setting", *(subject.label for subject in subjects)),
        "settings": differing_settings([subject.settings for subject in subjects]),
        "curves": curve_plots(subjects, most),
    }


def differing_settings(settings: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Rows of settings that differ between runs: key and value per run; runs with unknown settings do not count."""
    flat = [dict(_flat(tree)) for tree in settings]
    sections = list(dict.fromkeys(section for tree in settings for section in tree))
    keys = sorted(dict.fromkeys(key for each in flat for key in each), key=lambda key: sections.index(key.partition(".")[0]))
    rows = [(key, *(each.get(key, "–") if each else "unknown" for each in flat)) for key in keys]
    return [row for row in rows if len(set(row[1:]) - {"unknown"}) > 1]
