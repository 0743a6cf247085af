"""Progress of a search: a bar on a terminal, and one line for each finished trial."""

from __future__ import annotations

import sys
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from zoo.core.printing import printable
from zoo.studies.plan import Search
from zoo.studies.points import finished_points, planned_trials
from zoo.studies.study import REASON, best_trial, is_finished

WORDS = {TrialState.COMPLETE: "", TrialState.PRUNED: "stopped early"}


class SearchProgress:
    """Prints finished trials, their number and the best one to standard error.

    Args:
        points: total number of trials.
    """

    def __init__(self, study: optuna.Study, search: Search, points: int) -> None:
        self.study, self.search, self.points = study, search, points
        self.seen = {trial.number for trial in self._finished()}
        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[state]}"))
        self.bar = Progress("trials", *columns, console=Console(stderr=True), disable=not sys.stderr.isatty())
        self.bar.add_task("", total=points, completed=len(finished_points(study, points)), state="")

    def __enter__(self) -> SearchProgress:
        self.bar.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self.bar.stop()

    def update(self) -> None:
        """Print the trials that finished since the last call."""
        fresh = [trial for trial in self._finished() if trial.number not in self.seen]
        self.seen.update(trial.number for trial in fresh)
        done = len(finished_points(self.study, self.points))
        state = self._state(done)
        for trial in fresh:
            self.say(f"{self._line(trial)}   {state}" if self.bar.disable else self._line(trial))
        self.bar.update(self.bar.task_ids[0], completed=done, state=state)

    def say(self, text: str) -> None:
        """Print a line, above the bar if there is one."""
        self.bar.console.print(printable(text), highlight=False, markup=False, soft_wrap=True)

    def _finished(self) -> list[FrozenTrial]:
        return [trial for trial in planned_trials(self.study) if is_finished(trial)]

    def _line(self, trial: FrozenTrial) -> str:
        value = f"{self.search.metric} {trial.value:.4f}" if trial.value is not None else ""
        word = WORDS.get(trial.state) or (trial.user_attrs.get(REASON) and f"failed: {trial.user_attrs[REASON]}")
        values = "  ".join(f"{key}={format_value(value)}" for key, value in trial.params.items())
        return "  ".join(filter(None, (f"trial {trial.number}", value, values, word)))

    def _state(self, done: int) -> str:
        best = best_trial(self.study)
        count = f"{done}/{self.points} done" if self.bar.disable else ""
        return ", ".join(filter(None, (count, best and f"best {best.value:.4f} (trial {best.number})")))


def format_value(value: Any) -> str:
    """Format a parameter in few digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
