"""Environment of a run: versions, commit, command and machine."""

from __future__ import annotations

import platform
import subprocess
import sys
import time
from importlib import metadata
from typing import Any

import torch

from zoo.tasks.task import Task
from zoo.training.stage_plan import count_trained

PACKAGES = ("bestiary", "torch", "torchvision", "lightning", "torchmetrics")


def describe_environment(task: Task) -> dict[str, Any]:
    """Collect versions, machine and commit, which reproduce a run together with its Run, as plain data.

    ``monitor`` and ``goal`` are the metric of the best checkpoint and its direction.
    """
    return {
        "started": time.time(),
        "command": " ".join(["zoo", *sys.argv[1:]]),
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in PACKAGES},
        "machine": platform.platform(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "parameters": sum(parameter.numel() for parameter in task.parameters()),
        "trained_parameters": count_trained(task),
        "monitor": f"val/{task.monitor}",
        "goal": task.directions[task.monitor],
    }


def _git_commit() -> str | None:
    """The commit of the working directory, with ``-dirty`` if files differ from it."""
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"], capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None
