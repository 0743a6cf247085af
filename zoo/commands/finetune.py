"""``zoo finetune``: transfer a pretrained network to new data."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from zoo.api import training as api
from zoo.commands.shell import Json, Set, echo, open_registry, print_json, print_table
from zoo.commands.train import (
    Accelerator,
    BatchSize,
    Config,
    DataName,
    Devices,
    Epochs,
    LearningRate,
    LoggerNames,
    NewName,
    Nodes,
    NoTest,
    Optimizer,
    Precision,
    RunsDir,
    Strategy,
    Wandb,
    print_trained,
    recipe_settings,
)
from zoo.registry.registry import Registry

if TYPE_CHECKING:
    from zoo.config.run import Run


Weights = Annotated[str, typer.Option(metavar="FILE", help="Load weights from a safetensors or .pth file, or wandb:NAME:ALIAS.")]
Freeze = Annotated[
    str | None,
    typer.Option(metavar="PLAN", help="Layers to freeze: none (default), backbone, until:STAGE, epochs:N or epochs:N+M."),
]


def finetune(
    context: typer.Context,
    backbone: Annotated[
        str,
        typer.Argument(
            metavar="BACKBONE",
            help="torchvision:NAME, timm:NAME, a model with published weights, a trained model (zoo list --trained), a run, an "
            "exported file, or wandb:NAME:ALIAS.",
        ),
    ],
    data: DataName = "",
    weights: Weights = "",
    keep_head: Annotated[
        bool, typer.Option("--keep-head", help="Keep the pretrained head; the data must have the same classes.")
    ] = False,
    freeze: Freeze = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    optimizer: Optimizer = None,
    lr: LearningRate = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only show the epoch in which each stage is unfrozen, and its learning rate.")
    ] = False,
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
    json: Json = False,
) -> None:
    """Fine-tune a pretrained network: keep its weights and replace its head.

    [bold]zoo finetune efficientnet-lite0 --data photos/ --freeze backbone[/bold]   train only the head\n
    [bold]zoo finetune efficientnet-lite0 --data photos/[/bold]   train all layers, early ones with lower learning rates\n
    [bold]zoo finetune torchvision:resnet50 --data photos/ --freeze epochs:3+1[/bold]   gradual unfreezing\n
    [bold]zoo finetune torchvision:resnet18 --weights mine.pth --freeze until:layer2 --plan[/bold]   print the freezing plan\n
    [bold]zoo finetune resnet20-cifar10 --data photos/[/bold]   from one of your runs

    Pretrained networks: [bold]zoo list --pretrained[/bold]. After an interruption: [bold]zoo train --resume RUN[/bold].
    """
    registry = open_registry(context)
    given = recipe_settings(batch_size=batch_size, optimizer=optimizer, lr=lr, keep_head="true" if keep_head else None)
    settings = [*settings, *given]
    flags = {"devices": devices, "nodes": nodes, "strategy": strategy, "accelerator": accelerator, "wandb": wandb}
    flags |= {"logger": list(logger) or None, "test": False if no_test else None}
    chosen = {"epochs": epochs, "precision": precision, "freeze": freeze, **flags}
    if plan:
        run = api.finetuning_run(backbone, weights, config or "", settings, api.flag_sections(data, **chosen))
        _show_plan(registry, run, shlex.join(["zoo", *(word for word in sys.argv[1:] if word != "--plan")]), json)
        return
    options = {"config": config or "", "settings": settings, "name": run_name, "runs": runs_dir}
    print_trained(context, json, lambda: api.finetune(backbone, data, weights=weights, **chosen, **options))


def resolve_either(
    registry: Registry, name: str, data: str, weights: str, freeze: str | None, settings: list[str]
) -> tuple[Run, list[str]]:
    """The Run of training a model or of fine-tuning a backbone, and the words of the command after ``zoo``, without settings.

    A model is trained from scratch unless weights or a freezing plan are given; any other backbone is fine-tuned.
    """
    from zoo.config.resolution import resolve
    from zoo.config.settings import parse_settings
    from zoo.training.finetuning import resolve_finetuning

    finetunes = bool(weights or freeze) or name not in registry.models
    layers = [*parse_settings(settings), api.flag_sections(data, freeze=freeze)]
    run = resolve_finetuning(registry, name, weights, {}, layers) if finetunes else resolve(registry, name, {}, layers)
    given = {"--weights": weights, "--data": data, "--freeze": freeze}
    flags = [word for flag, value in given.items() if value for word in (flag, value)]
    return run, ["finetune" if finetunes else "train", name, *flags]


def _show_plan(registry: Registry, run: Run, again: str, json: bool) -> None:
    """Build the network, load its weights and show its stages; ``again`` is the command that trains it."""
    from zoo.training.building import build_task, open_data
    from zoo.training.stage_plan import stage_plan
    from zoo.training.weights.loading import load_backbone, open_weights

    task = build_task(registry, run, open_data(registry, run).spec)
    taken = load_backbone(task, open_weights(registry, run))
    stages = stage_plan(task)
    if json:
        print_json(stages)
        return
    numbers = ("parameters", "from epoch", "lr")
    print_table([stage.row() for stage in stages], ("stage", *numbers), numbers)
    total = sum(stage.parameters for stage in stages)
    norms = "keep their statistics" if run.recipe.frozen_norms == "keep" else "update their statistics"
    echo("", taken, f"{total:,} parameters; {run.recipe.epochs} epochs; batch norms in frozen stages {norms}")
    echo(f"next: {again}")
