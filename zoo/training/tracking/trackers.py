"""The trackers of a run, any number of them, as one Lightning logger: only on rank zero, and always closed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from zoo.config.run import Run
from zoo.core.errors import one_line
from zoo.registry.registry import Registry
from zoo.tasks.library import library_prefix
from zoo.tasks.samples import Samples
from zoo.tasks.task import Task
from zoo.training.run_folder import RunFolder
from zoo.training.tracking.guest import Guest
from zoo.training.tracking.lineage import Origin
from zoo.training.tracking.tracker import Tracker


class Trackers(Logger):
    """Hands what Lightning logs, and what the engine does, to each tracker.

    Args:
        trackers: name -> tracker, which are opened on rank zero alone.
    """

    def __init__(self, trackers: dict[str, Tracker]) -> None:
        super().__init__()
        self.trackers = trackers
        self.guests: list[Guest] = []

    @property
    def name(self) -> str:
        return ",".join(self.trackers)

    @property
    def version(self) -> str:
        return ""

    @property
    def run_ids(self) -> dict[str, str]:
        """Name -> id under which a resumed run goes on."""
        return {name: tracker.run_id for name, tracker in self.trackers.items() if tracker.run_id}

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the configuration is logged when a tracker is opened."""

    def log_origins(self, find: Callable[[], Sequence[Origin]]) -> None:
        self._call("log_origins", find)

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self._call("log_metrics", dict(metrics), step)

    def log_record(self, record: dict[str, Any]) -> None:
        self._call("log_record", record)

    def log_samples(self, key: str, samples: Samples) -> None:
        self._call("log_samples", key, samples)

    def log_monitors(self, monitors: Path, classes: Sequence[str] = (), confusion: Sequence[Sequence[int]] = ()) -> None:
        self._call("log_monitors", monitors, classes, confusion)

    @property
    def most_classes(self) -> int:
        """Of a confusion matrix that any of them shows."""
        return max((tracker.most_classes for tracker in self.trackers.values()), default=0)

    def _call(self, method: str, *arguments: Any) -> None:
        for guest in self.guests:
            guest.call(method, *arguments)

    @contextmanager
    def opened(self, folder: RunFolder) -> Iterator[None]:
        """Open the trackers, and close them in any case."""
        self.guests = [Guest(tracker) for tracker in self.trackers.values()] if rank_zero_only.rank == 0 else []
        for guest in self.guests:
            guest.open()
        try:
            yield
        except BaseException as error:
            if isinstance(error, Exception):  # which an interrupt is not
                self._call("log_failure", one_line(error, 1000))
            self._close(1)
            raise
        for guest in self.guests:
            guest.upload(folder)
        self._close(0)

    def _close(self, exit_code: int) -> None:
        for guest in self.guests:
            guest.close(exit_code)


def build_trackers(
    registry: Registry,
    run: Run,
    folder: RunFolder,
    environment: dict[str, Any],
    run_ids: dict[str, str],
    step: int,
    task: Task,
) -> Trackers:
    """Build the trackers that a Run asks for; their libraries are not imported otherwise.

    Args:
        environment: versions, commit and so on, which trackers show with the configuration.
        run_ids: name -> id of the run that is resumed.
        step: at which it is resumed.

    Raises:
        UserError: an unknown logger, or one that cannot be imported.
    """
    config = {**run.model_dump(mode="json"), "environment": environment}
    trackers: dict[str, Tracker] = {}
    if run.wandb.mode != "off":
        from zoo.training.tracking.wandb_tracker import WandbTracker

        directions = {f"{stage}/{name}": way for stage in ("val", "test") for name, way in task.directions.items()}
        trackers["wandb"] = WandbTracker(
            run.wandb, folder.path, folder.name, config, run_ids.get("wandb"), directions, library_prefix(task)
        )
    if run.trainer.logger:
        from zoo.training.tracking.loggers import lightning_tracker

        for name in run.trainer.logger:
            trackers[name] = lightning_tracker(registry, name, folder.path, config, run_ids.get(name), step)
    return Trackers(trackers)
