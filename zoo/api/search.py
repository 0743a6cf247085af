"""Hyperparameter search with one call."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.api.trained import Settings, TrainedRun
from zoo.core.errors import Interrupted, UserError
from zoo.registry.registry import current_registry

if TYPE_CHECKING:
    import optuna

    from zoo.studies.plan import Budget, Search
    from zoo.studies.study import StudyLocation

Ranges = Mapping[str, str | Sequence[object]] | Sequence[str] | Path


@dataclass(frozen=True, repr=False)
class SearchResult:
    """Result of a search.

    Attributes:
        plan: what was searched, with the ``metric`` and its ``direction``.
        study: of Optuna, with all trials.
        location: its folder, with the runs of the trials.
    """

    plan: Search
    study: optuna.Study
    location: StudyLocation

    def __repr__(self) -> str:
        return f"<search {self.location.name}: {len(self.study.trials)} trials by val/{self.plan.metric}>"

    @property
    def is_over(self) -> bool:
        """Whether there are trials, and all of them have ended."""
        return bool(self.study.trials) and all(trial.state.is_finished() for trial in self.study.trials)

    @property
    def trials(self) -> list[dict[str, object]]:
        """All trials, best first: ``trial``, ``state``, the metric by its name, ``parameters``, ``seconds``."""
        from zoo.studies.report import records

        return records(self.study, self.plan)

    @property
    def best(self) -> dict[str, object]:
        """The settings of the best trial, as in ``{"recipe.lr": 0.02}``.

        Raises:
            UserError: no trial is complete.
        """
        from zoo.studies.study import best_trial

        self.require_a_result()
        found = best_trial(self.study)
        return self.plan.values(found.params) if found else {}

    def train(self, **options: object) -> TrainedRun:
        """Train with the best settings, and test; ``options`` are those of ``zoo.train``, such as ``name``."""
        from zoo.api.training import train
        from zoo.studies.report import write_best

        self.require_a_result()
        config = write_best(self.study, self.location, self.plan, current_registry())
        return train(config=config or "", **options)

    def require_a_result(self) -> None:
        """Check that a trial has succeeded.

        Raises:
            UserError: all have failed.
        """
        if not any(trial.value is not None for trial in self.study.trials):
            raise UserError(
                f"all trials of study {self.location.name!r} failed, for the reasons in the table; "
                "to try another range, --name NEW"
            )


def search(
    model: str,
    over: Ranges,
    data: str | Path = "",
    *,
    epochs: int | None = None,
    trials: int | None = None,
    sampler: str = "random",
    pruner: str = "none",
    metric: str = "",
    folds: int = 1,
    workers: int = 1,
    seed: int = 0,
    settings: Settings = (),
    name: str | None = None,
    storage: str = "",
) -> SearchResult:
    """Search hyperparameters by a validation metric. The same call again continues the study.

    Args:
        model: as ``list_models`` shows it.
        over: key -> a list of values, or a range: ``log:LOW..HIGH``, ``uniform:LOW..HIGH`` or ``choice:A,B``; for a grid,
            ``LOW..HIGH:POINTS``. Or the file of a W&B sweep configuration, of which it takes the ranges.
        data: as ``list_data`` shows it, or a folder or table of images; by default the model's own.
        epochs: of each trial.
        trials: their number; by default 20, or the whole grid.
        sampler: ``random``, ``grid`` or ``tpe``.
        pruner: early stopping of bad trials: ``none``, ``median`` or ``asha``.
        metric: of validation, such as ``loss``; by default the model's own.
        folds: of cross-validation of each trial.
        workers: processes, each with a GPU of its own if there are several.
        seed: of the sampler; training has its own, ``recipe.seed``.
        settings: of all trials, as in ``train``.
        name: of the study; by default made from model and data.
        storage: URL of a database to share the study between machines.

    Raises:
        UserError: an unknown name or key, a range that cannot be read, or a study of another search.
        Interrupted: by Ctrl-C; finished trials are kept.

    Examples:
        >>> found = zoo.search("mlp", {"recipe.lr": "log:1e-4..1e-1"}, trials=10, epochs=2)
        >>> run = found.train(name="best")
    """
    from zoo.api.training import require_name

    plan, budget = plan_search(
        model, over, data, epochs=epochs, settings=settings, sampler=sampler, pruner=pruner, metric=metric, folds=folds,
        seed=seed, workers=workers, trials=trials,
    )  # fmt: skip
    return run_plan(plan, budget, f"{model}-{plan.base['data']['name']}" if name is None else require_name(name), storage)


def plan_search(
    model: str,
    over: Ranges,
    data: str | Path,
    *,
    epochs: Any,
    settings: Settings,
    sampler: str,
    pruner: str,
    metric: str,
    folds: int,
    seed: int,
    workers: int,
    trials: int | None,
    plugins: Sequence[str] = (),
) -> tuple[Search, Budget]:
    """Resolve a search and its budget; ``plugins`` are the files that its processes read."""
    from zoo.api.training import flag_sections
    from zoo.config.settings import parse_settings
    from zoo.studies import plan

    registry = current_registry()
    if over is None or over == {}:
        raise UserError("name what to search over, as in {'recipe.lr': 'log:1e-4..1e-1'}")
    if isinstance(over, (str, Path)):
        over = [str(over)]
    given = [f"{key}={_range(values)}" for key, values in over.items()] if isinstance(over, Mapping) else list(over)
    texts, constants = _with_sweeps(given)
    layers = [*parse_settings(settings), *parse_settings(constants), flag_sections(data, epochs)]
    planned = plan.plan_search(registry, model, layers, texts, sampler, metric, folds, seed)
    return planned, plan.plan_budget(planned, trials, pruner, workers, list(plugins or registry.plugin_files))


def _with_sweeps(given: list[str]) -> tuple[list[str], dict[str, Any]]:
    """The ranges that were given, with those of a sweep configuration in the place of its file, and its constants."""
    from zoo.studies.wandb_sweep import ENDINGS, read_sweep

    texts: list[str] = []
    constants: dict[str, Any] = {}
    for text in given:
        if "=" in text or not text.endswith(ENDINGS):
            texts.append(text)
            continue
        ranges, fixed = read_sweep(text)
        texts += ranges
        constants |= fixed
    return texts, constants


def _range(values: Any) -> str:
    """A range as text; several values are choices."""
    if isinstance(values, str):
        return values
    several = values.tolist() if hasattr(values, "tolist") else list(values)
    return "choice:" + ",".join(json.dumps(value) for value in several)


def run_plan(plan: Search, budget: Budget, name: str, storage: str = "") -> SearchResult:
    """Run the trials of a search that are not finished yet."""
    from zoo.studies.points import finished_points
    from zoo.studies.study import StudyLocation, open_or_create
    from zoo.studies.workers import check_data_and_model, run_search

    registry, location = current_registry(), StudyLocation(name, storage)
    check_data_and_model(registry, plan)
    study = open_or_create(location, plan)
    if done := len(finished_points(study, budget.points)):
        print(f"continuing study {location.name}: {done} of {budget.points} trials are finished", file=sys.stderr)
    try:
        run_search(registry, study, location, plan, budget)
    except Interrupted:
        raise Interrupted(f"interrupted; {len(finished_points(study, budget.points))} finished trials are kept") from None
    return SearchResult(plan, study, location)
