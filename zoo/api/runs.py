"""The runs of a folder: which there are, and in which settings they differ."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from zoo.core.errors import UserError, did_you_mean, unknown
from zoo.registry.listing import matches
from zoo.training.run_folder import RUN_FILES, RunFolder, runs_folder
from zoo.training.run_summary import STATES, RunSummary, summarize

__all__ = ["RunSummary", "list_runs"]

SORTS = ("updated", "name", "metric", "duration")
NO_SETTINGS = ("model.name", "data.name", "trainer.logger", "trainer.accelerator", "trainer.timeout_minutes")


def list_runs(
    pattern: str = "",
    *,
    state: str = "",
    where: dict[str, Any] | None = None,
    sort: str = "updated",
    runs: str | Path | None = None,
) -> list[RunSummary]:
    """List the runs of a folder.

    Args:
        pattern: part of a run's, a model's or a data set's name, or a glob such as ``mlp-*``; empty for all.
        state: running, finished, resumable, non-finite or broken; empty for all.
        where: settings that they must have, as in ``{"recipe.lr": 0.1}``.
        sort: ``updated`` or ``duration``, the latest or longest first, ``name``, or ``metric``, the best first.
        runs: folder; by default ``ZOO_RUNS``, or ``runs``.

    Raises:
        UserError: an unknown state, order or setting.
    """
    if state and state not in STATES:
        raise unknown("state", state, STATES)
    if sort not in SORTS:
        raise unknown("order", sort, SORTS)
    folders = [RunFolder(path) for path in _run_paths(Path(runs) if runs else runs_folder())]
    found = [
        run
        for run in map(summarize, folders)
        if state in ("", run.state) and matches(pattern, run.path.name, run.model, run.data)
    ]
    found = _with_settings(found, where or {})
    varied = _varied(found)
    return sorted((replace(run, varied=varied[run.path]) for run in found), key=_order(sort))


def _run_paths(folder: Path) -> list[Path]:
    proofs = {path.parent for proof in RUN_FILES for path in folder.glob(f"*/{proof}")}
    return sorted(proofs)


def _with_settings(runs: list[RunSummary], where: dict[str, Any]) -> list[RunSummary]:
    known = {key for run in runs for key in run.settings}
    for key in where:
        if runs and key not in known:
            raise UserError(f"--where {key}: no run has that setting{did_you_mean(key, known)}")
    return [run for run in runs if all(_same(run.settings.get(key), value) for key, value in where.items())]


def _same(own: Any, wanted: Any) -> bool:
    return bool(own == wanted) or str(own) == str(wanted)


def _varied(runs: Iterable[RunSummary]) -> dict[Path, dict[str, Any]]:
    """The settings of each run that differ from another one's of the same model and data."""
    alike: dict[tuple[str, str], list[RunSummary]] = defaultdict(list)
    for run in runs:
        alike[run.model, run.data].append(run)
    varied = {}
    for group in alike.values():
        keys = list(dict.fromkeys(key for run in group for key in run.settings if key not in NO_SETTINGS))
        differing = [key for key in keys if len({json.dumps(run.settings.get(key), default=str) for run in group}) > 1]
        for run in group:
            varied[run.path] = {key: run.settings[key] for key in differing if key in run.settings}
    return varied


def _order(sort: str) -> Callable[[RunSummary], Any]:
    def best(run: RunSummary) -> float:
        value = math.inf if run.best is None else run.best
        return -value if run.goal == "max" and run.best is not None else value

    return {
        "updated": lambda run: -(run.updated or run.started or 0.0),
        "name": lambda run: run.path.name,
        "metric": lambda run: (run.metric, best(run)),
        "duration": lambda run: -(run.seconds or 0.0),
    }[sort]
