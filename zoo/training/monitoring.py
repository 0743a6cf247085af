"""The monitors of a run, and what the zoo's commands and keys have to offer for what they find."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import lightning as L

from zoo.callbacks.activation_statistics import ActivationStatistics
from zoo.callbacks.diagnosis import Diagnosis
from zoo.callbacks.gradient_monitor import GradientMonitor
from zoo.callbacks.throughput import Throughput
from zoo.config.run import Run
from zoo.tasks.task import Task

# finding -> what to try, where a command or key of the zoo helps
REMEDIES = {
    "constant-input": "inspect a batch with `zoo data preview`",
    "exploding-gradients": "gradient clipping (--set recipe.gradient_clip_val=1), an LSTM, or a lower recipe.lr",
    "frozen-parameters": "requires_grad_(True), or --set recipe.freeze=... if it is intended",
    "learning-rate-too-high": "a ten times lower recipe.lr, or `zoo tune`",
    "learning-rate-too-low": "a hundred times higher recipe.lr, or `zoo tune`",
    "memorized-labels": "inspect samples and labels with `zoo data preview`; are files and labels in the same order?",
    "not-learning": "`zoo diagnose`, which checks whether the network can overfit a single batch",
    "small-batch-norm": "a larger recipe.batch_size, trainer.sync_batchnorm=true on several GPUs, or group norm",
    "weight-decay-too-high": "--set recipe.weight_decay=0",
}


def build_monitors(
    run: Run, task: Task, sinks: Sequence[Callable[[dict[str, Any]], None]]
) -> tuple[list[L.Callback], Diagnosis | None]:
    """Build the monitors of a Run, and the diagnosis of their records.

    Args:
        sinks: called with every record and finding.
    """

    def write(record: dict[str, Any]) -> None:
        for sink in sinks:
            sink(record)

    every = run.trainer.monitor_every_n_steps
    if not every or task.one_pass:
        return [], None
    frozen = run.recipe.freeze != "none" or task.has_pretrained_parts
    diagnosis = Diagnosis(task.chance_classes, write, frozen, REMEDIES, verbose=False)
    monitors = [kind(every=every, write=write) for kind in (ActivationStatistics, GradientMonitor, Throughput)]
    return [*monitors, diagnosis], diagnosis
