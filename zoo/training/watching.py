"""Progress of a run, read from the files that it writes: another process, perhaps on another machine, may be training it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from zoo.callbacks.sparkline import sparkline
from zoo.config.run import Run
from zoo.core.clock import format_duration
from zoo.core.errors import UserError
from zoo.core.json_lines import JsonLinesFollower
from zoo.training.records import ENDS, Metrics, StandingFindings, is_number, longest_interval
from zoo.training.run_folder import RunFolder

RECENT = 30  # records from which the throughput is estimated
SEVERITIES = ("warning", "error")


@dataclass(frozen=True)
class RunStatus:
    """Progress of a run.

    Attributes:
        epoch: from 1; 0 before the first record.
        steps: of the whole run; None until an epoch has shown how many it has.
        steps_per_second: lately, validation included; None before there are two records.
        seconds_left: at this throughput.
        data_loading: fraction of the time spent waiting for data, lately; None if it was not recorded.
        idle_seconds: since the last record.
        is_non_finite: the loss or a gradient became non-finite after the last record.
        has_lost_metrics: an epoch has ended, but no metrics can be read.
        metrics: the values of each so far.
        finding: the most severe one, and of equals the last.
    """

    name: str
    network: str
    data: str
    epoch: int
    epochs: int | None
    step: int
    steps: int | None
    steps_per_second: float | None
    seconds_left: float | None
    data_loading: float | None
    idle_seconds: float | None
    is_finished: bool
    may_have_stopped: bool
    is_non_finite: bool
    has_lost_metrics: bool
    metrics: dict[str, list[float]]
    finding: dict[str, Any] | None

    @property
    def progress(self) -> float | None:
        """Fraction of the run that is done."""
        return None if not self.steps else min(1.0, self.step / self.steps)

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "metrics": {name: values[-1] for name, values in self.metrics.items()}}

    def lines(self) -> list[str]:
        """The status as plain text."""
        facts = [self.name, f"{self.network} on {self.data}", f"epoch {self.epoch}/{self.epochs or '?'}"]
        facts.append(f"step {self.step}/{self.steps}" if self.steps else f"step {self.step}")
        if self.is_finished:
            facts.append("finished")
        elif self.steps_per_second:
            facts.append(f"{self.steps_per_second:.1f} steps/s")
            facts += [f"{format_duration(self.seconds_left)} left"] if self.seconds_left is not None else []
        if self.data_loading is not None:
            facts.append(f"data loading {self.data_loading:.0%}")
        width, lines = max(map(len, self.metrics), default=0), ["  ".join(facts)]
        for name, values in self.metrics.items():
            curve = f"  {sparkline(values)}" if len(values) > 1 else ""
            lines.append(f"{name.ljust(width)}  {values[-1]:.4g}{curve}")
        if self.finding:
            get = self.finding.get
            where = f" in {get('where')}" if get("where") else ""
            where += f" at step {get('step')}" if get("step") is not None else ""
            remedy = f"; try: {get('try')}" if get("try") else ""
            lines.append(f"{get('severity')}: {get('name')}{where}: {get('evidence', '')}{remedy}")
        idle = format_duration(self.idle_seconds)
        if self.is_non_finite:
            lines.append(f"error: the loss or a gradient is not finite; to find out where: zoo autopsy {self.name}")
        elif self.has_lost_metrics:
            lines.append("metrics.jsonl is missing or damaged")
        elif self.may_have_stopped:
            lines.append(f"idle for {idle}: it may have stopped; to resume: zoo train --resume {self.name}")
        elif not self.epoch:
            lines.append("no metrics recorded yet" if self.step else "nothing recorded yet")
        elif not self.is_finished:
            lines.append(f"last record {idle} ago")
        return lines


class RunWatcher:
    """Follows the files of a run."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        try:
            self.run: Run | None = folder.read_run()
        except UserError:  # damaged, or of another version: the other files can still be read
            self.run = None
        self._metrics_file = JsonLinesFollower(folder.metrics_file)
        self._monitors_file = JsonLinesFollower(folder.monitors_file)
        self._forget_metrics()
        self._forget_monitors()

    def _forget_metrics(self) -> None:
        self.metrics = Metrics()
        self._recent: deque[dict[str, Any]] = deque(maxlen=RECENT)

    def _forget_monitors(self) -> None:
        self._monitored_step = 0
        self._data_loading: float | None = None
        self._findings = StandingFindings()

    def _update(self) -> None:
        """Read what is new: records of monitors are not kept, as their histograms would fill the memory."""
        if self._metrics_file.is_restarted():
            self._forget_metrics()
        for record in self._metrics_file.update():
            self.metrics.add(record)
            self._recent.append(record)
        if self._monitors_file.is_restarted():
            self._forget_monitors()
        for record in self._monitors_file.update():
            self._monitored_step = max(self._monitored_step, int(record.get("step") or 0))
            if record.get("kind") == "throughput" and is_number(record.get("data_loading")):
                self._data_loading = record["data_loading"]
            self._findings.add(record)

    def status(self, now: float) -> RunStatus:
        """The status at a Unix time in seconds."""
        self._update()
        metrics, epochs = self.metrics, self.run.recipe.epochs if self.run else None
        last = self._recent[-1].get("time") if self._recent else None
        trained, validated = metrics.of_stages("train", "val"), metrics.of_stages("val")
        step = int(max((*(metrics.last(name)[0] for name in metrics.names), self._monitored_step), default=0))
        at, epoch = metrics.last(*validated) if validated else (0.0, 0.0)
        steps = round(at / (epoch + 1) * epochs) if validated and epochs else None
        finished = metrics.has_end
        rate, longest = _throughput(self._recent)
        idle = max(0.0, now - last) if last is not None else self._seconds_since_start(now)
        return RunStatus(
            name=self.folder.name,
            network=self.run.network if self.run else "unknown",
            data=self.run.data_title if self.run else "unknown data, as run.yaml cannot be read",
            # the test at the end counts as an epoch of its own
            epoch=int(max((metrics.last(name)[1] for name in trained), default=-1)) + 1,
            epochs=epochs,
            step=step,
            steps=steps,
            steps_per_second=rate,
            seconds_left=(steps - step) / rate if steps and rate and not finished else None,
            data_loading=self._data_loading,
            idle_seconds=idle,
            is_finished=finished,
            is_non_finite=not finished and self.folder.is_non_finite_since(last or 0.0),
            may_have_stopped=not finished and idle is not None and idle > longest,
            has_lost_metrics=not metrics and self.folder.has_ended_an_epoch(),
            metrics=_shown(metrics),
            finding=_most_severe(each.last for each in self._findings),
        )

    def _seconds_since_start(self, now: float) -> float | None:
        """Seconds since ``run.yaml`` was written, right before the first step."""
        written = self.folder.run_file
        return max(0.0, now - written.stat().st_mtime) if written.exists() and not self.folder.metrics_file.exists() else None


