"""Weights & Biases for a run: imported only if enabled, and always closed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from zoo.config.recipe import Run
from zoo.tasks.task import Task
from zoo.training.run_folder import RunFolder


def open_tracker(run: Run, folder: RunFolder, environment: dict[str, Any], run_id: str | None, task: Task) -> Any:
    """Build the W&B tracker, if enabled."""
    if run.wandb.mode == "off":
        return None
    from zoo.training.wandb_tracker import WandbTracker

    config = {**run.model_dump(mode="json"), "environment": environment}
    directions = {f"{stage}/{name}": way for stage in ("val", "test") for name, way in task.directions.items()}
    return WandbTracker(run.wandb, folder.path, folder.path.name, config, run_id, directions)


@contextmanager
def tracking(tracker: Any, folder: RunFolder) -> Iterator[None]:
    """Open the tracker, and close it in any case."""
    if tracker is None:
        yield
        return
    tracker.open()
    try:
        yield
    except BaseException:
        tracker.close(exit_code=1)
        raise
    tracker.log_checkpoints(folder.best, folder.last)
    tracker.close()
