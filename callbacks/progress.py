"""Progress of a training: a bar with rate and time left on a terminal, one plain line an epoch in a log; and what is wrong."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any

import lightning as L
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from zoo.callbacks.diagnosis import Diagnosis
from zoo.callbacks.findings import Finding
from zoo.callbacks.sparkline import sparkline

REFRESH_SECONDS = 0.2
TREND_WIDTH = 16
LINE_SECONDS = 2.0  # short epochs share a line of a log
COLORS = {"error": "red", "warning": "yellow"}


class _CutOffFirst(TextColumn):
    """Where a terminal is too narrow, gives way before the other columns do."""

    def render(self, task: Task) -> Text:
        text = super().render(task)
        text.no_wrap, text.overflow = True, "ellipsis"
        return text


class _Bar(Progress):
    """With one line below it for a finding, cut to the width of the terminal."""

    finding: Finding | None = None

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.finding is not None:
            yield Text(self.finding.in_short, COLORS.get(self.finding.severity, ""), no_wrap=True, overflow="ellipsis")


class TrainingProgress(L.Callback):
    """Shows how far a training is, on standard error, from rank zero only.

    It never asks the device for a number: what it shows is what others have recorded, so it costs a clock reading a step.

    Of a diagnosis a terminal shows the worst finding, in a line under the bar that is gone when the training has ended and all of
    them can be told in full. A log gets a line for each when it is found.

    Args:
        metrics: the newest values, filled by a logger.
        show: the metrics to show, in order, if they have a value.
        terminal: draw a bar; the default is to do so where standard error is a terminal.
        trend: of this metric the bar shows the epochs so far, too.
        diagnosis: whose findings are shown; it stands before this among the callbacks.
    """

    def __init__(
        self,
        metrics: Mapping[str, float],
        show: tuple[str, ...],
        terminal: bool | None = None,
        trend: str = "",
        diagnosis: Diagnosis | None = None,
    ) -> None:
        self.metrics, self.show, self.trend = metrics, show, trend
        self.past: list[float] = []  # of the trend
        self.terminal = sys.stderr.isatty() if terminal is None else terminal
        self.diagnosis = diagnosis
        self.told = 0  # findings
        self.bar: _Bar | None = None
        self.shown_at = self.started_at = 0.0
        self.first_step = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.started_at, self.first_step = time.monotonic(), trainer.fit_loop.total_batch_idx + 1
        if self.terminal and trainer.is_global_zero:
            columns = (
                TextColumn("epoch {task.fields[epoch]}"), BarColumn(), MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"), TimeRemainingColumn(), TextColumn("{task.fields[trend]}"),
                _CutOffFirst("{task.fields[metrics]}", table_column=Column()),
            )  # fmt: skip
            self.bar = _Bar(*columns, console=Console(stderr=True), auto_refresh=False)
            self.bar.add_task("", total=self._total(trainer), epoch="", rate="", trend="", metrics="")
            self.bar.start()

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        self._tell_findings(trainer)
        if self.bar is not None and time.monotonic() - self.shown_at > REFRESH_SECONDS:
            self._refresh(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.trend in self.metrics:
            self.past.append(self.metrics[self.trend])
        self._tell_findings(trainer)
        if self.bar is not None:
            self._refresh(trainer)
        elif trainer.is_global_zero and self._line_is_due(trainer):
            done = trainer.fit_loop.total_batch_idx + 1
            passed = time.monotonic() - self.started_at
            left = passed / max(1, done - self.first_step) * max(0, self._total(trainer) - done)
            epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
            print(f"{epoch}  {self._metrics()}  {_clock(passed)} passed, {_clock(left)} left", file=sys.stderr, flush=True)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._tell_findings(trainer)
        if self.bar is not None:
            self.bar.finding = None
        self._close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._tell_findings(trainer)  # the last ones may tell why
        self._close()

    def _tell_findings(self, trainer: L.Trainer) -> None:
        """In a log, what was found since the last time."""
        if self.diagnosis is None or self.bar is not None or not trainer.is_global_zero:
            return
        new = slice(self.told, None)
        for step, finding in zip(self.diagnosis.steps[new], self.diagnosis.findings[new], strict=True):
            print(f"step {step}  {finding.in_short}", file=sys.stderr, flush=True)
        self.told = len(self.diagnosis.findings)

    def _line_is_due(self, trainer: L.Trainer) -> bool:
        last = trainer.current_epoch + 1 == trainer.max_epochs
        due = last or time.monotonic() - self.shown_at > LINE_SECONDS
        if due:
            self.shown_at = time.monotonic()
        return due

    def _total(self, trainer: L.Trainer) -> int:
        return int(trainer.num_training_batches * (trainer.max_epochs or 1))

    def _metrics(self) -> str:
        return "  ".join(f"{name} {self.metrics[name]:.4g}" for name in self.show if name in self.metrics)

    def _refresh(self, trainer: L.Trainer) -> None:
        self.shown_at = time.monotonic()
        done = trainer.fit_loop.total_batch_idx + 1
        rate = (done - self.first_step) / max(1e-9, self.shown_at - self.started_at)
        self.bar.update(
            self.bar.task_ids[0], completed=done, rate=f"{rate:.1f} steps/s",
            trend=sparkline(self.past, TREND_WIDTH), metrics=self._metrics(),
            epoch=f"{trainer.current_epoch + 1}/{trainer.max_epochs}",
        )  # fmt: skip
        self.bar.finding = self.diagnosis.worst if self.diagnosis else None
        self.bar.refresh()

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
