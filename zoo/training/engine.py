"""Training and testing a Run: what the command calls and any Python program may call.

Everything that can be checked is checked before the first step; from then on nothing loses the run.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging

from zoo.callbacks.findings import Finding
from zoo.callbacks.pace import Pace
from zoo.callbacks.progress import TrainingProgress
from zoo.config.recipe import Run, TrainerSettings
from zoo.core.errors import UserError
from zoo.core.ranks import rank_zero_print
from zoo.registry.registry import Registry
from zoo.spec import ImageSpec, spec_from_primitives, spec_to_primitives
from zoo.tasks.task import Task
from zoo.training.autopsy import autopsy
from zoo.training.building import build_data, build_task, build_test_data, load_task, open_run
from zoo.training.checkpoints import KEY, Checkpoints, Interrupted, StopRequest, read_checkpoint
from zoo.training.environment import describe_environment
from zoo.training.exported import read_trained
from zoo.training.metrics_logger import MetricsLog
from zoo.training.monitoring import build_monitors
from zoo.training.records import MonitorsLog
from zoo.training.run_folder import RunFolder
from zoo.training.stage_plan import stage_plan, told
from zoo.training.tracking import open_tracker, tracking, validation_examples
from zoo.training.trainer import build_trainer, fit_to_what_learns, quiet
from zoo.training.weights import begin_with, open_weights

SHOWN = ("train/loss", "train/accuracy", "val/loss")  # in the progress, as far as they are recorded, and the monitored metric


@dataclass
class Outcome:
    """What a training left: its folder, the test figures of its best checkpoint, and what the monitors found; a finished run is
    resumed without a step."""

    folder: RunFolder
    is_rank_zero: bool
    best: float | None
    test: dict[str, float] = field(default_factory=dict)
    was_finished: bool = False
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class Examined:
    """What a test came to: its figures, as in ``test/accuracy``, and what the task found beside them, as plain data."""

    figures: dict[str, float]
    findings: dict[str, Any]
    is_rank_zero: bool


def begin(registry: Registry, task: Task, run: Run) -> None:
    """Give a new network the weights from before that its Run asks for, and tell what became of them.

    Raises:
        UserError: they cannot be had, or do not fit.
    """
    task.load_pretrained(partial(open_run, registry))
    if run.recipe.weights:
        rank_zero_print(str(begin_with(task, open_weights(registry, run))))
        rank_zero_print(told(stage_plan(task)))
    elif run.recipe.freeze != "none" and task.task == "classification":
        rank_zero_print(f"warning: recipe.freeze={run.recipe.freeze} without recipe.weights: what is frozen are random numbers")


def train(
    registry: Registry,
    run: Run,
    name: str | None = None,
    resume: RunFolder | None = None,
    *,
    folder: RunFolder | None = None,
    callbacks: Sequence[L.Callback] = (),
    test: bool = True,
    progress: bool = True,
    examine: bool = True,
    look: Callable[[Any], None] = lambda data: None,
) -> Outcome:
    """Train, keep the best and the last checkpoint, and test the best.

    Args:
        registry: where names are looked up.
        run: what to train, resolved.
        name: of the folder under ``runs/``; the default is made of model and data.
        resume: go on with this run, whose own Run ``run`` must be; the result is that of a run that was never stopped.
        folder: where a new run goes that is not to be under ``runs/``; it is there already.
        callbacks: that watch the training beside those of the recipe.
        test: whether to test the best checkpoint at the end.
        progress: whether to show how far it is.
        examine: whether to monitor activations and gradients, and, where numbers stop being finite, to find out which layer and
            operation began it.
        look: is shown the data before the training begins.

    Raises:
        UserError: something the user can put right, before the first step or when the disk fills up.
        Interrupted: asked to stop; ``last.ckpt`` is where it goes on.
    """
    quiet()
    is_new = resume is None
    folder = resume or folder or RunFolder.claim(name, run)
    with folder.given_up_unless_started(is_new) as started, folder.locked():
        checkpoint = folder.last if resume and folder.last.exists() else None
        former = read_checkpoint(checkpoint) if checkpoint else {"global_step": 0, KEY: {}}
        if checkpoint:
            rank_zero_print(f"resuming {folder.name} at step {former['global_step']:,}, epoch {former['epoch'] + 1}")
        data = build_data(registry, run)
        task = _task_as_it_was(registry, run, data, former if checkpoint else None)
        look(data)
        settings = {"watching": callbacks, "test": test, "progress": progress, "examine": examine}
        return _train(run, folder, data, task, checkpoint, former, is_new=is_new, started=started, **settings)


def _task_as_it_was(registry: Registry, run: Run, data: Any, former: dict[str, Any] | None) -> Task:
    """The network of a Run at its start, or where the checkpoint ``former`` left it."""
    task = build_task(registry, run, data.spec)
    task.check_data_options(data)
    if run.recipe.freeze != "none":
        run.recipe.freezing.check(tuple(task.stages()), run.recipe.epochs)
    if former is None:
        begin(registry, task, run)
        return task
    task.load_state_dict(former["state_dict"])
    if run.recipe.weights:
        known = spec_from_primitives(former[KEY]["spec"])
        task.set_normalization(known.mean, known.std)
    return task


def _train(
    run: Run,
    folder: RunFolder,
    data: Any,
    task: Task,
    checkpoint: Path | None,
    former: dict[str, Any],
    *,
    is_new: bool,
    started: Callable[[], None],
    watching: Sequence[L.Callback],
    test: bool,
    progress: bool,
    examine: bool,
) -> Outcome:
    """Train the network on the data; ``former`` is what the file ``checkpoint`` holds, ``started`` is called when it begins."""
    if not run.recipe.freezing.changes:
        task.freeze(epoch=0)  # before the network is wrapped for several devices, which looks for what has gradients
    if run.recipe.compile:
        task.compile()
    log, stop = MetricsLog(folder.metrics_file), StopRequest()
    environment = describe_environment(task)
    tracker = open_tracker(run, folder, environment, former[KEY].get("wandb_id"), task)

    def about() -> dict[str, Any]:
        described = {"run": run.model_dump(mode="json"), "spec": spec_to_primitives(task.spec)}
        return {**described, "wandb_id": tracker.run_id if tracker else None}

    monitor, direction = f"val/{task.monitor}", task.directions[task.monitor]
    saving = Checkpoints(folder, about, monitor, direction, run.recipe.checkpoint_minutes, stop)
    names = SHOWN + ((monitor,) if monitor not in SHOWN else ())
    records = MonitorsLog(folder.monitors_file)
    sinks = [records.write, tracker.log_record] if tracker else [records.write]
    monitors, diagnosis = build_monitors(run, task, log.latest, sinks) if examine else ([], None)
    shown = [TrainingProgress(log.latest, names, trend=monitor, diagnosis=diagnosis)] if progress else []
    looking_back = [autopsy(folder, task, about)] if examine else []
    callbacks = [*_recipe_callbacks(run, monitor, direction), *monitors, *watching, *shown, *looking_back, saving]
    callbacks.sort(key=lambda each: isinstance(each, Pace))  # which must be last
    trainer = build_trainer(run.trainer, run, logger=[log, tracker] if tracker else [log], callbacks=callbacks)
    fit_to_what_learns(trainer.strategy, task)
    task.to(trainer.strategy.root_device)
    task.prepare(data)
    if is_new and trainer.is_global_zero:
        folder.describe(run, environment)
    started()
    log.rewind(former["global_step"])
    records.rewind(former["global_step"])
    with tracking(tracker, folder), stop.listening(), folder.handed_on(), _how_to_go_on(folder):
        trainer.fit(task, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        # loaded here: Lightning's own way would take the weights that are not averaged
        task.load_state_dict(read_checkpoint(folder.best)["state_dict"])
        classes = getattr(task.spec, "classes", ())
        if test:
            if tracker and len(classes) <= tracker.most_classes:
                task.collect_details(figures=False)
            trainer.test(task, datamodule=data, verbose=False)
        if tracker and trainer.is_global_zero and isinstance(task.spec, ImageSpec) and not task.sees_features:
            tracker.log_predictions(*validation_examples(task, data))
        if tracker:
            tracker.log_inside(folder.monitors_file, classes, task.findings.get("confusion", ()))
    was_finished = checkpoint is not None and trainer.global_step == former["global_step"]
    findings = tuple(diagnosis.findings) if diagnosis else ()
    return Outcome(folder, trainer.is_global_zero, saving.best, _test_metrics(trainer), was_finished, findings)


def test(registry: Registry, checkpoint_file: Path, data: dict[str, Any], settings: TrainerSettings) -> Examined:
    """What a checkpoint does on test images, the same on any number of processes.

    Args:
        checkpoint_file: what to test.
        data: the data section of a Run: ``name`` and options.
        settings: devices and so on.

    Raises:
        UserError: other classes than those the model was trained on, or no such files.
    """
    quiet()
    checkpoint = read_trained(checkpoint_file)
    task, run = load_task(registry, checkpoint, checkpoint_file)
    run = run.model_copy(update={"data": data})
    module = build_test_data(registry, run, task.spec)
    trainer = build_trainer(settings, run, logger=False, callbacks=[])
    task.collect_details()
    trainer.test(task, datamodule=module, verbose=False)
    return Examined(_test_metrics(trainer), task.findings, trainer.is_global_zero)


class Patience(EarlyStopping):
    """Lightning's, such that a checkpoint holds what it has seen in the epoch, and a run that it has ended stays ended."""

    def __init__(self, monitor: str, direction: str, patience: int) -> None:
        # by itself Lightning would ask it after all other callbacks have been told that the epoch is over, and so after saving
        super().__init__(monitor, mode=direction, patience=patience, check_on_train_epoch_end=False)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        trainer.should_stop = self.wait_count >= self.patience


