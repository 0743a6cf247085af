"""Training and testing of a Run.

Everything that can be checked is checked before the first step; from then on nothing loses the run.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging, ModelCheckpoint

from zoo.callbacks.findings import Finding
from zoo.callbacks.progress import TrainingProgress
from zoo.callbacks.throughput import Throughput
from zoo.config.recipe import Recipe, Run, TrainerSettings
from zoo.core.errors import Failure, Interrupted, UserError, one_line, some
from zoo.core.json_lines import JsonLinesWriter
from zoo.core.ranks import is_follower, rank_zero_print, require_valid_launch
from zoo.core.signals import stop
from zoo.registry.registry import Registry
from zoo.spec import spec_to_primitives
from zoo.tasks.task import Diverged, Task
from zoo.training.autopsy import build_autopsy
from zoo.training.building import build_data, build_task, build_test_data, described, load_weights, open_run
from zoo.training.checkpoints import (
    KEY,
    Damaged,
    copy_checkpoint,
    read_checkpoint,
    require_finite,
    way_out,
)
from zoo.training.data_record import DataRecord, exclude_trained, require_unchanged
from zoo.training.environment import describe_environment
from zoo.training.memory import is_out_of_memory
from zoo.training.metrics_logger import MetricsLogger
from zoo.training.monitoring import build_monitors
from zoo.training.processes import require_launcher, supervised
from zoo.training.run_folder import RunFolder
from zoo.training.saving import Checkpoints, Rescue
from zoo.training.selection import Selection
from zoo.training.stage_plan import describe_plan, stage_plan
from zoo.training.stopping import Stopping
from zoo.training.tracking import open_tracker, tracking
from zoo.training.trainer import build_trainer, configure_ddp, require_batches, silence_lightning
from zoo.training.weights import load_backbone, open_weights

MONITOR_DIGITS = 5  # significant digits in monitors.jsonl
SHOWN = ("train/loss", "train/accuracy", "val/loss")  # in the progress bar, where recorded, beside the monitored metric


@dataclass
class TrainResult:
    """Result of training: its folder, test metrics of the best checkpoint, and findings of the monitors; ``was_finished`` if it
    was resumed without a step."""

    folder: RunFolder
    is_rank_zero: bool
    task: Task
    best: float | None
    test: dict[str, float] = field(default_factory=dict)
    was_finished: bool = False
    findings: tuple[Finding, ...] = ()


class TestResult(dict[str, float]):
    """Result of a test: metrics by name, as in ``test/accuracy``.

    Attributes:
        details: of the task, as plain data, such as a classifier's confusion matrix.
        is_rank_zero: whether this process is the one to report it.
    """

    def __init__(self, metrics: dict[str, float], details: dict[str, Any], is_rank_zero: bool = True) -> None:
        super().__init__(metrics)
        self.details, self.is_rank_zero = details, is_rank_zero


def load_initial_weights(registry: Registry, task: Task, run: Run) -> None:
    """Load the pretrained weights of a Run into a new network, and print what was loaded.

    Raises:
        UserError: they cannot be read, or do not fit.
    """
    task.load_pretrained(partial(open_run, registry))
    if run.recipe.weights:
        rank_zero_print(str(load_backbone(task, open_weights(registry, run))))
        rank_zero_print(describe_plan(stage_plan(task)))
    elif run.recipe.freeze != "none" and not task.has_pretrained_parts:
        rank_zero_print(f"warning: recipe.freeze={run.recipe.freeze} without recipe.weights: the frozen weights are random")


def train(
    registry: Registry,
    run: Run,
    name: str | None = None,
    resume: RunFolder | None = None,
    *,
    checkpoint: str = "",
    folder: RunFolder | None = None,
    callbacks: Sequence[L.Callback] = (),
    test: bool = True,
    progress: bool = True,
    monitor: bool = True,
    on_data: Callable[[Any], None] = lambda data: None,
) -> TrainResult:
    """Train, save the best and the last checkpoint, and test the best.

    Args:
        registry: of models and data sets.
        run: what to train, resolved.
        name: of the folder under ``runs/``; by default made from model and data.
        resume: run to resume, with ``run`` as its Run; the result equals that of an uninterrupted run.
        checkpoint: from which it is resumed: ``best`` or ``last``, or empty for the latest.
        folder: existing folder for a new run outside ``runs/``.
        callbacks: in addition to those of the recipe.
        test: whether to test the best checkpoint at the end.
        progress: whether to show a progress bar.
        monitor: whether to record activations and gradients, and to locate the first non-finite value.
        on_data: called with the data before training begins.

    Raises:
        UserError: an error that the user can fix, before the first step or when the disk fills up.
        Failure: another process was lost.
        Interrupted: by a signal; ``last.ckpt`` is where it resumes.
    """
    silence_lightning()
    require_valid_launch()
    if any(isinstance(callback, ModelCheckpoint) for callback in callbacks):
        raise UserError("ModelCheckpoint: a run saves its best and its last checkpoint itself: omit it")
    require_launcher(run.trainer.num_nodes)
    is_new = resume is None
    folder = resume or folder or RunFolder.claim(name, run)
    # the lock before what removes: another process may hold a folder that this one has taken over
    with _stopped_by_signals(folder, is_new), folder.locked(), folder.removed_unless_started(is_new) as started:
        file = resume.to_resume(checkpoint) if resume else None
        former = read_checkpoint(file, training=True) if file else {"global_step": 0, KEY: {}}
        record = DataRecord.read(folder.path) if file else DataRecord({})
        data = build_data(registry, run, record)
        files = DataRecord.of(data)
        if record.files:
            require_unchanged(record, files, data, _way_out_of_changes(folder, run, data.task))
        task = build_task(registry, run, data.spec)
        task.check_data_options(data)
        if run.recipe.freeze != "none":
            run.recipe.freezing.check(tuple(task.stages()), run.recipe.epochs)
        if file:
            _restore(registry, task, run, former, file)
        else:
            load_initial_weights(registry, task, run)
        on_data(data)
        exclude_trained(data, files.trained_on)
        if run.recipe.compile:
            task.compile()
        positions = former[KEY].get("records", {}) if file else dict.fromkeys(("metrics.jsonl", "monitors.jsonl"), 0)
        metrics, monitored = (
            JsonLinesWriter(path, positions.get(path.name), digits)
            for path, digits in ((folder.metrics_file, None), (folder.monitors_file, MONITOR_DIGITS))
        )
        log = MetricsLogger(metrics)
        environment = describe_environment(task)
        tracker = open_tracker(run, folder, environment, former[KEY].get("wandb_id"), task)

        own = [type(callback).__qualname__ for callback in callbacks]
        if missing := [name for name in former[KEY].get("callbacks", ()) if name not in own]:
            again = f"zoo.load({folder.name!r}).resume(callbacks=[...])"
            rank_zero_print(
                f"warning: {folder.name} was trained with callbacks that are missing now: {some(missing)}; in Python: {again}"
            )

        def about() -> dict[str, Any]:
            described = {"run": run.model_dump(mode="json"), "spec": spec_to_primitives(task.spec), "callbacks": own}
            return {**described, "wandb_id": tracker.run_id if tracker else None}

        metric, direction = f"val/{task.monitor}", task.directions[task.monitor]
        selection = Selection(metric, direction)
        saving = Checkpoints(folder, about, (metrics, monitored), selection, run.recipe.checkpoint_minutes)
        names = SHOWN + ((metric,) if metric not in SHOWN else ())
        sinks = [monitored.append, tracker.log_record] if tracker else [monitored.append]
        monitors, diagnosis = build_monitors(run, task, sinks) if monitor else ([], None)
        shown = [TrainingProgress(log.latest, names, trend=metric, diagnosis=diagnosis)] if progress else []
        post_mortem = [build_autopsy(folder, task, about)] if monitor else []
        others = [*_recipe_callbacks(run, metric, direction), *monitors, *callbacks, *shown, *post_mortem]
        others.sort(key=lambda each: isinstance(each, Throughput))  # which must be last of those that take time
        at = f"step {former['global_step']:,}, epoch {former['epoch'] + 1}, from {file.name}" if file else "the first step"
        greeting = f"resuming {folder.name} at {at}" if resume else ""
        all_callbacks = [Rescue(saving, greeting), *others, saving]
        trainer = build_trainer(run.trainer, run, logger=[log, tracker] if tracker else [log], callbacks=all_callbacks)
        for split in ("train", "val", "test") if test else ("train", "val"):
            require_batches(trainer, data, split)
        configure_ddp(trainer.strategy, task)
        task.to(trainer.strategy.root_device)
        task.prepare(data)
        if not record.files and trainer.is_global_zero:
            files.write(folder.path)
        if is_new and trainer.is_global_zero:
            folder.describe(run, environment)
        with tracking(tracker, folder), folder.passed_on(), _hint_to_resume(registry, folder, run, started):
            with _explained(run, saving, started), _restoring(trainer, saving, file), supervised(trainer):
                trainer.fit(task, datamodule=data, ckpt_path=file, weights_only=True)
            # loaded here: Lightning would load the weights before averaging
            task.load_state_dict(_best_weights(folder, trainer.is_global_zero))
            classes = getattr(task.spec, "classes", ())
            if test:
                if tracker and len(classes) <= tracker.most_classes:
                    task.collect_details(metrics=False)
                with supervised(trainer):
                    trainer.test(task, datamodule=data, verbose=False)
            if tracker and trainer.is_global_zero and (predictions := task.tracker_predictions(data)):
                tracker.log_predictions(*predictions)
            if tracker:
                tracker.log_monitors(folder.monitors_file, classes, task.details.get("confusion", ()))
        was_finished = file is not None and trainer.global_step == former["global_step"]
        if was_finished and file == folder.best and trainer.is_global_zero:
            copy_checkpoint(folder.best, folder.last)  # which was lost
        findings = tuple(diagnosis.standing) if diagnosis else ()
        return TrainResult(folder, trainer.is_global_zero, task, selection.best, _test_metrics(trainer), was_finished, findings)


def _way_out_of_changes(folder: RunFolder, run: Run, kind: str) -> str:
    """What to do where the files of a run have changed."""
    ways = [f"put them back, or start a new run: zoo train --config {shlex.quote(str(folder.run_file))}"]
    if kind == "classification":
        ways.append(f"with its weights: zoo finetune {folder.name} --data {shlex.quote(run.data['root'])} --keep-head")
    return ", or ".join(ways)


def _restore(registry: Registry, task: Task, run: Run, former: dict[str, Any], file: Path) -> None:
    """Load the weights of a checkpoint, if it is of this Run."""
    of_checkpoint, spec = described(registry, former, file)
    if of_checkpoint.model != run.model:
        raise Damaged(f"{file} is of another run: its model is {of_checkpoint.model}, not {run.model}{way_out(file)}")
    load_weights(task, former["state_dict"], file, run.model["name"])
    require_finite(task, file)
    if run.recipe.weights:
        task.set_normalization(spec.mean, spec.std)


@contextmanager
def _restoring(trainer: L.Trainer, saving: Checkpoints, file: Path | None) -> Iterator[None]:
    """Turn what Lightning and torch raise about a checkpoint, before the first step, into an error of the user."""
    try:
        yield
    except (UserError, torch.OutOfMemoryError):
        raise
    except (ValueError, TypeError, LookupError, AttributeError, RuntimeError) as error:
        if saving.has_started or not trainer.strategy.checkpoint_io.has_loaded:
            raise
        reason = f"{type(error).__name__}: {one_line(error, 150)}"
        raise Damaged(f"{file} cannot be restored: {reason}{way_out(file)}") from error


def _best_weights(folder: RunFolder, is_rank_zero: bool) -> dict[str, Any]:
    """The weights of the best checkpoint, or, where that of a finished run was lost, of the last, which takes its place."""
    try:
        return read_checkpoint(folder.best)["state_dict"]
    except UserError:
        weights = read_checkpoint(folder.last)["state_dict"]
        if is_rank_zero:
            copy_checkpoint(folder.last, folder.best)
        return weights


def test(
    registry: Registry,
    task: Task,
    run: Run,
    data: dict[str, Any],
    settings: TrainerSettings,
    record: DataRecord | None = None,
) -> TestResult:
    """Test a trained network, with the same metrics on any number of processes.

    Args:
        task, run: the network and the Run of its training.
        data: the data section of a Run: ``name`` and options.
        settings: devices and so on.
        record: of what the network was trained on, which is left out.

    Raises:
        UserError: the classes differ from those of the training, or files are missing.
    """
    silence_lightning()
    require_valid_launch()
    module = build_test_data(registry, run, task.spec, data, record)
    run = run.model_copy(update={"data": data})
    trainer = build_trainer(settings, run, logger=False, callbacks=[Stopping()])
    require_batches(trainer, module, "test")
    task.collect_details()
    with supervised(trainer):
        trainer.test(task, datamodule=module, verbose=False)
    return TestResult(_test_metrics(trainer), details=task.details, is_rank_zero=trainer.is_global_zero)


class Patience(EarlyStopping):
    """Early stopping whose state in a checkpoint includes the last epoch, and which keeps a stopped run stopped on resume."""

    def __init__(self, monitor: str, direction: str, patience: int) -> None:
        # by default Lightning would call it after all other callbacks, and so after saving
        super().__init__(monitor, mode=direction, patience=patience, check_on_train_epoch_end=False)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        trainer.should_stop = self.wait_count >= self.patience


def _recipe_callbacks(run: Run, monitor: str, direction: str) -> list[L.Callback]:
    callbacks: list[L.Callback] = []
    if run.recipe.early_stopping_patience:
        callbacks.append(Patience(monitor, direction, run.recipe.early_stopping_patience))
    if run.recipe.ema_decay is not None:
        # batch norm statistics are averages already: averaged again they would lag far behind
        callbacks.append(EMAWeightAveraging(decay=run.recipe.ema_decay, use_buffers=False))
    return callbacks


@contextmanager
def _explained(run: Run, saving: Checkpoints, started: Event) -> Iterator[None]:
    """Turn what Lightning or torch refuses because of the settings into user errors, and tell whether a step has ended."""
    size = f"recipe.batch_size={run.recipe.batch_size}"
    try:
        yield
    except MisconfigurationException as error:
        raise UserError(f"Lightning refuses the settings: {one_line(error, 300)}") from error
    except (MemoryError, RuntimeError, ValueError) as error:
        if is_out_of_memory(error):
            raise UserError(f"out of memory with {size}: a smaller one needs less, and zoo tune finds the largest") from error
        if not saving.has_stepped and "more than 1 value per channel" in str(error):
            larger = "a larger one" if run.recipe.batch_size == 1 else "more training images"
            raise UserError(f"{size}: batch norm needs more than one value of each channel in a batch: {larger}") from error
        raise
    finally:
        if saving.has_stepped:
            started.set()


@contextmanager
def _stopped_by_signals(folder: RunFolder, is_new: bool) -> Iterator[None]:
    """Say of every interrupt what was saved; of a new run without a checkpoint nothing is kept.

    Raises:
        Interrupted: by a signal.
    """
    former = stop.farewell
    stop.farewell = lambda text: f"{text}. {_command_to_resume(folder)}" if folder.run_file.exists() else text
    try:
        with stop.owned():
            yield
    except Interrupted:
        if folder.last.exists():
            again = f"zoo.load({folder.name!r}).resume() continues"
            raise Interrupted(f"interrupted, and saved: {again}", folder.name, is_saved=True) from None
        if not is_new:
            raise Interrupted("interrupted before the first checkpoint", folder.name) from None
        if not is_follower():
            folder.remove()
        raise Interrupted("interrupted before the first checkpoint: nothing was kept") from None
    finally:
        stop.farewell = former


@contextmanager
def _hint_to_resume(registry: Registry, folder: RunFolder, run: Run, started: Event) -> Iterator[None]:
    """Add the command that goes on with the run to every exception."""
    try:
        yield
    except Damaged:  # says itself what can be done
        raise
    except Diverged as error:  # and would diverge again
        started.set()
        lr = min(run.recipe.lr / 10, registry.model(run.model["name"]).recipe.get("lr", Recipe.model_fields["lr"].default))
        again = f"zoo train --config {shlex.quote(str(folder.run_file))} --set recipe.lr={lr:g}"
        raise Diverged(f"{error}. To start again: {again}") from error
    except (UserError, Failure) as error:
        if not (started.is_set() or folder.last.exists() or folder.autopsy_file.exists()):
            raise  # nothing to resume
        kind = Failure if isinstance(error, Failure) else UserError
        raise kind(f"{error}. {_command_to_resume(folder)}") from error
    except Exception as error:
        error.add_note(_command_to_resume(folder))
        raise


def _command_to_resume(folder: RunFolder) -> str:
    return f"{'To resume' if folder.last.exists() else 'To start again'}: zoo train --resume {folder.name}"


def _test_metrics(trainer: L.Trainer) -> dict[str, float]:
    return {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("test/")}