def _throughput(records: Iterable[dict[str, Any]]) -> tuple[float | None, float]:
    """Steps a second, without pauses as between an interrupt and a resume, and the seconds after which it is one."""
    timed = [(r["step"], r["time"]) for r in records if r.get("step") is not None and r.get("time") is not None]
    gaps = [(later[0] - earlier[0], later[1] - earlier[1]) for earlier, later in zip(timed, timed[1:], strict=False)]
    longest = longest_interval([seconds for _, seconds in gaps])
    kept = [(steps, seconds) for steps, seconds in gaps if seconds <= longest]
    steps, seconds = sum(each for each, _ in kept), sum(each for _, each in kept)
    return (steps / seconds if seconds > 0 and steps > 0 else None), longest


def _shown(metrics: Metrics) -> dict[str, list[float]]:
    """The training loss, the validation metrics with the loss last, and what is recorded at the end of a run."""
    validated = sorted(metrics.of_stages("val"), key=lambda name: name == "val/loss")
    names = [*(["train/loss"] if "train/loss" in metrics.names else []), *validated, *metrics.of_stages(*ENDS)]
    curves = {name: [value for value in metrics.values(name) if not math.isnan(value)] for name in names}
    return {name: values for name, values in curves.items() if values}


def _most_severe(findings: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    """The last of the most severe findings."""
    known = [finding for finding in findings if finding.get("severity") in SEVERITIES]
    return max(reversed(known), key=lambda finding: SEVERITIES.index(finding["severity"]), default=None)
