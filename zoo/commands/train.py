"""``zoo train`` and ``zoo test``."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from zoo.api import training as api
from zoo.api.trained import TrainedRun, load
from zoo.commands.classes import print_classes, print_targets, write_classes
from zoo.commands.shell import (
    AverageViews,
    Checkpoint,
    Json,
    PublishedWeights,
    RunOrNetwork,
    Set,
    SetData,
    echo,
    echo_parts,
    metric_texts,
    open_registry,
    print_json,
    zoo_command,
)
from zoo.core.errors import Interrupted, UserError
from zoo.core.files import require_writable
from zoo.core.ranks import rank_zero_print

DataName = Annotated[
    str,
    typer.Option(
        metavar="DATA", help="Data set, or a folder or table of images; the default is the model's own and needs no download."
    ),
]
Epochs = Annotated[str | None, typer.Option(metavar="N", help="Number of training epochs.")]
BatchSize = Annotated[str | None, typer.Option(metavar="N", help="Samples per batch and device.")]
Optimizer = Annotated[str | None, typer.Option(metavar="NAME", help="Optimizer: zoo list --optimizers shows all.")]
LearningRate = Annotated[str | None, typer.Option("--lr", metavar="RATE", help="Peak learning rate.")]
Devices = Annotated[str | None, typer.Option(metavar="N", help="Number of devices, or auto.")]
Nodes = Annotated[str | None, typer.Option(metavar="N", help="Number of machines.")]
Strategy = Annotated[str | None, typer.Option(metavar="NAME", help="Lightning strategy: auto or ddp.")]
Accelerator = Annotated[str | None, typer.Option(metavar="NAME", help="Lightning accelerator: cpu, gpu, mps, ...")]
Precision = Annotated[str | None, typer.Option(metavar="P", help="Precision: 32, 64, or bf16 or 16 for mixed precision.")]
NewName = Annotated[str | None, typer.Option("--name", metavar="NAME", help="Name of the run and its folder.")]
RunsDir = Annotated[
    str, typer.Option("--runs-dir", metavar="FOLDER", help="Folder for the run; the default is ZOO_RUNS, or runs.")
]
Config = Annotated[str | None, typer.Option(metavar="FILE", help="YAML file of settings, such as the run.yaml of a run.")]
Wandb = Annotated[str | None, typer.Option(metavar="MODE", help="Weights & Biases: online or offline.")]
LoggerNames = Annotated[
    list[str], typer.Option("--logger", metavar="NAME", help="Another experiment tracker: tensorboard, mlflow, csv; repeatable.")
]

NoTest = Annotated[bool, typer.Option("--no-test", help="Leave the test split for later: zoo test RUN.")]


def train(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="MODEL", help="Model, such as resnet20; omit it with --resume or --config.")
    ] = "",
    data: DataName = "",
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    optimizer: Optimizer = None,
    lr: LearningRate = None,
    weights: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Initial weights: pretrained, a run, a trained model, or a .safetensors or .pth file."),
    ] = None,
    devices: Devices = None,
    nodes: Nodes = None,
    strategy: Strategy = None,
    accelerator: Accelerator = None,
    precision: Precision = None,
    run_name: NewName = None,
    runs_dir: RunsDir = "",
    config: Config = None,
    settings: Set = [],  # noqa: B006
    wandb: Wandb = None,
    logger: LoggerNames = [],  # noqa: B006
    no_test: NoTest = False,
    resume: Annotated[str | None, typer.Option(metavar="RUN", help="Resume a run exactly where it was saved.")] = None,
    checkpoint: Annotated[
        str, typer.Option(metavar="WHICH", help="Checkpoint to resume from: best or last; the default is the latest.")
    ] = "",
    resume_if_exists: Annotated[
        bool, typer.Option("--resume-if-exists", help="Resume the run --name if there is one: for jobs that are started again.")
    ] = False,
    json: Json = False,
) -> None:
    """Train a model, keep the best checkpoint, and test it.

    [bold]zoo train resnet20[/bold]   on the built-in digits, in under a minute\n
    [bold]zoo train resnet20 --data photos/[/bold]   on your own images, one folder per class\n
    [bold]zoo train mlp --epochs 5 --set model.hidden_sizes=[256,128] --set recipe.lr=3e-4[/bold]\n
    [bold]zoo train --resume resnet20-digits[/bold]   after an interruption
    """
    open_registry(context)
    settings = [*settings, *recipe_settings(batch_size=batch_size, optimizer=optimizer, lr=lr, weights=weights)]
    flags = {"devices": devices, "nodes": nodes, "strategy": strategy, "accelerator": accelerator, "wandb": wandb}
    flags |= {"logger": list(logger) or None, "test": False if no_test else None}
    if resume is None:
        if checkpoint:
            raise UserError(f"--checkpoint {checkpoint}: is for --resume RUN")
        options = {"config": config or "", "settings": settings, "name": run_name, "runs": runs_dir}
        options["resume_if_exists"] = resume_if_exists
        print_trained(context, json, lambda: api.train(name, data, epochs=epochs, precision=precision, **flags, **options))
        return
    if config or run_name:
        raise UserError(f"--resume continues a run as it is: omit {'--config' if config else '--name'}")
    from zoo.config.settings import parse_settings
    from zoo.training.run_folder import RunFolder, runs_in

    layers = [*parse_settings(settings), api.flag_sections(data, epochs, precision, **flags)]
    with runs_in(runs_dir):
        folder = RunFolder.find(resume)
    print_trained(context, json, lambda: api.resume(folder, layers, name, checkpoint))


def recipe_settings(**flags: str | None) -> list[str]:
    """Flags named after keys of the recipe, as settings."""
    return [f"recipe.{key}={value}" for key, value in flags.items() if value is not None]


def print_trained(context: typer.Context, json: bool, training: Callable[[], TrainedRun]) -> None:
    """Train, print the results and suggest the next command."""
    again = zoo_command(context)
    try:
        run = training()
    except Interrupted as error:
        state = (
            "interrupted, and saved. To continue" if error.is_saved else "interrupted before the first checkpoint. To start again"
        )
        rank_zero_print(f"{state}: {again} train --resume {error.run}" if error.run else str(error))
        sys.exit(130)
    outcome = run.outcome
    if not outcome.is_rank_zero:
        return
    if json:
        print_json({"run": str(run.path), **outcome.metrics})
        return
    name = outcome.folder.name
    if outcome.was_finished:
        echo(f"{name} was already finished: nothing left to train")
    echo_parts(f"{run.config.network} on {run.config.data_title}:", metric_texts(outcome.metrics))
    echo_parts(f"{run.path}/  ", ("run.yaml", "metrics.jsonl", "checkpoints/best.ckpt", "checkpoints/last.ckpt"))
    for finding in outcome.findings:
        echo(finding)
    commands = dict.fromkeys((outcome.task.use_command, "test {run}", outcome.task.review_command))
    echo_parts("next:", (f"{again} {command.format(run=name)}" for command in commands), gap="    ")


def test(
    context: typer.Context,
    run: RunOrNetwork,
    data: Annotated[str, typer.Option(metavar="DATA", help="Evaluate on another data set with the same classes.")] = "",
    devices: Annotated[str | None, typer.Option(metavar="N", help="Number of devices; the metrics do not depend on it.")] = None,
    accelerator: Annotated[str | None, typer.Option(metavar="NAME", help="Lightning accelerator: cpu, gpu, mps, ...")] = None,
    weights: PublishedWeights = "",
    settings: SetData = [],  # noqa: B006
    csv: Annotated[str, typer.Option(metavar="FILE", help="Write precision, recall and F1 of every class to this file.")] = "",
    checkpoint: Checkpoint = "best",
    tta: AverageViews = False,
    json: Json = False,
) -> None:
    """Evaluate a trained model on the test split; for classifiers, with per-class metrics and a confusion matrix.

    [bold]zoo test resnet20-digits[/bold]\n
    [bold]zoo test resnet20-digits --json[/bold]   metrics, classes and confusion matrix as one object\n
    [bold]zoo test resnet20-digits --csv classes.csv[/bold]   per-class metrics as a file\n
    [bold]zoo test resnet20-digits --tta[/bold]   test-time augmentation\n
    [bold]zoo test flowers.safetensors --data more/[/bold]   an exported file, on other images\n
    [bold]zoo test torchvision:resnet50 --data photos/[/bold]   published weights, on folders named after ImageNet's classes
    """
    registry = open_registry(context)
    of_network = [text for text in settings if text.startswith(("model.", "recipe."))]
    trained = load(run, checkpoint=checkpoint, weights=weights, settings=of_network, tta=tta)
    if csv:
        if not trained.entry.load().with_loop(trained.task).has_class_metrics:
            what = f"{trained.entry.name} is for {trained.task}"
            raise UserError(f"--csv {csv}: per-class metrics are for classifiers, and {what}")
        require_writable("--csv", Path(csv))
    flags = {"devices": devices, "accelerator": accelerator}
    given = [f"trainer.{key}={value}" for key, value in flags.items() if value is not None]
    tested = trained.test(data or None, settings=[*(text for text in settings if text not in of_network), *given])
    if not tested.is_rank_zero:
        return
    if csv:
        write_classes(tested.details, Path(csv))
    if json:
        print_json({**tested, **tested.details})
        return
    from zoo.config.resolution import data_section

    tested_on = data_section(registry, data or trained.config.data["name"])["name"]
    how = f", mean of {tested.details['views']} views" if tta else ""
    echo_parts(f"{trained.config.network} on {tested_on}{how}:", metric_texts(tested))
    if "targets" in tested.details:
        print_targets(tested.details["targets"])
    if "classes" in tested.details:
        again, name = zoo_command(context), shlex.quote(run)
        counted = "points" if "points" in registry.data_set(tested_on).tags else "images"
        print_classes(tested.details, counted, f"{again} test {name} --csv FILE")
        look = "regions" if counted == "points" else "mistakes"
        if trained.is_published or "confusion" not in tested.details:
            return
        pictures = (f"{again} picture confusion {name}", f"{again} picture calibration {name}", f"{again} picture {look} {name}")
        echo("")
        echo_parts("next:", pictures, gap="    ")
