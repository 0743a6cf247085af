"""Progress of a run: a bar with throughput and time left on a terminal, a line per epoch in a log; and its findings."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping
from datetime import timedelta
from importlib.util import find_spec
from typing import Any

import lightning as L
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from zoo.callbacks.diagnosis import Diagnosis
from zoo.callbacks.findings import Finding, printable
from zoo.callbacks.sparkline import sparkline

REFRESH_SECONDS = 0.2
TREND_WIDTH = 16
LINE_SECONDS = 2.0  # short epochs share a line of a log
COLORS = {"error": "red", "warning": "yellow"}


class _ShrinkingColumn(TextColumn):
    """Is truncated before the other columns where a terminal is too narrow."""

    def render(self, task: Task) -> Text:
        text = super().render(task)
        text.no_wrap, text.overflow = True, "ellipsis"
        return text


class _Bar(Progress):
    """A bar with one line below it for a finding, truncated to the width of the terminal."""

    finding: Finding | None = None

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.finding is not None:
            yield Text(self.finding.one_line, COLORS.get(self.finding.severity, ""), no_wrap=True, overflow="ellipsis")


class TrainingProgress(L.Callback):
    """Progress bar on standard error, from rank zero only.

    It never synchronizes with the device: it shows what others have recorded, and costs a clock reading a step.

    On a terminal the most severe finding of a diagnosis stands in a line under the bar until the training has ended. In a log
    each finding gets a line when it is found.

    Args:
        metrics: the latest values, filled by a logger.
        show: the metrics to show, in order, if they have a value.
        terminal: draw a bar; by default on a terminal, and in a notebook where ipywidgets are installed, which rich draws with.
        trend: a metric of which the bar shows a sparkline over the epochs, too.
        diagnosis: whose findings are shown; it must precede this callback.
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
        self.history: list[float] = []  # of the trend
        self.terminal = _can_draw() if terminal is None else terminal
        self.diagnosis = diagnosis
        self.printed = 0  # findings
        self.bar: _Bar | None = None
        self.shown_at = self.started_at = 0.0
        self.first_step = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.started_at, self.first_step = time.monotonic(), trainer.fit_loop.total_batch_idx + 1
        if self.terminal and trainer.is_global_zero:
            columns = (
                TextColumn("epoch {task.fields[epoch]}"), BarColumn(), MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"), TimeRemainingColumn(), TextColumn("{task.fields[trend]}"),
                _ShrinkingColumn("{task.fields[metrics]}", table_column=Column()),
            )  # fmt: skip
            self.bar = _Bar(*columns, console=Console(stderr=True), auto_refresh=False)
            self.bar.add_task("", total=self._total(trainer), epoch="", rate="", trend="", metrics="")
            self.bar.start()

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        self._print_findings(trainer)
        if self.bar is not None and time.monotonic() - self.shown_at > REFRESH_SECONDS:
            self._refresh(trainer, self.bar)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.trend in self.metrics:
            self.history.append(self.metrics[self.trend])
        self._print_findings(trainer)
        if self.bar is not None:
            self._refresh(trainer, self.bar)
        elif trainer.is_global_zero and self._line_is_due(trainer):
            done = trainer.fit_loop.total_batch_idx + 1
            elapsed = time.monotonic() - self.started_at
            left = elapsed / max(1, done - self.first_step) * max(0, self._total(trainer) - done)
            times = f"{_clock(elapsed)} elapsed, {_clock(left)} left"
            epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
            print(f"{epoch}  {self._metrics()}  {times}", file=sys.stderr, flush=True)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._print_findings(trainer)
        if self.bar is not None:
            self.bar.finding = None
        self._close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._print_findings(trainer)  # they may explain the exception
        self._close()

    def _print_findings(self, trainer: L.Trainer) -> None:
        """Print new findings to a log."""
        if self.diagnosis is None or self.bar is not None or not trainer.is_global_zero:
            return
        new = slice(self.printed, None)
        for step, finding in zip(self.diagnosis.steps[new], self.diagnosis.findings[new], strict=True):
            print(f"step {step}  {finding.one_line}", file=sys.stderr, flush=True)
        self.printed = len(self.diagnosis.findings)

    def _line_is_due(self, trainer: L.Trainer) -> bool:
        last = trainer.current_epoch + 1 == trainer.max_epochs
        due = last or time.monotonic() - self.shown_at > LINE_SECONDS
        if due:
            self.shown_at = time.monotonic()
        return due

    def _total(self, trainer: L.Trainer) -> int:
        return int(trainer.num_training_batches * (trainer.max_epochs or 1))

    def _metrics(self) -> str:
        return printable("  ".join(f"{name} {self.metrics[name]:.4g}" for name in self.show if name in self.metrics))

    def _refresh(self, trainer: L.Trainer, bar: _Bar) -> None:
        self.shown_at = time.monotonic()
        done = trainer.fit_loop.total_batch_idx + 1
        rate = (done - self.first_step) / max(1e-9, self.shown_at - self.started_at)
        bar.update(
            bar.task_ids[0], completed=done, rate=f"{rate:.1f} steps/s",
            trend=sparkline(self.history, TREND_WIDTH), metrics=self._metrics(),
            epoch=f"{trainer.current_epoch + 1}/{trainer.max_epochs}",
        )  # fmt: skip
        bar.finding = self.diagnosis.most_severe if self.diagnosis else None
        bar.refresh()

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


def _can_draw() -> bool:
    return sys.stderr.isatty() or (Console().is_jupyter and find_spec("ipywidgets") is not None)


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))  # as rich writes it in the bar
