"""Many processes, one plan: who tries which point, so that none is left out and none counted twice whoever is killed when.

A plan is a sequence of points, 0, 1, 2, ...; a trial is one attempt at one of them. What random search and grid search try at a
point follows from the seed and its number alone, so it does not matter which process comes to it, or how often.
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
from zoo.search import study as studies
from zoo.search.plan import Search
from zoo.search.space import grid_points
from zoo.search.study import DUPLICATE, REASON, Place, is_over

POINT = "point"  # attribute of a trial: the point of the plan that it stands for
WORKER = "worker"  # attribute of a trial: who is at it
WAIT_SECONDS = 0.5  # between two looks at trials that others are at

Objective = Callable[[optuna.Trial, dict[str, Any]], float]


class TrialFailed(Exception):
    """The parameters of a trial are no good; the text says why. It counts, and the search goes on."""


class _Duplicate(Exception):
    """Another machine was first at the same point."""


def planned_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The trials of a study in the order in which they began, without those that were put there by something else."""
    return [trial for trial in study.get_trials(deepcopy=False) if POINT in trial.user_attrs]


def points_over(study: optuna.Study, points: int) -> set[int]:
    """Which of the first points of the plan are over."""
    return {trial.user_attrs[POINT] for trial in planned_trials(study) if is_over(trial)} & set(range(points))


class PointSampler(BaseSampler):
    """Draws from (seed, point, key), never from a generator with a history.

    So processes that share a study do not draw alike, and one that is started again does not repeat itself. TPE looks at the
    results so far besides (Bergstra et al. 2011); random and grid search are compared in Bergstra and Bengio (2012).
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
    """The rule by which bad trials are stopped.

    ``median``: worse than the median of the others at the same step; ``asha``: not among the best quarter of those that have
    come as far, asked at steps 1, 4, 16, ... (Li et al. 2020).
    """
    kinds = {
        "none": optuna.pruners.NopPruner,
        "median": optuna.pruners.MedianPruner,
        "asha": optuna.pruners.SuccessiveHalvingPruner,
    }
    return kinds[name]()


class Worker:
    """One process at a study.

    Args:
        study: which others may share.
        place: where it lies, for the locks by which workers of one machine know of each other.
        search: what is searched.
        points: how many points of the plan are to be tried, by all workers together.
    """

    def __init__(self, study: optuna.Study, place: Place, search: Search, points: int) -> None:
        self.study, self.search, self.points = study, search, points
        self.name, self.in_database = uuid.uuid4().hex, bool(place.storage)
        self.locks = place.folder / "workers"
        self.locks.mkdir(parents=True, exist_ok=True)
        # held from looking at the study until a trial has its worker's name on it
        self.claim = FileLock(self.locks / ".claim.lock")
        study.sampler = PointSampler(search)

    def work(self, objective: Objective, after_trial: Callable[[], None] = lambda: None) -> None:
        """Try points until all are over; wait for those that others are at, in case they are lost.

        Args:
            objective: what a trial and its values (key -> value) are worth. Raises ``TrialFailed`` for parameters that are no
                good and ``optuna.TrialPruned`` for a trial that was stopped early; anything else ends the work, and the
                point is tried again by whoever goes on.
        """
        with self._alive():
            while len(points_over(self.study, self.points)) < self.points:
                try:
                    with self.claim:
                        self._give_up_lost()
                        if found := self._waiting() or self._enqueue_next():
                            self._try_one(objective)
                except UpdateFinishedTrialError:
                    continue  # the trial was taken for lost, and is somebody else's now
                if found:
                    after_trial()
                else:
                    time.sleep(WAIT_SECONDS)

    def _waiting(self) -> bool:
        return any(trial.state is TrialState.WAITING for trial in planned_trials(self.study))

    def _enqueue_next(self) -> bool:
        """Put the first point that nobody is at into the study, with the parameters it had if it was lost."""
        trials = planned_trials(self.study)
        taken = {trial.user_attrs[POINT] for trial in trials if is_over(trial) or not trial.state.is_finished()}
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
            if self._another_is_at_it(trial):
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
            # Optuna's for the result of a trial that somebody has taken for lost meanwhile; its point is tried again
            if "Cannot tell a FAIL trial" not in str(error):
                raise

    def _optimize(self, attempt: Callable[[optuna.Trial], float]) -> None:
        try:
            self.study.optimize(attempt, n_trials=1, catch=(TrialFailed, _Duplicate))
        except AssertionError as error:
            hidden = error.__context__
            if hidden is None or str(error) != "Should not reach.":
                raise
            raise hidden from hidden.__cause__  # Optuna asserts while an error of its storage is on its way

    def _another_is_at_it(self, own: optuna.Trial) -> bool:
        """Whether the same point has an earlier trial, as happens when two machines look at a database at once."""
        return any(
            trial.number < own.number
            and trial.user_attrs[POINT] == own.user_attrs[POINT]
            and (is_over(trial) or not trial.state.is_finished())
            for trial in planned_trials(self.study)
        )

    # ------------------------------------------------------------------ who is alive

    @contextmanager
    def _alive(self) -> Iterator[None]:
        """Hold a lock that the system gives back when this process ends, however it ends."""
        path = self.locks / f"{self.name}.lock"
        with FileLock(path):
            try:
                yield
            finally:
                path.unlink(missing_ok=True)

    def _give_up_lost(self) -> None:
        """Mark the trials of killed workers as failed, so that their points are free again; the claim must be held."""
        if self.in_database:
            optuna.storages.fail_stale_trials(self.study)
        for trial in planned_trials(self.study):
            if trial.state is TrialState.RUNNING and self._is_lost(trial):
                with suppress(ValueError, UpdateFinishedTrialError):  # another machine was faster
                    self.study.tell(trial.number, state=TrialState.FAIL)

    def _is_lost(self, trial: FrozenTrial) -> bool:
        worker = trial.user_attrs.get(WORKER)
        if self.in_database:
            # signs of life are Optuna's to judge, but it knows of none before the first
            silence = datetime.now() - trial.datetime_start
            return worker is None and silence > timedelta(seconds=studies.SILENCE_SECONDS)
        # whoever takes a trial holds the claim until it has a name on it
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
