"""The contents of a run's folder for a report, with notes about anything that is missing."""

from __future__ import annotations

import json
import math
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from zoo.config.run import Run, data_title
from zoo.config.settings import read_config
from zoo.core.clock import format_duration
from zoo.core.counts import how_many_trained
from zoo.core.errors import UserError, one_line, some
from zoo.registry.registry import Registry
from zoo.report.history import Finding, History, read_history
from zoo.report.plots import number
from zoo.tasks.samples import Samples
from zoo.training.run_folder import RunFolder

TIME = "Duration (until the last record)"
UNKNOWN = "unknown"


@dataclass
class Subject:
    """A run, as far as it can be read.

    Attributes:
        run: None if ``run.yaml`` was written by another version.
        settings: section -> key -> value, as in ``run.yaml``.
        directions: metric -> "max" or "min", of the model's task; if the model is unknown, only of what the run has recorded.
        lacking: which plugin or model is not available, as a sentence; empty if all are.
        notes: sentences about missing parts.
        command: beginning of the suggested commands.
    """

    folder: RunFolder
    label: str
    history: History
    settings: dict[str, dict[str, Any]]
    environment: dict[str, Any]
    run: Run | None = None
    directions: dict[str, str] = field(default_factory=dict)
    summary: str = ""
    task: str = ""
    lacking: str = ""
    samples: Samples = field(default_factory=Samples)
    notes: list[str] = field(default_factory=list)
    command: str = "zoo"


