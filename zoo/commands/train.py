"""``zoo train`` and ``zoo test``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.commands.classes import print_classes, write_classes
from zoo.commands.shell import (
    Checkpoint,
    Json,
    RunOrFile,
    Set,
    SetData,
    checkpoint_file,
    metrics_line,
    open_registry,
    print_json,
    zoo_command,
)
from zoo.core.errors import UserError
from zoo.core.files import require_writable
from zoo.core.ranks import rank_zero_print
from zoo.registry.registry import Registry

if TYPE_CHECKING:
    from zoo.config.recipe import Run


DataName = Annotated[str, typer.Option(metavar="NAME", help="Data set; the default is the model's own and needs no download.")]
Epochs = Annotated[str | None, typer.Option(metavar="N", help="Number of training epochs.")]
Devices = Annotated[str | None, typer.Option(metavar="N", help="Number of devices, or auto.")]
Nodes = Annotated[str | None, typer.Option(metavar="N", help="Number of machines.")]
Strategy = Annotated[str | None, typer.Option(metavar="NAME", help="Lightning strategy: ddp, fsdp, ...")]
Accelerator = Annotated[str | None, typer.Option(metavar="NAME", help="Lightning accelerator: cpu, gpu, mps, ...")]
Precision = Annotated[str | None, typer.Option(metavar="P", help="Floating-point precision: 32, bf16, 16 or 64.")]
NewName = Annotated[str | None, typer.Option("--name", metavar="NAME", help="Name of the run, a folder under runs/.")]
Config = Annotated[str | None, typer.Option(metavar="FILE", help="YAML file of settings, such as the run.yaml of a run.")]
Wandb = Annotated[str | None, typer.Option(metavar="MODE", help="Weights & Biases: online or offline.")]


def flag_sections(
    data: str = "",
    epochs: str | None = None,
    precision: str | None = None,
    freeze: str | None = None,
    devices: str | None = None,
    nodes: str | None = None,
    strategy: str | None = None,
    accelerator: str | None = None,
    wandb: str | None = None,
) -> dict[str, dict[str, Any]]:
    """The given flags as settings of a Run: section -> key -> value."""
    return without_empty(
        {
            "data": {"name": data or None},
            "recipe": {"epochs": epochs, "precision": precision, "freeze": freeze},
            "trainer": {"devices": devices, "num_nodes": nodes, "strategy": strategy, "accelerator": accelerator},
            "wandb": {"mode": wandb},
        }
    )


def without_empty(sections: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Drop flags that were not given."""
    given = {name: {key: value for key, value in section.items() if value is not None} for name, section in sections.items()}
    return {name: section for name, section in given.items() if section}


def train(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="MODEL", help="Model, such as resnet20; omit it with --resume or --config.")
    ] = "",
    data: DataName = "",
    epochs: Epochs = None,
    devices: Devices = None,
    nodes: Nodes = None,
    strategy: Strategy = None,
    accelerator: Accelerator = None,
    precision: Precision = None,
    run_name: NewName = None,
    config: Config = None,
    settings: Set = [],  # noqa: B006
    wandb: Wandb = None,
    resume: Annotated[str | None, typer.Option(metavar="RUN", help="Resume a run exactly where it was saved.")] = None,
    json: Json = False,
) -> None:
    """Train a model, keep the best checkpoint, and test it.

    [bold]zoo train resnet20[/bold]   on the built-in digits, in under a minute\n
    [bold]zoo train resnet20 --data folder --set data.root=photos[/bold]   on your own images, one folder per class\n
    [bold]zoo train mlp --epochs 5 --set model.hidden_sizes=[256,128] --set recipe.lr=3e-4[/bold]\n
    [bold]zoo train --resume resnet20-digits[/bold]   after an interruption
    """
    registry = open_registry(context)
    # names first: they are answered before anything heavier is imported
    if name:
        registry.model(name)
    if data:
        registry.data_set(data)
    from zoo.config.recipe import differences, parse_setting, read_config, resolve

    flags = flag_sections(data, epochs, precision, None, devices, nodes, strategy, accelerator, wandb)
    layers = [*map(parse_setting, settings), flags]
    folder = None
    if resume is None:
        run = resolve(registry, name or None, read_config(config) if config else {}, layers)
    else:
        from zoo.training.run_folder import RunFolder

        if config or run_name:
            raise UserError(f"--resume continues a run as it is: omit {'--config' if config else '--name'}")
        folder = RunFolder.find(resume)
        former = folder.read_run()
        run = resolve(registry, name or None, former.model_dump(mode="json"), layers)
        changed = [text for text in differences(former, run) if not text.startswith(CHANGEABLE_ON_RESUME)]
        if changed:
            instead = f"zoo train --config {shlex.quote(str(folder.run_file))} --set {changed[0].partition(' ')[0]} --name NEW"
            raise UserError(f"--resume continues a run as it is, but {changed[0]}: to start a new run, {instead}")
    train_and_print(registry, run, run_name, folder, json, zoo_command(context))


