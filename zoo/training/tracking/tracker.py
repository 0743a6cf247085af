"""What an experiment tracker may take of a run: each method does nothing unless a tracker has a use for it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from zoo.tasks.samples import Samples
from zoo.training.run_folder import RunFolder
from zoo.training.tracking.lineage import Origin

notices = logging.getLogger(__name__)


class Tracker:
    """Base of the trackers. A guest calls the methods in order, in one thread: they may raise and block.

    Attributes:
        title: name in messages.
        closing_seconds: how long the end of a training waits for what is not sent yet.
        most_classes: of a confusion matrix that it shows.
        is_lost: whether it did not respond within a time limit: it gets little time from then on.
    """

    title = "tracker"
    closing_seconds = 10.0
    most_classes = 100
    is_lost = False
    _has_warned = False

    @property
    def run_id(self) -> str | None:
        """The id under which a resumed run goes on, None if it has none."""
        return None

    def open(self) -> None:
        """Start the run, before the first step."""

    def log_origins(self, find: Callable[[], Sequence[Origin]]) -> None:
        """Log what the run was made from, which ``find`` looks up: that takes a while."""

    def log_metrics(self, metrics: dict[str, float], step: int | None) -> None:
        """Log metrics at an optimizer step, by default the latest."""

    def log_record(self, record: dict[str, Any]) -> None:
        """Log a record of a monitor: activations, gradients, throughput, a finding or its withdrawal."""

    def log_samples(self, key: str, samples: Samples) -> None:
        """Log predictions: images, scenes and texts."""

    def log_monitors(self, monitors: Path, classes: Sequence[str], confusion: Sequence[Sequence[int]]) -> None:
        """Log all records of the monitors, and the confusion matrix of a classifier, once at the end.

        Args:
            monitors: the ``monitors.jsonl`` of the run.
            classes: names, in the order of ``confusion``.
            confusion: number of test images by true class (row) and predicted class (column); empty if unknown.
        """

    def upload_seconds(self, folder: RunFolder) -> float:
        """How long the end of a training waits for the upload of the trained weights."""
        return 0.0

    def log_trained(self, folder: RunFolder) -> None:
        """Log the trained weights of a run, once at the end; either checkpoint may be missing."""

    def log_failure(self, text: str) -> None:
        """Report the error that ends the run, before it is closed."""

    def close(self, exit_code: int) -> None:
        """End the run; other codes than 0 are failures."""

    def remains(self) -> str:
        """Where the records are that were not sent, and how to send them later; empty without any."""
        return ""

    def warn(self, what: str) -> None:
        """Warn in one line, with what remains; once, whatever follows."""
        level = logging.DEBUG if self._has_warned else logging.WARNING
        remains = self.remains()
        self._has_warned = True
        notices.log(level, "%s %s%s", self.title, what, f"; {remains}" if remains else "")
