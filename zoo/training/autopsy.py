"""Post-mortem of a run with a non-finite loss or gradient: an error in one line, and a file in its folder to replay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from zoo.callbacks.autopsy import FILE, NonFiniteAutopsy, replay_file
from zoo.callbacks.replay import Anomaly
from zoo.core.errors import UserError, one_line
from zoo.tasks.records import Diverged
from zoo.tasks.task import Task
from zoo.training.checkpoints import FORMAT, KEY, read_checkpoint
from zoo.training.run_folder import RunFolder


def build_autopsy(folder: RunFolder, task: Task, about: Callable[[], dict[str, Any]]) -> NonFiniteAutopsy:
    """Build the callback that ends a run with ``Diverged``; ``about`` returns the metadata of a checkpoint."""

    def diverged(text: str, anomaly: Anomaly | None) -> Diverged:
        if anomaly is None or anomaly.kind != "batch":
            text = str(task.diverged(one_line(text)))
        return Diverged(f"{text}. To replay the step: zoo autopsy {folder.name}" if folder.autopsy_file.exists() else text)

    return NonFiniteAutopsy(folder.path, lambda: {KEY: {"format": FORMAT, **about()}}, diverged)


@dataclass(frozen=True)
class Replayed:
    """A replayed step: the anomaly that the training found, and the one found now; None if all values are finite.

    Attributes:
        device: of the replay; ``trained_on`` is that of the training.
    """

    network: str
    data: str
    step: int
    epoch: int
    batch: int
    trained_on: str
    device: str
    precision: str
    found: Anomaly | None
    again: Anomaly | None


def replay_step(open_task: Callable[[dict[str, Any], Path], tuple[Task, Any]], path: Path) -> Replayed:
    """Replay the step in an ``autopsy.pt``, on the kind of device where it failed if this machine has one.

    Raises:
        UserError: the file is damaged or of another origin, or its model is not in the zoo.
    """
    content = read_checkpoint(path)
    if "autopsy" not in content:
        raise UserError(f"{path} is not an autopsy file: a run with a non-finite loss or gradient writes one, {FILE}")
    task, run = open_task(content, path)
    if isinstance(images := content["batch"].get("images"), torch.Tensor) and images.dim() == 2:
        task.prepare(SimpleNamespace(augment="none", cache_features=lambda compute, key: None))  # data that has features already
    device = "cuda" if content["device"] == "cuda" and torch.cuda.is_available() else "cpu"
    again = replay_file(content, task.to(device))
    found = Anomaly(**content["anomaly"]) if content["anomaly"] else None
    place = (content["step"], content["epoch"] + 1, content["batch_idx"] + 1)
    return Replayed(run.network, run.data["name"], *place, content["device"], device, content["precision"], found, again)
