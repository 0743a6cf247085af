"""One trial: a run, or one for each fold, scored on the validation split and never on the test split."""

from __future__ import annotations

import math
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import lightning as L
import optuna

from zoo.config.resolution import resolve
from zoo.config.run import Run
from zoo.core.errors import UserError, one_line
from zoo.registry.registry import Registry
from zoo.studies.plan import Search
from zoo.studies.points import TrialFailed
from zoo.studies.study import StudyLocation, best_trial
from zoo.tasks.records import Diverged
from zoo.training import engine
from zoo.training.memory import is_out_of_memory
from zoo.training.run_folder import RunFolder

SECONDS = "seconds"  # attribute of a trial: how long it took
FOLDS = "folds"  # attribute of a trial: the value of each fold


class TrainingObjective:
    """Objective of a search: train with the values of a trial and return the best validation score."""

    def __init__(self, registry: Registry, location: StudyLocation, search: Search) -> None:
        self.registry, self.location, self.search = registry, location, search

    def __call__(self, trial: optuna.Trial, values: dict[str, Any]) -> float:
        """The score of a trial: that of its best epoch, averaged over the folds.

        Raises:
            TrialFailed: an invalid combination of values, a non-finite loss, or out of memory.
            optuna.TrialPruned: stopped early.
            UserError: a fault that other values would not avoid.
        """
        try:
            run = self.search.run(self.registry, values)
        except UserError as error:
            raise TrialFailed(str(error)) from error
        folder = self.location.trial_folder(trial.number)
        started = time.monotonic()
        try:
            if self.search.folds > 1:
                return self._cross_validate(run, folder, trial)
            recorder = MetricRecorder(self.search, trial)
            self._fit(run, folder, recorder)
            if recorder.stopped_early:
                raise optuna.TrialPruned
            return recorder.best
        finally:
            trial.set_user_attr(SECONDS, round(time.monotonic() - started, 1))

    def _cross_validate(self, run: Run, folder: Path, trial: optuna.Trial) -> float:
        values: list[float] = []
        for fold in range(1, self.search.folds + 1):
            held_out = {"data": {"validation": f"{fold}/{self.search.folds}"}}
            recorder = MetricRecorder(self.search)
            self._fit(resolve(self.registry, None, run.model_dump(mode="json"), [held_out]), folder / f"fold-{fold}", recorder)
            values.append(recorder.best)
            trial.set_user_attr(FOLDS, values)
            trial.report(statistics.fmean(values), fold)
            if fold < self.search.folds and trial.should_prune():
                raise optuna.TrialPruned
        return statistics.fmean(values)

    def _fit(self, run: Run, path: Path, recorder: MetricRecorder) -> None:
        folder = RunFolder(path)
        path.mkdir(parents=True, exist_ok=True)
        run = run.model_copy(update={"trainer": run.trainer.model_copy(update={"test": False})})
        try:
            engine.train(self.registry, run, folder=folder, callbacks=[recorder], progress=False, monitor=False)
        except (UserError, ValueError, TypeError, RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                raise TrialFailed(one_line(error, 100)) from error
            # the engine appends how to resume its run, which does not apply to a trial
            reason = error.__cause__ if isinstance(error.__cause__, UserError) else error
            did_not_start = not folder.run_file.exists()  # the network cannot be built with these values
            if did_not_start or isinstance(reason, Diverged):
                raise TrialFailed(one_line(reason)) from error
            raise reason from None


class MetricRecorder(L.Callback):
    """Callback that records the best value of the metric of a search, and reports it to the pruner.

    Args:
        search: gives the metric and its direction.
        trial: receives the value of every epoch, and may stop the training; without one nothing does.

    Attributes:
        best: the best value so far.
        stopped_early: whether the pruner stopped the trial.
    """

    def __init__(self, search: Search, trial: optuna.Trial | None = None) -> None:
        self.metric, self.trial = f"val/{search.metric}", trial
        self.better = {"max": max, "min": min}[search.direction]
        self.best: float | None = None
        self.stopped_early = False

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.metric not in trainer.callback_metrics:
            known = [name.removeprefix("val/") for name in trainer.callback_metrics if name.startswith("val/")]
            raise UserError(f"{self.metric} is not measured on this data: --metric takes {', '.join(known)}")
        value, epoch = float(trainer.callback_metrics[self.metric]), trainer.current_epoch + 1
        if not math.isfinite(value):
            raise Diverged(f"{self.metric} is {value} after epoch {epoch}")
        self.best = value if self.best is None else self.better(self.best, value)
        if self.trial is not None:
            self.trial.report(value, epoch)
            if epoch < trainer.max_epochs and self.trial.should_prune():
                trainer.should_stop = self.stopped_early = True


def remove_checkpoints(study: optuna.Study, location: StudyLocation) -> None:
    """Remove the checkpoints of all finished trials except the best; their logs stay."""
    best = best_trial(study)
    for trial in study.get_trials(deepcopy=False):
        if trial.state.is_finished() and (best is None or trial.number != best.number):
            for checkpoints in location.trial_folder(trial.number).glob("**/checkpoints"):
                shutil.rmtree(checkpoints, ignore_errors=True)
