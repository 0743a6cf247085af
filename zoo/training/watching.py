"""What a run is doing, told from the files that it writes: another process may be training it, on another machine perhaps."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from zoo.callbacks.sparkline import sparkline
from zoo.config.recipe import Run
from zoo.core.errors import UserError
from zoo.training.records import Lines
from zoo.training.run_folder import RunFolder

RECENT = 30  # records that tell the rate
QUIET_SECONDS = 60.0  # a run that writes nothing for so long, and ten times longer than usual, may have stopped
SEVERITIES = ("warning", "error")


@dataclass(frozen=True)
class Metric:
    """A metric over the run so far."""

    name: str
    values: list[float]

    @property
    def line(self) -> str:
        curve = f"  {sparkline(self.values)}" if len(self.values) > 1 else ""
        return f"{self.values[-1]:.4g}{curve}"


@dataclass(frozen=True)
class State:
    """Where a run is.

    Attributes:
        epoch: from 1; 0 before the first record.
        steps: of the whole run; None until an epoch has shown how many it has.
        rate: steps a second lately, validation included; None before there are two records.
        left: seconds, at this rate.
        waiting: share of the time that was spent on waiting for data, lately; None if nobody tells.
        silent: seconds since the last record.
        broke: its numbers stopped being finite after the last record.
        finding: the worst that was diagnosed, and of equals the last.
    """

    name: str
    network: str
    data: str
    epoch: int
    epochs: int | None
    step: int
    steps: int | None
    rate: float | None
    left: float | None
    waiting: float | None
    silent: float | None
    is_finished: bool
    may_have_stopped: bool
    broke: bool
    metrics: list[Metric] = field(default_factory=list)
    finding: dict[str, Any] | None = None

    @property
    def share(self) -> float | None:
        """How much of the run is done, from 0 to 1."""
        return None if not self.steps else min(1.0, self.step / self.steps)

    def to_dict(self) -> dict[str, Any]:
        metrics = {each.name: each.values[-1] for each in self.metrics}
        return {**asdict(self), "metrics": metrics}

    def lines(self) -> list[str]:
        """The state in plain text."""
        facts = [self.name, f"{self.network} on {self.data}", f"epoch {self.epoch}/{self.epochs or '?'}"]
        facts.append(f"step {self.step}/{self.steps}" if self.steps else f"step {self.step}")
        if self.is_finished:
            facts.append("finished")
        elif self.rate:
            facts.append(f"{self.rate:.1f} steps/s")
            facts += [f"{clock(self.left)} left"] if self.left is not None else []
        if self.waiting is not None:
            facts.append(f"waiting for data {self.waiting:.0%}")
        width = max((len(metric.name) for metric in self.metrics), default=0)
        lines = ["  ".join(facts), *(f"{metric.name.ljust(width)}  {metric.line}" for metric in self.metrics)]
        if self.finding:
            told = self.finding.get
            where = f" in {told('where')}" if told("where") else ""
            where += f" at step {told('step')}" if told("step") is not None else ""
            advice = f"; try: {told('try')}" if told("try") else ""
            lines.append(f"{told('severity')}: {told('name')}{where}: {told('evidence', '')}{advice}")
        if self.broke:
            lines.append(f"error: its numbers stopped being finite: zoo autopsy {self.name}")
        elif self.may_have_stopped:
            lines.append(f"silent for {clock(self.silent)}: it may have stopped; to go on: zoo train --resume {self.name}")
        elif not self.epoch:
            lines.append("metrics.jsonl is missing" if self.step else "nothing recorded yet")
        elif not self.is_finished:
            lines.append(f"last record {clock(self.silent)} ago")
        return lines


class Watched:
    """A run whose files are followed."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        try:
            self.run: Run | None = folder.read_run()
        except UserError:  # damaged, or of another version: the rest of the folder speaks for itself
            self.run = None
        self.metrics = Lines(folder.metrics_file)
        self.monitors = Lines(folder.monitors_file, lambda record: record.get("kind") in ("pace", "finding"))  # not histograms

    def state(self, now: float) -> State:
        """Where the run is at a time, in seconds since 1970."""
        records = self.metrics.new()
        epochs = self.run.recipe.epochs if self.run else None
        last = records[-1] if records else {}
        monitors = self.monitors.new()
        step = max((record.get("step") or 0 for record in (*records, *monitors)), default=0)
        ended = [record for record in records if any(key.startswith("val/") for key in record)]
        steps = round(ended[-1]["step"] / (ended[-1]["epoch"] + 1) * epochs) if ended and epochs else None
        finished = any(map(_is_test, records))
        rate, usual = _pace(records[-RECENT:])
        silent = max(0.0, now - last["time"]) if "time" in last else self._since_the_start(now)
        pace = next((each for each in reversed(monitors) if each.get("kind") == "pace"), {})
        return State(
            name=self.folder.name,
            network=self.run.network if self.run else "unknown",
            data=self.run.data["name"] if self.run else "unknown data, as run.yaml cannot be read",
            # the test at the end counts as an epoch of its own
            epoch=max((record.get("epoch") or 0 for record in records if not _is_test(record)), default=-1) + 1,
            epochs=epochs,
            step=step,
            steps=steps,
            rate=rate,
            left=(steps - step) / rate if steps and rate and not finished else None,
            waiting=pace.get("waiting"),
            silent=silent,
            is_finished=finished,
            broke=not finished and self.folder.broke_after(last.get("time", 0.0)),
            may_have_stopped=not finished and silent is not None and silent > max(QUIET_SECONDS, 10 * usual),
            metrics=_shown(records),
            finding=_worst(monitors),
        )

    def _since_the_start(self, now: float) -> float | None:
        """Seconds since the settings were written, which is done right before the first step."""
        written = self.folder.run_file
        return max(0.0, now - written.stat().st_mtime) if written.exists() and not self.folder.metrics_file.exists() else None


