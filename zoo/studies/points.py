"""Distribute the points of a search over processes, so that each is finished exactly once whichever process is killed.

A search is a sequence of points, 0, 1, 2, ...; a trial is one attempt at one of them. What random and grid search sample at a
point depends only on the seed and its number, not on the process or the attempt.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.distributions import BaseDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from zoo.core.randomness import derive_seed
from zoo.studies import study as studies
from zoo.studies.plan import Search
from zoo.studies.space import grid_points
from zoo.studies.study import DUPLICATE, REASON, StudyLocation, is_finished

POINT = "point"  # attribute of a trial: its point
WORKER = "worker"  # attribute of a trial: the process that runs it
WAIT_SECONDS = 0.5  # between polls for trials of other processes

Objective = Callable[[optuna.Trial, dict[str, Any]], float]


class TrialFailed(Exception):
    """A trial failed because of its parameters; the text says why. It counts as finished."""


class _Duplicate(Exception):
    """Another machine has already started the same point."""


def planned_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The trials of a study in order, without those that another program added."""
    return [trial for trial in study.get_trials(deepcopy=False) if POINT in trial.user_attrs]


def finished_points(study: optuna.Study, points: int) -> set[int]:
    """Which of the first points are finished."""
    return {trial.user_attrs[POINT] for trial in planned_trials(study) if is_finished(trial)} & set(range(points))


class PointSampler(BaseSampler):
    """Seed every draw with (seed, point, key), so that processes that share a study draw independently and a restart continues.

    TPE (Bergstra et al. 2011) depends on the results so far as well. Bergstra and Bengio (2012) compare random and grid search.
    """

    def __init__(self, search: Search) -> None:
        self.search = search
        self.grid = grid_points(search.space, search.seed) if search.sampler == "grid" else []

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {} if self.grid else self._drawing(trial).infer_relative_search_space(study, trial)

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, Any]) -> dict[str, Any]:
        return {} if self.grid else self._drawing(trial).sample_relative(study, trial, search_space)

    def sample_independent(self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: Any) -> Any:
        if self.grid:
            return self.grid[trial.user_attrs[POINT]][param_name]
        return self._drawing(trial, param_name).sample_independent(study, trial, param_name, param_distribution)

    def _drawing(self, trial: FrozenTrial, *key: str) -> BaseSampler:
        kind = TPESampler if self.search.sampler == "tpe" else RandomSampler
        return kind(seed=derive_seed(self.search.seed, "search", trial.user_attrs[POINT], *key) % 2**32)


def build_pruner(name: str) -> optuna.pruners.BasePruner:
    """Build the rule that stops bad trials early.

    ``median``: worse than the median of the others at the same step; ``asha``: asynchronous successive halving, not among the
    best quarter at steps 1, 4, 16, ... (Li et al. 2020).
    """
    kinds = {
        "none": optuna.pruners.NopPruner,
        "median": optuna.pruners.MedianPruner,
        "asha": optuna.pruners.SuccessiveHalvingPruner,
    }
    return kinds[name]()


