"""Weights & Biases sweeps: a search as a file for ``wandb sweep``, whose agents run ``zoo train``."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import yaml

from zoo.config.resolution import resolve
from zoo.config.run import SECTIONS
from zoo.core.errors import UserError
from zoo.core.files import write_output
from zoo.registry.registry import Registry
from zoo.studies.plan import Budget, Search
from zoo.studies.space import Dimension

METHODS = {"random": "random", "grid": "grid", "tpe": "bayes"}
QUARTER = 4  # the factor of successive halving, as Optuna's default


def write_sweep(path: Path, registry: Registry, search: Search, budget: Budget) -> None:
    """Write the sweep configuration; its keys are those of https://docs.wandb.ai/models/sweeps/sweep-config-keys.

    Raises:
        UserError: a sweep cannot express the search, or the file cannot be written.
    """
    write_output(path, yaml.safe_dump(sweep(registry, search, budget), sort_keys=False).encode())


def sweep(registry: Registry, search: Search, budget: Budget) -> dict[str, Any]:
    """The sweep configuration as plain data.

    Raises:
        UserError: folds, or a pruner that W&B lacks.
    """
    if search.folds > 1:
        raise UserError("--wandb-sweep: a run of a sweep is a single training: omit --folds")
    if budget.pruner == "median":
        raise UserError("--wandb-sweep: W&B stops runs early by hyperband only: use --pruner asha or none")
    early = {"early_terminate": {"type": "hyperband", "min_iter": 1, "eta": QUARTER}} if budget.pruner == "asha" else {}
    return {
        "program": "zoo",
        "method": METHODS[search.sampler],
        "metric": {"name": f"val/{search.metric}", "goal": {"max": "maximize", "min": "minimize"}[search.direction]},
        "run_cap": budget.points,
        "parameters": {dimension.key: _parameter(dimension, search.sampler == "grid") for dimension in search.space},
        **early,
        # an agent writes each parameter as key=value; bash puts --set= before it
        "command": [
            "${env}", "bash", "-c", f'exec {_command(registry, search, budget)} "${{@/#/--set=}}"', "zoo", "${args_no_hyphens}",
        ],
    }  # fmt: skip


def _parameter(dimension: Dimension, as_grid: bool) -> dict[str, Any]:
    if as_grid or dimension.kind == "choice":
        return {"values": [_plain(dimension, value) for value in dimension.grid()]}
    distributions = {"log": ("q_log_uniform_values", "log_uniform_values"), "uniform": ("int_uniform", "uniform")}
    distribution = distributions[dimension.kind][0 if dimension.is_integer else 1]
    return {"distribution": distribution, "min": dimension.low, "max": dimension.high}


def _plain(dimension: Dimension, parameter: Any) -> Any:
    """A number, a flag or a string; a list stays YAML text, which W&B would not write."""
    value = dimension.value(parameter)
    return value if isinstance(value, (bool, int, float, str)) else parameter


def _command(registry: Registry, search: Search, budget: Budget) -> str:
    """The ``zoo train`` command with all settings of the search that are not defaults."""
    model, data = search.base["model"]["name"], search.base["data"]["name"]
    default = resolve(registry, model, {}, [{"data": {"name": data}}]).model_dump(mode="json")
    searched = {dimension.key for dimension in search.space}
    settings = [
        f"{section}.{key}={value if isinstance(value, str) else json.dumps(value)}"
        for section in SECTIONS
        for key, value in search.base[section].items()
        if value != default[section].get(key) and f"{section}.{key}" not in {*searched, "wandb.mode"}
    ]
    plugins = [word for file in budget.plugins for word in ("--plugin", str(Path(file).resolve()))]
    fixed = [word for setting in settings for word in ("--set", setting)]
    return shlex.join(["zoo", *plugins, "train", model, "--data", data, "--wandb", "online", *fixed])