# where a run computes and where it is tracked, not what it computes
CHANGEABLE_ON_RESUME = ("trainer.accelerator=", "trainer.strategy=", "wandb.")


def train_and_print(
    registry: Registry, run: Run, run_name: str | None, resume: Any, json: bool, again: str, **watching: Any
) -> None:
    """Train, print the results and suggest the next command; ``again`` is ``zoo`` with the plugins that were given."""
    from zoo.training import engine
    from zoo.training.checkpoints import Interrupted

    try:
        outcome = engine.train(registry, run, run_name, resume, **watching)
    except Interrupted as stopped:
        state = "and saved. To continue" if stopped.is_saved else "before the first checkpoint. To start again"
        rank_zero_print(f"interrupted, {state}: {again} train --resume {stopped}")
        sys.exit(130)
    if not outcome.is_rank_zero:
        return
    if json:
        print_json({"run": str(outcome.folder.path), **outcome.test})
        return
    name = outcome.folder.name
    if outcome.was_finished:
        print(f"{name} was already finished: nothing left to train")
    print(f"{run.network} on {run.data['name']}: {metrics_line(outcome.test)}")
    print(f"{outcome.folder.path}/   run.yaml  metrics.jsonl  checkpoints/best.ckpt  checkpoints/last.ckpt")
    for finding in outcome.findings:
        print(finding)
    commands = dict.fromkeys((outcome.task.use_command, "test {run}", outcome.task.review_command))
    print("next: " + "    ".join(f"{again} {command.format(run=name)}" for command in commands))


def test(
    context: typer.Context,
    run: RunOrFile,
    data: Annotated[str, typer.Option(help="Evaluate on another data set with the same classes.")] = "",
    devices: Annotated[str | None, typer.Option(metavar="N", help="Number of devices; the metrics do not depend on it.")] = None,
    accelerator: Annotated[str | None, typer.Option(metavar="NAME", help="Lightning accelerator: cpu, gpu, mps, ...")] = None,
    settings: SetData = [],  # noqa: B006
    csv: Annotated[str, typer.Option(metavar="FILE", help="Write precision, recall and F1 of every class to this file.")] = "",
    checkpoint: Checkpoint = "best",
    json: Json = False,
) -> None:
    """Evaluate a trained model on the test split; for classifiers, with per-class metrics and a confusion matrix.

    [bold]zoo test resnet20-digits[/bold]\n
    [bold]zoo test resnet20-digits --json[/bold]   metrics, classes and confusion matrix as one object\n
    [bold]zoo test resnet20-digits --csv classes.csv[/bold]   per-class metrics as a file\n
    [bold]zoo test flowers.safetensors --data folder --set data.root=more[/bold]   an exported file on other images
    """
    from zoo.config.recipe import parse_setting, resolve_test

    flags = without_empty({"trainer": {"devices": devices, "accelerator": accelerator}})
    layers = [*(parse_setting(text, ("data", "trainer")) for text in settings), flags]
    registry = open_registry(context)
    file, former = checkpoint_file(run, checkpoint)
    data_section, trainer_settings = resolve_test(registry, former, data or None, layers)
    model = registry.model(former.model["name"])
    if csv:
        if model.task != "classification":
            raise UserError(f"--csv {csv}: per-class metrics are for classifiers, and {model.name} is for {model.task}")
        require_writable("--csv", Path(csv))
    from zoo.training import engine

    tested = engine.test(registry, file, data_section, trainer_settings)
    if not tested.is_rank_zero:
        return
    if csv:
        write_classes(tested.details, Path(csv))
    if json:
        print_json({**tested.metrics, **tested.details})
        return
    print(f"{former.network} on {data_section['name']}: {metrics_line(tested.metrics)}")
    if "confusion" in tested.details:
        counted = "points" if "points" in registry.data_set(data_section["name"]).tags else "images"
        again, name = zoo_command(context), shlex.quote(run)
        print_classes(tested.details, counted, f"{again} test {name} --csv FILE")
        look = "regions" if counted == "points" else "mistakes"
        print(f"\nnext: {again} picture confusion {name}    {again} picture calibration {name}    {again} picture {look} {name}")