def _recipe_callbacks(run: Run, monitor: str, direction: str) -> list[L.Callback]:
    callbacks: list[L.Callback] = []
    if run.recipe.early_stopping_patience:
        callbacks.append(Patience(monitor, direction, run.recipe.early_stopping_patience))
    if run.recipe.ema_decay is not None:
        # the statistics of batch norm are averages already: averaged again they would lag far behind
        callbacks.append(EMAWeightAveraging(decay=run.recipe.ema_decay, use_buffers=False))
    return callbacks


@contextmanager
def _how_to_go_on(folder: RunFolder) -> Iterator[None]:
    """Say with every fault how the run can be continued."""
    try:
        yield
    except Interrupted:
        raise Interrupted(folder.name, folder.last.exists()) from None
    except UserError as error:
        raise UserError(f"{error}. {_next_after_a_fault(folder)}") from error
    except Exception as error:
        error.add_note(_next_after_a_fault(folder))
        raise


def _next_after_a_fault(folder: RunFolder) -> str:
    if folder.last.exists():
        return f"To go on: zoo train --resume {folder.name}"
    file = shlex.quote(str(folder.run_file))
    return f"Nothing was saved by then; with other settings: zoo train --config {file} --set SECTION.KEY=VALUE"


def _test_metrics(trainer: L.Trainer) -> dict[str, float]:
    return {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("test/")}
