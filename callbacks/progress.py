"""Progress of a run: a bar with throughput and time left on a terminal, a line per epoch in a log; and its findings."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Mapping
from datetime import timedelta
from importlib.util import find_spec
from shutil import get_terminal_size
from typing import Any, NamedTuple

import lightning as L
from rich.console import Console, ConsoleOptions, RenderableType
from rich.live import Live
from rich.text import Text

from zoo.callbacks.diagnosis import Diagnosis
from zoo.callbacks.findings import Finding, printable
from zoo.callbacks.sparkline import sparkline

REFRESH_SECONDS = 0.2
TREND_WIDTH = 16
LEAST_BAR, MOST_BAR = 10, 40  # cells
GAP = "  "
LINE_SECONDS = 2.0  # short epochs share a line of a log
COLORS = {"error": "red", "warning": "yellow"}


class Part(NamedTuple):
    """A part of the line: where a terminal is too narrow, those of the highest ``rank`` are left out, whole."""

    text: str
    rank: int
    style: str = ""


class Line:
    """As many parts as a terminal is wide, with a bar where there is room, and a line for a finding below."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.done = 0.0  # fraction
        self.finding: Finding | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterable[RenderableType]:
        yield self.fitted(options.max_width)
        if self.finding is not None:
            yield Text(self.finding.one_line, COLORS.get(self.finding.severity, ""), no_wrap=True, overflow="ellipsis")

    def fitted(self, width: int) -> Text:
        pieces = [Text(part.text, part.style) for part in _fitting(self.parts, width)]
        room = min(MOST_BAR, width - sum(len(piece) + len(GAP) for piece in pieces))
        if room >= LEAST_BAR:
            full = round(self.done * room)
            pieces.insert(1, Text.assemble(("━" * full, "bar.complete"), ("━" * (room - full), "bar.back")))
        line = Text(GAP, no_wrap=True, overflow="crop").join(pieces)
        line.no_wrap, line.overflow = True, "crop"
        return line


def _fitting(parts: list[Part], width: float) -> list[Part]:
    """The parts that a line has room for, one at least."""
    kept = sorted(parts, key=lambda part: part.rank)
    while len(kept) > 1 and len(GAP.join(part.text for part in kept)) > width:
        kept.pop()
    return [part for part in parts if part in kept]


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
        self.live: Live | None = None
        self.line = Line()
        self.shown_at = self.started_at = 0.0
        self.first_step = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.started_at, self.first_step = time.monotonic(), trainer.fit_loop.total_batch_idx + 1
        if self.terminal and trainer.is_global_zero:
            self._compose(trainer)
            self.live = Live(self.line, console=Console(stderr=True), auto_refresh=False)
            self.live.start(refresh=True)

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        self._print_findings(trainer)
        if self.live is not None and time.monotonic() - self.shown_at > REFRESH_SECONDS:
            self._refresh(trainer, self.live)

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if self.live is not None and time.monotonic() - self.shown_at > REFRESH_SECONDS:
            self._refresh(trainer, self.live, f"validating {batch_idx + 1}/{trainer.num_val_batches[dataloader_idx]}")

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.trend in self.metrics:
            self.history.append(self.metrics[self.trend])
        self._print_findings(trainer)
        if self.live is not None:
            self._refresh(trainer, self.live)
        elif trainer.is_global_zero and self._line_is_due(trainer):
            times = f"{_clock(time.monotonic() - self.started_at)} elapsed, {_clock(self._seconds_left(trainer))} left"
            epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
            width = get_terminal_size().columns if sys.stderr.isatty() else math.inf  # a terminal that cannot draw
            parts = _fitting([Part(epoch, 3), *self._metrics(), Part(times, 2)], width)
            print(GAP.join(part.text for part in parts), file=sys.stderr, flush=True)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._print_findings(trainer)
        self.line.finding = None
        self._close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._print_findings(trainer)  # they may explain the exception
        self._close()

    def _print_findings(self, trainer: L.Trainer) -> None:
        """Print new findings to a log."""
        if self.diagnosis is None or self.live is not None or not trainer.is_global_zero:
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

    def _seconds_left(self, trainer: L.Trainer) -> float:
        done = trainer.fit_loop.total_batch_idx + 1
        elapsed = time.monotonic() - self.started_at
        return elapsed / max(1, done - self.first_step) * max(0, self._total(trainer) - done)

    def _metrics(self) -> list[Part]:
        """The metrics in order; the watched one is the last to be left out, the first of the others the one before it."""
        first = next((name for name in self.show if name in self.metrics and name != self.trend), "")
        ranks = {self.trend: 0, first: 1}
        names = [name for name in dict.fromkeys((*self.show, self.trend)) if name in self.metrics]
        return [Part(self._metric(name), ranks.get(name, 7)) for name in names]

    def _metric(self, name: str) -> str:
        return printable(f"{name} {self.metrics[name]:.4g}")

    def _refresh(self, trainer: L.Trainer, live: Live, phase: str = "") -> None:
        self.shown_at = time.monotonic()
        self._compose(trainer)
        if phase:
            self.line.parts.insert(1, Part(phase, 1))
        self.line.finding = self.diagnosis.most_severe if self.diagnosis else None
        live.refresh()

    def _compose(self, trainer: L.Trainer) -> None:
        """Fill the line; the metrics that matter most, time left and step are the last to be left out."""
        done, total = trainer.fit_loop.total_batch_idx + 1, self._total(trainer)
        taken = done - self.first_step
        rate = taken / max(1e-9, time.monotonic() - self.started_at)
        trend = []
        if len(self.history) > 1:
            trend.append(Part(f"{printable(self.trend)} {sparkline(self.history, TREND_WIDTH)}", 5))
        self.line.done = done / total if total else 0.0
        self.line.parts = [
            Part(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}", 4),
            Part(f"{done}/{total}", 3),
            Part(f"{rate:.1f} steps/s", 6),
            Part(f"{_clock(self._seconds_left(trainer)) if taken else '?'} left", 2),
            *self._metrics(),
            *trend,
        ]

    def _close(self) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None


class EvaluationProgress(L.Callback):
    """A bar of a test on standard error, from rank zero only and on a terminal alone, of which nothing stays.

    Args:
        terminal: draw it; by default as ``TrainingProgress`` does.
    """

    def __init__(self, terminal: bool | None = None) -> None:
        self.terminal = _can_draw() if terminal is None else terminal
        self.live: Live | None = None
        self.line = Line()
        self.shown_at = self.started_at = 0.0

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.shown_at = self.started_at = time.monotonic()

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        now = time.monotonic()
        if not self.terminal or not trainer.is_global_zero or now - self.shown_at <= REFRESH_SECONDS:
            return
        done, total = batch_idx + 1, int(trainer.num_test_batches[dataloader_idx])
        left = _clock((now - self.started_at) / done * (total - done))
        self.shown_at, self.line.done = now, done / total
        self.line.parts = [Part("testing", 2), Part(f"{done}/{total}", 0), Part(f"{left} left", 1)]
        if self.live is None:
            self.live = Live(self.line, console=Console(stderr=True), auto_refresh=False, transient=True)
            self.live.start()
        self.live.refresh()

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None


def _can_draw() -> bool:
    console = Console(stderr=True)
    if console.is_jupyter:
        return find_spec("ipywidgets") is not None
    return sys.stderr.isatty() and not console.is_dumb_terminal


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))  # as rich writes it in the bar
