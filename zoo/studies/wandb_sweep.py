"""Sweeps of Weights & Biases: a search as a file for ``wandb sweep``, whose agents run ``zoo train``, and the other way."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from zoo.config.resolution import resolve
from zoo.config.run import SECTIONS
from zoo.config.settings import read_yaml
from zoo.core.errors import UserError, unknown
from zoo.core.files import write_output
from zoo.registry.registry import Registry
from zoo.studies.plan import Budget, Search
from zoo.studies.space import Dimension
from zoo.training.tracking.wandb_server import PROJECT

METHODS = {"random": "random", "grid": "grid", "tpe": "bayes"}
QUARTER = 4  # the factor of successive halving, as Optuna's default
DISTRIBUTIONS = {  # of W&B -> kind of range
    "uniform": "uniform",
    "int_uniform": "uniform",
    "log_uniform_values": "log",
    "q_log_uniform_values": "log",
    "log_uniform": "log",
}
ENDINGS = (".yaml", ".yml")


def write_sweep(path: Path, registry: Registry, search: Search, budget: Budget, name: str) -> None:
    """Write the sweep configuration; its keys are those of https://docs.wandb.ai/models/sweeps/sweep-config-keys.

    Args:
        name: of the sweep.

    Raises:
        UserError: a sweep cannot express the search, or the file cannot be written or is there with another content.
    """
    content = yaml.safe_dump({"name": name, **sweep(registry, search, budget)}, sort_keys=False).encode()
    if path.is_file() and path.read_bytes() != content:
        raise UserError(f"--wandb-sweep {path}: exists and holds something else: name a new file, or remove it")
    write_output(path, content)


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
        "project": search.base["wandb"]["project"] or PROJECT,
        **({"entity": entity} if (entity := search.base["wandb"]["entity"]) else {}),
        "program": "zoo",
        "method": METHODS[search.sampler],
        "metric": {"name": f"val/{search.metric}", "goal": {"max": "maximize", "min": "minimize"}[search.direction]},
        "run_cap": budget.points,
        "parameters": _parameters(search),
        **early,
        "command": [*_command(registry, search, budget), "${args}"],
    }


def _parameters(search: Search) -> dict[str, Any]:
    """Nested as the configuration is, in which W&B puts what it samples."""
    tree: dict[str, Any] = {}
    for dimension in search.space:
        level, (*outer, last) = tree, dimension.key.split(".", 2)
        for part in outer:
            level = level.setdefault(part, {"parameters": {}})["parameters"]
        level[last] = _parameter(dimension, search.sampler == "grid")
    return tree


def _parameter(dimension: Dimension, as_grid: bool) -> dict[str, Any]:
    if as_grid or dimension.kind == "choice":
        return {"values": [dimension.value(parameter) for parameter in dimension.grid()]}
    distributions = {"log": ("q_log_uniform_values", "log_uniform_values"), "uniform": ("int_uniform", "uniform")}
    distribution = distributions[dimension.kind][0 if dimension.is_integer else 1]
    return {"distribution": distribution, "min": dimension.low, "max": dimension.high}


def _command(registry: Registry, search: Search, budget: Budget) -> list[str]:
    """The ``zoo train`` command with all settings of the search that are not defaults."""
    model, data = search.base["model"]["name"], search.base["data"]["name"]
    default = resolve(registry, model, {}, [{"data": {"name": data}}]).model_dump(mode="json")
    elsewhere = {*(dimension.key for dimension in search.space), "wandb.mode"}
    settings = [
        f"{section}.{key}={value if isinstance(value, str) else json.dumps(value)}"
        for section in SECTIONS
        for key, value in search.base[section].items()
        if value != default[section].get(key) and f"{section}.{key}" not in elsewhere
    ]
    plugins = [word for file in budget.plugins for word in ("--plugin", str(Path(file).resolve()))]
    fixed = [word for setting in settings for word in ("--set", setting)]
    return ["zoo", *plugins, "train", model, "--data", data, *fixed, "--wandb", "online", "--no-test"]


def read_sweep(path: str) -> tuple[list[str], dict[str, Any]]:
    """The ranges of a sweep configuration, as ``--over`` takes them, and its constants by dotted key.

    Raises:
        UserError: it cannot be read, or has a distribution that a search lacks.
    """
    content = read_yaml(path, "--over")
    parameters = content.get("parameters") if isinstance(content, dict) else None
    if not isinstance(parameters, dict) or not parameters:
        raise UserError(f"--over {path}: is no sweep configuration of W&B: it has no parameters")
    ranges, constants = [], {}
    for key, parameter in _flat(path, parameters):
        if "value" in parameter:
            constants[key] = parameter["value"]
        else:
            ranges.append(f"{key}={_range(path, key, parameter)}")
    return ranges, constants


def _flat(path: str, parameters: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    for key, parameter in parameters.items():
        if not isinstance(parameter, dict):
            raise UserError(f"--over {path}: {prefix}{key}: give it values, or a distribution with min and max")
        if isinstance(inner := parameter.get("parameters"), dict):
            yield from _flat(path, inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", parameter


def _range(path: str, key: str, parameter: dict[str, Any]) -> str:
    if "probabilities" in parameter:
        raise UserError(f"--over {path}: {key}: a search draws all values alike: omit probabilities")
    if isinstance(values := parameter.get("values"), list) and values:
        return "choice:" + ",".join(map(json.dumps, values))
    kind = parameter.get("distribution", "uniform")
    if kind not in DISTRIBUTIONS:
        raise unknown(f"distribution for a search ({key} in {path})", str(kind), DISTRIBUTIONS)
    ends = [parameter.get("min"), parameter.get("max")]
    if not all(type(end) in (int, float) for end in ends):
        raise UserError(f"--over {path}: {key}: give it values, or a distribution with min and max")
    low, high = map(math.exp, ends) if kind == "log_uniform" else ends
    return f"{DISTRIBUTIONS[kind]}:{low!r}..{high!r}"
