"""A run at a glance, read from the files that it writes, without torch."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo.config.settings import read_config
from zoo.core.errors import UserError, one_line
from zoo.core.json_lines import Record, parse_line
from zoo.training.records import ENDS, StandingFindings, longest_interval, to_float
from zoo.training.run_folder import RunFolder

STATES = ("running", "finished", "resumable", "non-finite", "broken")
PART_OF_A_SETTING = ("model", "data", "recipe", "trainer")


@dataclass(frozen=True)
class RunSummary:
    """A run in a list.

    Attributes:
        name: as commands take it.
        state: running, finished, resumable, non-finite (see ``zoo autopsy``) or broken.
        problem: why it is broken; empty otherwise.
        metric: the validation metric by which its best checkpoint is chosen; empty if that is unknown.
        goal: ``max`` or ``min``.
        best: the best value of the metric so far, None before the first epoch has ended.
        test: the metric on the test split, None before the end.
        epoch, epochs: epochs that have ended, and of the whole run.
        started, updated: Unix time of the start and of the last record, None where it is unknown.
        seconds: from the start to the last record, without the pause before a resume.
        findings: names of the findings that still hold, the last at the end.
        settings: all of model, data, recipe and trainer, as in ``recipe.lr``.
        varied: the settings that differ between the listed runs of the same model on the same data.
    """

    name: str
    path: Path
    model: str
    data: str
    state: str
    problem: str = ""
    metric: str = ""
    goal: str = "max"
    best: float | None = None
    test: float | None = None
    epoch: int = 0
    epochs: int | None = None
    started: float | None = None
    updated: float | None = None
    seconds: float | None = None
    findings: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict, repr=False)
    varied: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for ``--json``."""
        return {**vars(self), "path": str(self.path)}


def summarize(folder: RunFolder) -> RunSummary:
    """Summarize a run, whatever is left of it."""
    settings, problem = _settings(folder)
    environment = _environment(folder)
    metric, goal = str(environment.get("monitor") or ""), str(environment.get("goal") or "max")
    started = to_float(environment.get("started"))
    progress = _Progress(folder, metric, goal, started)
    epochs = settings.get("recipe.epochs")
    is_finished = progress.has_end or (progress.epoch > 0 and progress.epoch == epochs)
    if folder.is_locked():
        state = "running"
    elif problem:
        state = "broken"
    elif is_finished:
        state = "finished"
    else:
        state = "non-finite" if folder.is_non_finite_since(progress.updated or 0.0) else "resumable"
    return RunSummary(
        name=folder.name,
        path=folder.path,
        model=str(settings.get("model.network") or settings.get("model.name") or "?"),
        data=str(settings.get("data.name") or "?"),
        state=state,
        problem=problem,
        metric=metric,
        goal=goal,
        best=progress.best,
        test=progress.test,
        epoch=progress.epoch,
        epochs=epochs if type(epochs) is int else None,
        started=None if math.isnan(started) else started,
        updated=progress.updated,
        seconds=progress.seconds,
        findings=_findings(folder),
        settings=settings,
    )


def _settings(folder: RunFolder) -> tuple[dict[str, Any], str]:
    """The settings of a run by dotted key, and why they cannot be read."""
    try:
        sections = read_config(folder.run_file)
    except UserError as error:
        return {}, one_line(str(error).removeprefix("--config "))
    settings = {
        f"{name}.{key}": value
        for name in PART_OF_A_SETTING
        if isinstance(section := sections.get(name), dict)
        for key, value in section.items()
    }
    missing = [key for key in ("model.name", "data.name") if not isinstance(settings.get(key), str)]
    return settings, f"{folder.run_file} has no {missing[0]}" if missing else ""


def _environment(folder: RunFolder) -> dict[str, Any]:
    try:
        environment = json.loads((folder.path / "environment.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return environment if isinstance(environment, dict) else {}


class _Progress:
    """What the records of a run say of it. They are searched, not parsed: there may be hundreds of thousands."""

    def __init__(self, folder: RunFolder, metric: str, goal: str, started: float) -> None:
        content = _content(folder.metrics_file)
        values = _values(content, metric)
        self.best = (max if goal == "max" else min)(values) if values else None
        validated, tested = _last_record(content, b'"val/'), _last_record(content, b'"test/')
        self.epoch = int(validated.get("epoch") or 0) + 1 if validated else 0
        self.has_end = any(b'"%b/' % stage.encode() in content for stage in ENDS)
        test = to_float((tested or {}).get(metric.replace("val/", "test/", 1)))
        self.test = None if math.isnan(test) else test
        times = _values(content, "time")
        self.updated = times[-1] if times else None
        self.seconds = _active_seconds([*([] if math.isnan(started) else [started]), *times])


def _values(content: bytes, name: str) -> list[float]:
    """The finite values of a name in all records."""
    return [float(text) for text in re.findall(rb'"%b": ?(-?\d[\d.eE+-]*)' % re.escape(name.encode()), content)] if name else []


def _last_record(content: bytes, mark: bytes) -> Record | None:
    """The last record that holds the mark."""
    start = content.rfind(b"\n", 0, max(0, content.rfind(mark))) + 1
    return parse_line(content[start:].partition(b"\n")[0]) if mark in content else None


def _active_seconds(times: list[float]) -> float | None:
    """Seconds between the records, without pauses."""
    gaps = [later - earlier for earlier, later in zip(times, times[1:], strict=False) if later > earlier]
    longest = longest_interval(gaps)
    return sum(gap for gap in gaps if gap <= longest) if gaps else None


def _findings(folder: RunFolder) -> tuple[str, ...]:
    standing = StandingFindings()
    content = _content(folder.monitors_file)
    lines = [line for line in content.splitlines() if b'"kind":"finding"' in line or b'"kind":"withdrawal"' in line]
    for record in filter(None, map(parse_line, lines)):
        standing.add(record)
    return tuple(dict.fromkeys(str(each.last.get("name")) for each in standing))


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes() if path.is_file() else b""
    except OSError:
        return b""
