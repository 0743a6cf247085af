"""Settings on the command line in all the forms that ``wandb agent`` writes, each of which is that of ``--set``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

from zoo.cli import app
from zoo.config.resolution import resolve
from zoo.config.run import Run
from zoo.config.settings import parse_settings
from zoo.registry.registry import scan

SAMPLED: dict[str, dict[str, Any]] = {
    "recipe": {"lr": 1e-05, "precision": 32, "compile": True, "gradient_clip_val": None, "optimizer_args": {"eps": 1e-9}},
    "model": {"hidden_sizes": [64, 32], "norm": "batch"},
    "data": {"augment": "crop:1,cutout:2"},
    "wandb": {"group": "it's a \\ group", "tags": ["a", "b c"]},
}


def settings_of(*words: str) -> list[str]:
    """The settings that the command line of ``zoo train`` holds."""
    command = typer.main.get_command(app)
    train = command.get_command(None, "train")
    return train.make_context("train", ["mlp", *words]).params["settings"]


def resolved(*words: str) -> Run:
    return resolve(scan(()), "mlp", {}, parse_settings(settings_of(*words)))


def flat(form: str) -> list[str]:
    """The arguments that an agent writes in one of its forms, of keys that are not nested."""
    keys = {f"{section}.{key}": value for section, values in SAMPLED.items() for key, value in values.items()}
    keys |= {f"recipe.optimizer_args.{key}": value for key, value in keys.pop("recipe.optimizer_args").items()}
    return create_sweep_command_args({"args": {key: {"value": value} for key, value in keys.items()}})[form]


@pytest.mark.parametrize("form", ["args", "args_no_equals"])
def test_what_an_agent_writes_is_what_it_sampled(form: str) -> None:
    nested = create_sweep_command_args({"args": {key: {"value": value} for key, value in SAMPLED.items()}})["args"]
    as_json = [f"--{section}={json.dumps(values)}" for section, values in SAMPLED.items()]
    for run in (resolved(*flat(form)), resolved(*nested), resolved(*as_json)):
        assert (run.recipe.lr, run.recipe.precision, run.recipe.compile) == (1e-05, "32", True)
        assert run.recipe.gradient_clip_val is None and run.recipe.optimizer_args["eps"] == 1e-9
        assert run.recipe.optimizer_args["betas"] == [0.9, 0.999], "the other arguments stay"
        assert (run.model["hidden_sizes"], run.model["norm"]) == ([64, 32], "batch")
        assert run.data["augment"] == "crop:1,cutout:2"
        assert (run.wandb.group, run.wandb.tags) == ("it's a \\ group", ("a", "b c"))


def test_settings_keep_their_order_and_other_options_their_values() -> None:
    words = ["--set", "recipe.lr=1", "--recipe.lr=2", "--name", "a.b=c", "--recipe.lr", "3", "--set=recipe.lr=4"]
    assert settings_of(*words) == ["recipe.lr=1", "recipe.lr=2", "recipe.lr=3", "recipe.lr=4"]
    assert settings_of("--data", "photos", "--data={'size': 32}") == ["data={'size': 32}"]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--recipe.rl=0.1"], ["no recipe key 'rl'", "'lr'"]),
        (["--recipie.lr=0.1"], ["no section 'recipie'", "'recipe'"]),
        (["--recipe={'rl': 0.1}"], ["no recipe key 'rl'", "'lr'"]),
        (["--recipie={'lr': 0.1}"], ["no section 'recipie'", "'recipe'"]),
        (["--recipe={'lr'"], ["recipe={'lr'"]),
        (["--recipe={1: 2}"], ["recipe={1: 2}", "keys"]),
        (["--recipe={'seed': {1, 2}}"], ["recipe={'seed': {1, 2}}"]),
        (["--recipe.lr"], ["recipe.lr", "section.key=value"]),
        (["--recipe.lr", "--json"], ["recipe.lr", "section.key=value"]),
        (["--recipe.lr=fast"], ["recipe.lr=fast"]),
        (["--recipe={'lr': 'fast'}"], ["recipe.lr=fast"]),
        (["--model={'hidden_sizes': 'many'}"], ["model.hidden_sizes=many"]),
        (["--rate=0.1"], ["--rate"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_a_mistake_is_one_line(zoo, words: list[str], named: list[str]) -> None:
    answer = zoo("train", "mlp", *words)
    assert answer.is_one_line_error(*named), answer
    assert not Path("runs").exists()


def test_a_command_without_settings_takes_none(zoo) -> None:
    assert zoo("list", "--recipe.lr=0.1").is_one_line_error("--recipe.lr")