def read_subject(registry: Registry, folder: RunFolder, label: str) -> Subject:
    """Read a run's folder; anything missing becomes a note."""
    subject = Subject(folder, label, read_history(folder.path), {}, {})
    notes = subject.notes
    if folder.run_file.exists():
        _read_settings(subject)
    else:
        notes.append("run.yaml is missing: the model, the data and the settings are unknown.")
    name = str(subject.settings.get("model", {}).get("name", ""))
    try:
        registry.add_plugins_of(f"run {folder.name}", subject.run.plugins if subject.run else ())
    except UserError as error:
        subject.lacking = f"Not all can be shown: {error}."
    if name in registry.models:
        entry = registry.model(name)
        subject.summary, subject.task = entry.summary, registry.task_of(name, str(subject.settings.get("data", {}).get("name")))
        try:
            subject.directions = dict(entry.load().with_loop(subject.task).directions)
        except Exception as error:  # a plugin's own fault
            subject.lacking = f"{name} cannot be imported ({one_line(error, 150)})."
    elif name and not subject.lacking:
        subject.lacking = f"The model {name!r} is not registered, perhaps because a plugin is missing."
    notes += filter(None, [subject.lacking])
    try:
        subject.environment = dict(json.loads((folder.path / "environment.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):
        notes.append("environment.json is missing or damaged: versions and machine are unknown.")
    subject.directions = subject.directions or _recorded_directions(subject.environment)
    _note_what_is_missing(subject)
    return subject


def _recorded_directions(environment: dict[str, Any]) -> dict[str, str]:
    """Directions that are known without the model: of the loss, and of the metric that chose the best checkpoint."""
    monitor, goal = str(environment.get("monitor")).removeprefix("val/"), environment.get("goal")
    return {"loss": "min", **({monitor: goal} if goal in ("min", "max") else {})}


def _read_settings(subject: Subject) -> None:
    try:
        tree = read_config(subject.folder.run_file)
        subject.settings = {section: keys for section, keys in tree.items() if isinstance(keys, dict)}
        subject.run = Run.model_validate(tree)
    except UserError as error:
        subject.notes.append(f"run.yaml cannot be read: {str(error).removeprefix('--config ')}.")
    except ValidationError as error:
        wrong = some(f"{'.'.join(map(str, each['loc']))} ({each['msg'].lower()})" for each in error.errors())
        subject.notes.append(f"run.yaml is damaged or from another version and shown unchanged; invalid: {wrong}.")


def _note_what_is_missing(subject: Subject) -> None:
    history, notes = subject.history, subject.notes
    metrics = history.metrics
    last = max(metrics.times, default=0.0)
    if subject.folder.is_non_finite_since(last):
        notes.append(f"Training stopped at a non-finite value: zoo autopsy {subject.folder.name}.")
    if not metrics:
        notes.append(f"metrics.jsonl {_lack(subject.folder.metrics_file)}: there are no metrics and no learning curves.")
    trained = subject.run.recipe.epochs if subject.run else None
    ended = {epoch for name in metrics.of_stages("val") for epoch in metrics.epochs(name)}
    if trained and metrics and len(ended) < trained and not metrics.has_end:
        notes.append(f"Training had not finished: {len(ended):,} of {trained:,} epochs.")
    if not history.has_monitors:
        lack = _lack(subject.folder.monitors_file)
        notes.append(f"monitors.jsonl {lack}: there are no activations, gradients and throughput.")
    for file, count in history.unread.items():
        notes.append(f"{count:,} unreadable line{'s' if count > 1 else ''} of {file} skipped.")
    if undecided := [name for name, (best, *_) in summarize_metrics(subject).items() if best == UNKNOWN]:
        notes.append(f"Best values of {some(undecided)} are unknown: only the model says whether they should be high or low.")
    for name in metrics.names:
        steps = (step for step, value in zip(metrics.steps(name), metrics.values(name), strict=True) if not math.isfinite(value))
        if (step := next(steps, None)) is not None:
            notes.append(f"{name} is not finite at step {int(step):,}.")


def _lack(file: Path) -> str:
    return "is empty or damaged" if file.exists() else "is missing"


def network_and_data(subject: Subject) -> tuple[str, str]:
    """Names of the network and the data, as far as they are known; of your own images also their path."""
    settings = subject.settings
    network = subject.run.network if subject.run else settings.get("model", {}).get("name", "")
    return str(network), data_title(settings.get("data", {}))


def count_findings(findings: Sequence[Finding]) -> str:
    """Summarize findings, as in ``2 errors, 1 warning``; empty if there are none."""
    counts = Counter(finding.fields["severity"] or "finding" for finding in findings)
    return ", ".join(f"{count} {kind}{'s' if count > 1 else ''}" for kind, count in counts.items())


def facts(subject: Subject) -> list[tuple[str, str]]:
    """Names and values at the top of the summary."""
    metrics, environment = subject.history.metrics, subject.environment
    network, data = network_and_data(subject)
    rows = [("Model", network or "unknown"), ("Data", data or "unknown")]
    if subject.task:
        rows.append(("Task", subject.task))
    if metrics:
        epochs = subject.settings.get("recipe", {}).get("epochs")
        # the final test counts as an epoch of its own
        done = int(max((metrics.last(name)[1] for name in metrics.of_stages("train", "val")), default=-1)) + 1
        rows.append(("Epochs", f"{done:,} of {epochs:,}" if isinstance(epochs, int) else f"{done:,}"))
        rows.append(("Steps", f"{int(max(metrics.last(name)[0] for name in metrics.names)):,}"))
        times = metrics.times
        started = environment.get("started", math.nan)
        if times:
            start = started if type(started) is float and math.isfinite(started) else min(times)
            rows.append((TIME, format_duration(max(times) - start)))
    parameters, trained = environment.get("parameters"), environment.get("trained_parameters")
    if isinstance(parameters, int):
        is_known = parameters and isinstance(trained, int)
        rows.append(("Parameters", how_many_trained(parameters, trained) if is_known else f"{parameters:,}"))
    if environment.get("device"):
        rows.append(("Device", str(environment["device"])))
    return rows


def summarize_metrics(subject: Subject) -> dict[str, tuple[str, str, str, str]]:
    """Metric -> best validation value, its epoch (from 1), last validation value, and test value, as text."""
    metrics = subject.history.metrics
    found = {}
    for name in dict.fromkeys(key.partition("/")[2] for key in metrics.of_stages("val", "test")):
        values = []
        if (validated := f"val/{name}") in metrics.names:
            pairs = zip(metrics.values(validated), metrics.epochs(validated), strict=True)
            values = [(value, epoch) for value, epoch in pairs if math.isfinite(value)]
        best, at = UNKNOWN if values else "–", "–"
        direction = subject.directions.get(name, subject.directions.get(name.partition("_")[0]))  # accuracy_count is an accuracy
        if values and direction:
            choose = max if direction == "max" else min
            value, epoch = choose(values, key=lambda pair: pair[0])
            best, at = number(value), f"{int(epoch) + 1:,}"
        tested = metrics.values(f"test/{name}") if f"test/{name}" in metrics.names else ()
        last = number(values[-1][0]) if values else "–"
        found[name] = (best, at, last, number(tested[-1]) if tested else "–")
    return found


def reproduce_command(subject: Subject) -> str:
    """The command that repeats the training, with the original command and commit."""
    if not subject.folder.run_file.exists():
        return "unknown"
    file = shlex.quote(str(subject.folder.run_file))
    again = f"{subject.command} train --config {file} --name {shlex.quote(subject.folder.path.resolve().name + '-again')}"
    lines = [again]
    if command := subject.environment.get("command"):
        lines.append(f"# original command: {one_line(command)}")
    if commit := subject.environment.get("git_commit"):
        lines.append(f"# at commit {one_line(commit)}")
    return "\n".join(lines)
