"""Training, fine-tuning and hyperparameter search with one call each."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any

from zoo.api.names import find_model
from zoo.api.trained import Settings, TrainedRun
from zoo.core.errors import UserError
from zoo.registry.registry import current_registry

if TYPE_CHECKING:
    import lightning as L

    from zoo.config.run import Run
    from zoo.training.run_folder import RunFolder

# where a run computes and where it is tracked, not what it computes
CHANGEABLE_ON_RESUME = (
    "recipe.gradient_checkpointing=", "trainer.accelerator=", "trainer.logger=", "trainer.strategy=", "trainer.test=",
    "trainer.timeout_minutes=", "wandb.",
)  # fmt: skip

# processes may change if they read as much at once: then the steps stay where they were, though not to the bit
PARTS_OF_GLOBAL_BATCH = ("trainer.devices=", "trainer.num_nodes=", "recipe.batch_size=")


def train(
    model: str = "",
    data: str | Path = "",
    *,
    epochs: int | None = None,
    devices: int | str | None = None,
    nodes: int | None = None,
    strategy: str | None = None,
    accelerator: str | None = None,
    precision: str | None = None,
    wandb: str | None = None,
    logger: str | Sequence[str] | None = None,
    test: bool | None = None,
    settings: Settings = (),
    config: str | Path = "",
    name: str | None = None,
    resume_if_exists: bool = False,
    runs: str | Path | None = None,
    callbacks: Sequence[L.Callback] = (),
    progress: bool = True,
) -> TrainedRun:
    """Train a model, keep the best checkpoint, and test it.

    Args:
        model: as ``list_models`` shows it; may be omitted if ``config`` names one.
        data: as ``list_data`` shows it, or a folder of images, one folder per class, or a table of them; by
            default the model's own.
        epochs: number of training epochs; by default the recipe's.
        devices: number of devices, or ``auto``.
        nodes: number of machines.
        strategy: of Lightning's Trainer: ``auto`` or ``ddp``.
        accelerator: of Lightning's Trainer: ``cpu``, ``gpu``, ``mps``, ...
        precision: ``32``, ``bf16``, ``16`` or ``64``.
        wandb: ``online`` or ``offline``.
        logger: other experiment trackers by name: ``tensorboard``, ``mlflow``, ``csv``.
        test: whether to test the best checkpoint at the end; by default it is tested.
        settings: any others by their keys, as in ``{"model.hidden_sizes": [64], "recipe.lr": 1e-3}``.
        config: YAML file of settings, such as the ``run.yaml`` of a run.
        name: of the run; by default made from model and data.
        resume_if_exists: continue the run ``name`` if there is one with these settings, as a job that is started again does.
        runs: folder of the runs; by default ``ZOO_RUNS`` or ``runs``.
        callbacks: of Lightning, in addition to those of the zoo.
        progress: whether to show a progress bar.

    Raises:
        UserError: an unknown name or key, a value of the wrong type, or data that cannot be read; nothing is left behind.
        Interrupted: by Ctrl-C, after the state was saved; ``zoo.load(name).resume()`` continues.

    Examples:
        >>> run = zoo.train("mlp", data="digits", epochs=5, settings={"model.hidden_sizes": [64]})
    """
    registry = current_registry()
    # names first: they are answered before anything heavier is imported
    if model:
        find_model(model)
    from zoo.config.resolution import resolve
    from zoo.config.settings import parse_settings, read_config

    given = flag_sections(data, epochs, precision, None, devices, nodes, strategy, accelerator, wandb, logger, test)
    run = resolve(registry, model or None, read_config(config) if config else {}, [*parse_settings(settings), given])
    if resume_if_exists:
        from zoo.training.run_folder import RunFolder, runs_folder, runs_in

        if name is None:
            raise UserError("--resume-if-exists: give the run a name with --name")
        name = require_name(name)
        with runs_in(runs):
            folder = RunFolder(runs_folder() / name)
            if folder.run_file.exists():
                return _continue(folder, run, "--resume-if-exists", callbacks=require_callbacks(callbacks), progress=progress)
    return start(run, name, runs, callbacks=callbacks, progress=progress)


def finetune(
    backbone: str | Path,
    data: str | Path = "",
    *,
    weights: str | Path = "",
    freeze: str | None = None,
    keep_head: bool = False,
    epochs: int | None = None,
    devices: int | str | None = None,
    nodes: int | None = None,
    strategy: str | None = None,
    accelerator: str | None = None,
    precision: str | None = None,
    wandb: str | None = None,
    logger: str | Sequence[str] | None = None,
    test: bool | None = None,
    settings: Settings = (),
    config: str | Path = "",
    name: str | None = None,
    runs: str | Path | None = None,
    callbacks: Sequence[L.Callback] = (),
    progress: bool = True,
) -> TrainedRun:
    """Fine-tune a pretrained network: keep its weights and replace its head. Other arguments are those of ``train``.

    Args:
        backbone: ``torchvision:NAME``, ``timm:NAME``, a model with pretrained weights, a run, an exported file, or
            ``wandb:ENTITY/PROJECT/NAME:ALIAS`` for a model at W&B.
        weights: load these weights, a safetensors or .pth file or a model at W&B, instead of the backbone's own.
        keep_head: keep the head of the weights; the data must have as many classes.
        freeze: layers to freeze: ``none``, ``backbone``, ``until:STAGE``, ``epochs:N`` or ``epochs:N+M``.

    Raises:
        UserError: as ``train``, or there are no such weights.

    Examples:
        >>> run = zoo.finetune("timm:resnet18.a1_in1k", data="photos/", freeze="backbone")
    """
    given = flag_sections(data, epochs, precision, freeze, devices, nodes, strategy, accelerator, wandb, logger, test)
    if keep_head:
        given["recipe"] = {**given.get("recipe", {}), "keep_head": True}
    run = finetuning_run(backbone, weights, config, settings, given)
    return start(run, name, runs, callbacks=callbacks, progress=progress, on_data=advise_on(run))


def finetuning_run(
    backbone: str | Path, weights: str | Path, config: str | Path, settings: Settings, given: dict[str, dict[str, Any]]
) -> Run:
    """Resolve the Run of a fine-tuning."""
    registry = current_registry()
    from zoo.config.settings import parse_settings, read_config
    from zoo.training.finetuning import resolve_finetuning

    layers = [*parse_settings(settings), given]
    return resolve_finetuning(registry, str(backbone), str(weights), read_config(config) if config else {}, layers)


def advise_on(run: Run) -> Callable[[Any], None]:
    """A function that warns of problems in the images of a Run, as far as they are read; it does not read millions of files."""

    def warn(data: Any) -> None:
        from zoo.analysis.advice import advise
        from zoo.core.ranks import rank_zero_print

        if data.task == "classification" and not data.spec.are_points:
            weighs_classes = run.recipe.class_weights is not None
            for line in advise(data, run.data["name"], read=False, weighs_classes=weighs_classes).brief():
                rank_zero_print(line)

    return warn


def require_callbacks(callbacks: Any) -> list[L.Callback]:
    """The callbacks of an argument that may be None or a single one.

    Raises:
        UserError: something else is among them.
    """
    import lightning as L

    if callbacks is not None and not isinstance(callbacks, (L.Callback, Iterable)):
        raise UserError(f"callbacks={callbacks!r}: give a list of Lightning callbacks")
    several = [] if callbacks is None else [callbacks] if isinstance(callbacks, L.Callback) else list(callbacks)
    for each in several:
        if not isinstance(each, L.Callback):
            raise UserError(f"callbacks: {each!r} is not a Lightning callback")
    return several


def require_name(name: Any) -> str:
    """The name of a run or study as text.

    Raises:
        UserError: it is of another type.
    """
    if not isinstance(name, (str, Path)):
        raise UserError(f"name={name!r}: must be text")
    return str(name)


def start(
    run: Run, name: str | None = None, runs: str | Path | None = None, callbacks: Sequence[L.Callback] = (), **options: Any
) -> TrainedRun:
    """Train a resolved Run in a new folder; ``options`` are those of ``zoo.training.engine.train``."""
    chosen = require_callbacks(callbacks)
    named = None if name is None else require_name(name)
    from zoo.training import engine
    from zoo.training.run_folder import runs_in

    with runs_in(runs):
        outcome = engine.train(current_registry(), run, named, callbacks=chosen, **options)
        return TrainedRun(outcome.folder, outcome=outcome)


def resume(
    folder: RunFolder, settings: list[dict[str, dict[str, Any]]], model: str = "", checkpoint: str = "", **options: Any
) -> TrainedRun:
    """Continue an interrupted run exactly where it was saved.

    Args:
        settings: section -> key -> value, in order.
        model: if given, it must be that of the run.
        checkpoint: ``best`` or ``last`` to go on from; empty for the latest.
        options: of ``zoo.training.engine.train``.

    Raises:
        UserError: a setting would change what is computed.
    """
    from zoo.config.resolution import resolve

    run = resolve(current_registry(), model or None, folder.read_run().model_dump(mode="json"), settings)
    return _continue(folder, run, "--resume", checkpoint=checkpoint, **options)


def _continue(folder: RunFolder, run: Run, flag: str, **options: Any) -> TrainedRun:
    """Continue an existing run, whose settings must be those of ``run``; ``flag`` is what asked for it."""
    from zoo.config.run import differences

    former = folder.read_run()
    changed = [text for text in differences(former, run) if not text.startswith(CHANGEABLE_ON_RESUME)]
    batch, processes = _global_batch(former), _processes(run)
    if _processes(former) != processes and all(text.startswith(PARTS_OF_GLOBAL_BATCH) for text in changed):
        if batch and batch == _global_batch(run):
            changed = []
        elif batch and processes and batch % processes == 0:
            change = f"--set recipe.batch_size={batch // processes}"
            raise UserError(f"{flag} keeps the global batch of {batch}, but {changed[0]}: add {change}")
    if changed:
        instead = f"zoo train --config {shlex.quote(str(folder.run_file))} --set {changed[0].partition(' ')[0]} --name NEW"
        raise UserError(f"{flag} continues a run as it is, but {changed[0]}: to start a new run, {instead}")
    from zoo.training import engine

    outcome = engine.train(current_registry(), run, resume=folder, **options)
    return TrainedRun(outcome.folder, outcome=outcome)


def _processes(run: Run) -> int:
    """The number of processes of a Run; 0 where it depends on the machine."""
    devices = run.trainer.devices
    count = devices if isinstance(devices, int) else len(devices) if isinstance(devices, list) else 0
    return max(count, 0) * run.trainer.num_nodes


def _global_batch(run: Run) -> int:
    """Samples that all processes read at once; 0 where that depends on the machine."""
    return _processes(run) * run.recipe.batch_size


def flag_sections(
    data: str | Path = "",
    epochs: int | str | None = None,
    precision: str | None = None,
    freeze: str | None = None,
    devices: int | str | None = None,
    nodes: int | str | None = None,
    strategy: str | None = None,
    accelerator: str | None = None,
    wandb: str | None = None,
    logger: str | Sequence[str] | None = None,
    test: bool | None = None,
) -> dict[str, dict[str, Any]]:
    """What was given as settings of a Run: section -> key -> value.

    Raises:
        UserError: the data is no name.
    """
    if not isinstance(data, (str, Path, NoneType)):
        raise UserError(f"data={type(data).__name__}: must be a name or a folder")
    loggers = [logger] if isinstance(logger, str) else None if logger is None else list(logger)
    return without_empty(
        {
            "data": {"name": data or None},
            "recipe": {"epochs": epochs, "precision": precision, "freeze": freeze},
            "trainer": {
                "devices": devices,
                "num_nodes": nodes,
                "strategy": strategy,
                "accelerator": accelerator,
                "logger": loggers,
                "test": test,
            },
            "wandb": {"mode": wandb},
        }
    )


def without_empty(sections: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Drop what was not given."""
    given = {name: {key: value for key, value in section.items() if value is not None} for name, section in sections.items()}
    return {name: section for name, section in given.items() if section}