class Worker:
    """A process that runs trials of a shared study.

    Args:
        study: the study.
        location: its folder, for the locks that tell which processes are alive.
        search: the search.
        points: total number of points, over all processes.
    """

    def __init__(self, study: optuna.Study, location: StudyLocation, search: Search, points: int) -> None:
        self.study, self.search, self.points = study, search, points
        self.name, self.in_database = uuid.uuid4().hex, bool(location.storage)
        self.locks = location.folder / "workers"
        self.locks.mkdir(parents=True, exist_ok=True)
        # held from reading the study until a trial has its worker's name
        self.claim = FileLock(self.locks / ".claim.lock")
        study.sampler = PointSampler(search)

    def work(self, objective: Objective, after_trial: Callable[[], None] = lambda: None) -> None:
        """Run trials until all points are finished; wait for those of other processes, and retry them if they are lost.

        Args:
            objective: the value of a trial, given its settings (key -> value). Raises ``TrialFailed`` for invalid parameters and
                ``optuna.TrialPruned`` for a trial that was stopped early; any other exception ends the work, and the point is
                retried when the search continues.
        """
        with self._alive():
            while len(finished_points(self.study, self.points)) < self.points:
                try:
                    with self.claim:
                        self._fail_lost_trials()
                        if found := self._waiting() or self._enqueue_next():
                            self._try_one(objective)
                except UpdateFinishedTrialError:
                    continue  # the trial was declared lost, and another process retries it
                if found:
                    after_trial()
                else:
                    time.sleep(WAIT_SECONDS)

    def _waiting(self) -> bool:
        return any(trial.state is TrialState.WAITING for trial in planned_trials(self.study))

    def _enqueue_next(self) -> bool:
        """Enqueue the first point that no process runs, with the same parameters if it was lost."""
        trials = planned_trials(self.study)
        taken = {trial.user_attrs[POINT] for trial in trials if is_finished(trial) or not trial.state.is_finished()}
        free = next((point for point in range(self.points) if point not in taken), None)
        if free is None:
            return False
        lost = [trial.params for trial in trials if trial.user_attrs[POINT] == free and trial.params]
        self.study.enqueue_trial(lost[-1] if lost else {}, user_attrs={POINT: free})
        return True

    def _try_one(self, objective: Objective) -> None:
        def attempt(trial: optuna.Trial) -> float:
            trial.set_user_attr(WORKER, self.name)
            self.claim.release()
            if self._is_duplicate(trial):
                trial.set_user_attr(DUPLICATE, True)
                raise _Duplicate
            try:
                return objective(trial, {dimension.key: dimension.suggest(trial) for dimension in self.search.space})
            except TrialFailed as failure:
                trial.set_user_attr(REASON, str(failure))
                raise

        try:
            self._optimize(attempt)
        except ValueError as error:
            # Optuna's, for the result of a trial that was meanwhile declared lost and is retried
            if "Cannot tell a FAIL trial" not in str(error):
                raise

    def _optimize(self, attempt: Callable[[optuna.Trial], float]) -> None:
        try:
            self.study.optimize(attempt, n_trials=1, catch=(TrialFailed, _Duplicate))
        except AssertionError as error:
            hidden = error.__context__
            if hidden is None or str(error) != "Should not reach.":
                raise
            raise hidden from hidden.__cause__  # Optuna asserts while an error of its storage propagates

    def _is_duplicate(self, own: optuna.Trial) -> bool:
        """Whether an earlier trial has the same point, which happens when two machines read a database at once."""
        return any(
            trial.number < own.number
            and trial.user_attrs[POINT] == own.user_attrs[POINT]
            and (is_finished(trial) or not trial.state.is_finished())
            for trial in planned_trials(self.study)
        )

    # ------------------------------------------------------------------ liveness of processes

    @contextmanager
    def _alive(self) -> Iterator[None]:
        """Hold a lock that the system releases when this process ends, however it ends."""
        path = self.locks / f"{self.name}.lock"
        with FileLock(path):
            try:
                yield
            finally:
                path.unlink(missing_ok=True)

    def _fail_lost_trials(self) -> None:
        """Mark the trials of killed processes as failed, so that they are retried; requires the claim."""
        if self.in_database:
            optuna.storages.fail_stale_trials(self.study)
        for trial in planned_trials(self.study):
            if trial.state is TrialState.RUNNING and self._is_lost(trial):
                with suppress(ValueError, UpdateFinishedTrialError):  # another machine was faster
                    self.study.tell(trial.number, state=TrialState.FAIL)

    def _is_lost(self, trial: FrozenTrial) -> bool:
        worker = trial.user_attrs.get(WORKER)
        if self.in_database:
            # Optuna checks heartbeats, but not whether there was a first one
            silence = datetime.now() - trial.datetime_start
            return worker is None and silence > timedelta(seconds=studies.SILENCE_SECONDS)
        # a process holds the claim until its trial has its name
        return worker is None or not self._is_alive(worker)

    def _is_alive(self, worker: str) -> bool:
        path = self.locks / f"{worker}.lock"
        if not path.exists():
            return False
        try:
            with FileLock(path, timeout=0):
                path.unlink()
        except Timeout:
            return True
        return False
