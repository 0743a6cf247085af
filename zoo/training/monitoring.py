"""The monitors of a run and ``monitors.jsonl``, where they write: one JSON object a line, on recorded steps only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import lightning as L

from zoo.callbacks.activation_statistics import ActivationStatistics
from zoo.callbacks.diagnosis import Diagnosis
from zoo.callbacks.gradient_monitor import GradientMonitor
from zoo.callbacks.pace import Pace
from zoo.config.recipe import Run
from zoo.tasks.classification import Classifier
from zoo.tasks.task import Task


def classes_to_guess(task: Task) -> int | None:
    """How many answers there are, where a guess costs the logarithm of that: with cross-entropy over classes."""
    return len(task.spec.classes) if isinstance(task, Classifier) and task.is_cross_entropy else None


def build_monitors(
    run: Run, task: Task, latest: Mapping[str, float], sinks: Sequence[Callable[[dict[str, Any]], None]]
) -> tuple[list[L.Callback], Diagnosis | None]:
    """The monitors that a Run asks for, and the diagnosis of what they record.

    Args:
        latest: the newest metrics.
        sinks: are given every record and finding.
    """

    def write(record: dict[str, Any]) -> None:
        for sink in sinks:
            sink(record)

    every = run.trainer.monitor_every_n_steps
    if not every or task.one_pass:
        return [], None
    # networks with an encoder freeze it on purpose
    frozen = run.recipe.freeze != "none" or not isinstance(task, Classifier)
    diagnosis = Diagnosis(classes_to_guess(task), latest, write, frozen)
    monitors = [kind(every=every, write=diagnosis.see) for kind in (ActivationStatistics, GradientMonitor, Pace)]
    return [*monitors, diagnosis], diagnosis