def _is_test(record: dict[str, Any]) -> bool:
    return any(key.startswith("test/") for key in record)


def _pace(records: Sequence[dict[str, Any]]) -> tuple[float | None, float]:
    """Steps a second, and the seconds between two records; a pause, as between an interrupt and a resume, does not count."""
    timed = [(record["step"], record["time"]) for record in records if record.get("step") is not None and "time" in record]
    gaps = [(later[0] - earlier[0], later[1] - earlier[1]) for earlier, later in zip(timed, timed[1:], strict=False)]
    usual = statistics.median([seconds for _, seconds in gaps]) if gaps else 0.0
    kept = [(steps, seconds) for steps, seconds in gaps if seconds <= max(QUIET_SECONDS, 10 * usual)]
    steps, seconds = sum(each for each, _ in kept), sum(each for _, each in kept)
    return (steps / seconds if seconds > 0 and steps > 0 else None), usual


def _shown(records: Sequence[dict[str, Any]]) -> list[Metric]:
    """The training loss and what is measured in validation, its loss last; of a finished run the test too."""
    names = list(dict.fromkeys(key for record in records for key in record))
    of = {stage: [name for name in names if name.startswith(f"{stage}/")] for stage in ("val", "test")}
    chosen = ["train/loss", *sorted(of["val"], key=lambda name: name == "val/loss"), *of["test"]]
    curves = {name: [float(record[name]) for record in records if isinstance(record.get(name), (int, float))] for name in chosen}
    return [Metric(name, values) for name, values in curves.items() if values]


def _worst(monitors: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    findings = [each for each in monitors if each.get("kind") == "finding" and each.get("severity") in SEVERITIES]
    rank = max((SEVERITIES.index(each["severity"]) for each in findings), default=None)
    return next((each for each in reversed(findings) if SEVERITIES.index(each["severity"]) == rank), None)


def clock(seconds: float | None) -> str:
    """Seconds as ``1:02:03`` or ``2:03``."""
    if seconds is None or not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
