"""Where a training of the zoo stops being finite: it ends with one line, and leaves a file in its folder to look into."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from zoo.callbacks.autopsy import FILE, NonFiniteAutopsy, repeat
from zoo.callbacks.replay import Fault
from zoo.core.errors import UserError, one_line
from zoo.tasks.task import Diverged, Task
from zoo.training.checkpoints import FORMAT, KEY, read_checkpoint
from zoo.training.run_folder import RunFolder


def autopsy(folder: RunFolder, task: Task, about: Callable[[], dict[str, Any]]) -> NonFiniteAutopsy:
    """The callback that ends a run with ``Diverged``; ``about`` is what a checkpoint says of itself beside the weights."""

    def diverged(text: str, fault: Fault | None) -> Diverged:
        if fault is None or fault.kind != "batch":
            text = str(task.diverged(one_line(text)))
        kept = folder.autopsy_file.exists()
        return Diverged(f"{text}. To look into it: zoo autopsy {folder.name}" if kept else text)

    return NonFiniteAutopsy(folder.path, lambda: {KEY: {"format": FORMAT, **about()}}, diverged)


@dataclass(frozen=True)
class Repeated:
    """A step done again: what the training had found, and what is found now; None is nothing.

    Attributes:
        device: where it was done again; ``trained_on`` is where it went wrong.
    """

    network: str
    data: str
    step: int
    epoch: int
    batch: int
    trained_on: str
    device: str
    precision: str
    found: Fault | None
    again: Fault | None


def repeat_step(open_task: Callable[[dict[str, Any], Path], tuple[Task, Any]], path: Path) -> Repeated:
    """Do the step that an ``autopsy.pt`` holds again, on the kind of device where it went wrong if this machine has one.

    Raises:
        UserError: the file is damaged or of another origin, or its model is not in the zoo.
    """
    content = read_checkpoint(path)
    if "autopsy" not in content:
        raise UserError(f"{path} is no autopsy: a run whose numbers stop being finite leaves one, {FILE}")
    task, run = open_task(content, path)
    if isinstance(images := content["batch"].get("images"), torch.Tensor) and images.dim() == 2:
        task.prepare(_FeaturesAlready())
    device = "cuda" if content["device"] == "cuda" and torch.cuda.is_available() else "cpu"
    again = repeat(content, task.to(device))
    found = Fault(**content["fault"]) if content["fault"] else None
    place = (content["step"], content["epoch"] + 1, content["batch_idx"] + 1)
    return Repeated(run.network, run.data["name"], *place, content["device"], device, content["precision"], found, again)


class _FeaturesAlready:
    """Stands for data that holds features of a frozen backbone in place of images."""

    augment = "none"

    def cache_features(self, compute: Any, key: str) -> None:
        pass
