"""Training and testing of a Run.

Everything that can be checked is checked before the first step; from then on nothing loses the run.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint

from zoo.callbacks.findings import Finding
from zoo.callbacks.progress import EvaluationProgress, TrainingProgress
from zoo.callbacks.throughput import Throughput
from zoo.config.run import Run, TrainerSettings
from zoo.core.errors import UserError, some
from zoo.core.json_lines import JsonLinesWriter
from zoo.core.ranks import rank_zero_print, require_valid_launch
from zoo.registry.registry import Registry
from zoo.spec import spec_to_primitives
from zoo.tasks.task import Task
from zoo.tasks.weights import Weights
from zoo.training.autopsy import build_autopsy
from zoo.training.building import build_data, build_task, build_test_data, described, load_weights, open_trained
from zoo.training.checkpoints import KEY, Damaged, copy_checkpoint, read_checkpoint, require_finite, way_out
from zoo.training.data_record import ContentRecorder, DataRecord, exclude_trained, require_unchanged, warn_of_excluded
from zoo.training.distillation import teaching
from zoo.training.environment import describe_environment
from zoo.training.faults import explained, hinting_at_resume, restoring, stopped_by_signals, way_out_of_changes
from zoo.training.metrics_logger import MetricsLogger
from zoo.training.monitoring import build_monitors
from zoo.training.processes import require_launcher, supervised
from zoo.training.recipe_callbacks import recipe_callbacks
from zoo.training.records import BEST
from zoo.training.run_folder import RunFolder
from zoo.training.saving import Checkpoints, Rescue
from zoo.training.selection import Selection
from zoo.training.stage_plan import describe_plan, stage_plan
from zoo.training.stopping import Stopping
from zoo.training.tracking.lineage import data_origins, weight_origins
from zoo.training.tracking.trackers import Trackers, build_trackers
from zoo.training.trainer import build_trainer, configure_ddp, require_batches, require_counted, silence_lightning
from zoo.training.weights.loading import load_backbone, open_weights

MONITOR_DIGITS = 5  # significant digits in monitors.jsonl
SHOWN = ("train/loss", "train/accuracy", "val/loss")  # in the progress bar, where recorded, beside the monitored metric


@dataclass
class TrainResult:
    """Result of training.

    Attributes:
        best: validation metric of the best checkpoint, and ``test``, its test metrics, none without a test.
        was_finished: whether it was resumed without a step.
        findings: of the monitors.
    """

    folder: RunFolder
    is_rank_zero: bool
    task: Task
    best: float | None
    test: dict[str, float] = field(default_factory=dict)
    was_finished: bool = False
    findings: tuple[Finding, ...] = ()

    @property
    def metrics(self) -> dict[str, float]:
        """Test metrics by name, or, without a test, the validation metric of the best checkpoint."""
        return self.test or ({} if self.best is None else {f"val/{self.task.monitor}": self.best})


class TestResult(dict[str, float]):
    """Result of a test: metrics by name, as in ``test/accuracy``.

    Attributes:
        details: of the task, as plain data, such as a classifier's confusion matrix.
        is_rank_zero: whether this process is the one to report it.
    """

    def __init__(self, metrics: dict[str, float], details: dict[str, Any], is_rank_zero: bool = True) -> None:
        super().__init__(metrics)
        self.details, self.is_rank_zero = details, is_rank_zero


def load_initial_weights(registry: Registry, task: Task, run: Run) -> Weights | None:
    """Load the pretrained weights of a Run into a new network, print what was loaded, and return those of ``recipe.weights``.

    Raises:
        UserError: they cannot be read, or do not fit.
    """
    task.load_pretrained(partial(open_trained, registry))
    if run.recipe.weights:
        weights = open_weights(registry, run)
        rank_zero_print(str(load_backbone(task, weights)))
        rank_zero_print(describe_plan(stage_plan(task)))
        return weights
    if run.recipe.freeze != "none" and not task.has_pretrained_parts:
        rank_zero_print(f"warning: recipe.freeze={run.recipe.freeze} without recipe.weights: the frozen weights are random")
    return None


def train(
    registry: Registry,
    run: Run,
    name: str | None = None,
    resume: RunFolder | None = None,
    *,
    checkpoint: str = "",
    folder: RunFolder | None = None,
    callbacks: Sequence[L.Callback] = (),
    progress: bool = True,
    monitor: bool = True,
    on_data: Callable[[Any], None] = lambda data: None,
) -> TrainResult:
    """Train, save the best and the last checkpoint, and test the best unless ``trainer.test`` is off.

    Args:
        registry: of models and data sets.
        run: what to train, resolved.
        name: of the folder under ``runs/``; by default made from model and data.
        resume: run to resume, with ``run`` as its Run; the result equals that of an uninterrupted run.
        checkpoint: from which it is resumed: ``best`` or ``last``, or empty for the latest.
        folder: existing folder for a new run outside ``runs/``.
        callbacks: in addition to those of the recipe.
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
    with stopped_by_signals(folder, is_new), folder.locked(), folder.removed_unless_started(is_new) as started:
        former = _Former.read(resume, checkpoint)
        data, files = _open_data(registry, run, folder, former)
        task, weights = _build(registry, run, data, former)
        on_data(data)
        exclude_trained(data, files.trained_on)
        if run.recipe.compile:
            task.compile()
        metrics, monitored = (
            JsonLinesWriter(path, former.position(path), digits)
            for path, digits in ((folder.metrics_file, None), (folder.monitors_file, MONITOR_DIGITS))
        )
        environment = describe_environment(task)
        trackers = build_trackers(registry, run, folder, environment, former.about.get("trackers", {}), former.step, task)
        own = [type(callback).__qualname__ for callback in callbacks]
        former.warn_of_missing(own, (metrics, monitored), folder)

        def about() -> dict[str, Any]:
            described = {"run": run.model_dump(mode="json"), "spec": spec_to_primitives(task.spec), "callbacks": own}
            return {**described, "trackers": trackers.run_ids}

        metric, direction = f"val/{task.monitor}", task.directions[task.monitor]
        selection = Selection(metric, direction)
        saving = Checkpoints(folder, about, (metrics, monitored), selection, run.recipe.checkpoint_minutes)
        log = MetricsLogger(metrics)
        monitors, diagnosis = build_monitors(run, task, [monitored.append, trackers.log_record]) if monitor else ([], None)
        names = SHOWN + ((metric,) if metric not in SHOWN else ())
        shown = [TrainingProgress(log.latest, names, trend=metric, diagnosis=diagnosis), EvaluationProgress()] if progress else []
        post_mortem = [build_autopsy(folder, task, about)] if monitor else []
        recorder = ContentRecorder(data, former.record if former.record.files else files, folder.path)
        recording = [] if files.is_complete else [recorder]
        others = [*recipe_callbacks(run, metric, direction), *monitors, *callbacks, *shown, *post_mortem, *recording]
        others.sort(key=lambda each: isinstance(each, Throughput))  # which must be last of those that take time
        rescue = Rescue(saving, f"resuming {folder.name} at {former}" if resume else "")
        all_callbacks = [rescue, *others, *teaching(registry, run, task), saving]
        trainer = build_trainer(run.trainer, run, logger=[log, trackers], callbacks=all_callbacks)
        for split in ("train", "val", "test") if run.trainer.test else ("train", "val"):
            require_batches(trainer, data, split)
        configure_ddp(trainer.strategy, task)
        task.to(trainer.strategy.root_device)
        task.prepare(data)
        if not former.record.files and trainer.is_global_zero:
            files.write(folder.path)
        if is_new and trainer.is_global_zero:
            folder.describe(run, environment)
        with trackers.opened(folder), folder.passed_on(), hinting_at_resume(registry, folder, run, started):
            if former.file is None:
                trackers.log_origins(partial(weight_origins, run, task, weights))
            if not recording:
                trackers.log_origins(partial(data_origins, run, data, files))
            with explained(run, saving, started), restoring(trainer, saving, former.file), supervised(trainer):
                trainer.fit(task, datamodule=data, ckpt_path=former.file, weights_only=True)
            _load_best(registry, task, folder, trainer.is_global_zero)
            if recording:
                exclude_trained(data, DataRecord.of(data).trained_on)
            if run.trainer.test:
                _test_best(trainer, task, data, trackers)
            else:
                _record_best(trainer, selection)
            _show_best(task, data, trackers, folder)
            if recording:
                recorder.complete(trainer)
                trackers.log_origins(partial(data_origins, run, data, recorder.record))
        was_finished = former.file is not None and trainer.global_step == former.step
        if was_finished and former.file == folder.best and trainer.is_global_zero:
            copy_checkpoint(folder.best, folder.last)  # which was lost
        findings = tuple(diagnosis.standing) if diagnosis else ()
        return TrainResult(folder, trainer.is_global_zero, task, selection.best, _test_metrics(trainer), was_finished, findings)


@dataclass(frozen=True)
class _Former:
    """What a run that is resumed has left: its checkpoint, and the record of its data. A new run has neither."""

    file: Path | None
    content: dict[str, Any]
    record: DataRecord

    @classmethod
    def read(cls, folder: RunFolder | None, checkpoint: str) -> _Former:
        file = folder.to_resume(checkpoint) if folder else None
        if folder is None or file is None:
            return cls(None, {"global_step": 0, KEY: {}}, DataRecord({}))
        return cls(file, read_checkpoint(file, training=True), DataRecord.read(folder.path))

    @property
    def about(self) -> dict[str, Any]:
        return self.content[KEY]

    @property
    def step(self) -> int:
        return self.content["global_step"]

    def position(self, path: Path) -> int | None:
        """Up to which byte a file of records is kept; None for all of it."""
        return self.about.get("records", {}).get(path.name) if self.file else 0

    def warn_of_missing(self, callbacks: list[str], records: Sequence[JsonLinesWriter], folder: RunFolder) -> None:
        if missing := [name for name in self.about.get("callbacks", ()) if name not in callbacks]:
            again = f"zoo.load({folder.name!r}).resume(callbacks=[...])"
            rank_zero_print(
                f"warning: {folder.name} was trained with callbacks that are missing now: {some(missing)}; in Python: {again}"
            )
        if lost := [file.path.name for file in records if file.has_lost_records]:
            again = f"zoo train --config {shlex.quote(str(folder.run_file))} --name NEW"
            rank_zero_print(f"warning: {some(lost)} lost records of before step {self.step:,}; to record all again: {again}")

    def __str__(self) -> str:
        return f"step {self.step:,}, epoch {self.content['epoch'] + 1}, from {self.file.name}" if self.file else "the first step"


def _open_data(registry: Registry, run: Run, folder: RunFolder, former: _Former) -> tuple[Any, DataRecord]:
    """The data of a Run, split as it was if it is resumed, and the record of its files.

    Raises:
        UserError: files that it was trained on have changed.
    """
    spec = described(registry, former.content, former.file)[1] if former.file else None
    data = build_data(registry, run, former.record, spec)
    files = DataRecord.of(data, content=bool(former.record.files))
    if former.record.files:
        require_unchanged(former.record, files, data, way_out_of_changes(folder, run, data.task))
    return data, files


def _build(registry: Registry, run: Run, data: Any, former: _Former) -> tuple[Task, Weights | None]:
    """The network of a Run with its initial weights, and those that were given; or with the weights of the checkpoint.

    Raises:
        UserError: it does not fit the data, or the weights do not fit it.
    """
    task = build_task(registry, run, data.spec)
    task.check_data_options(data)
    if run.recipe.freeze != "none":
        run.recipe.freezing.check(tuple(task.stages()), run.recipe.epochs)
    if former.file:
        _restore(registry, task, run, former.content, former.file)
        return task, None
    return task, load_initial_weights(registry, task, run)


def _restore(registry: Registry, task: Task, run: Run, former: dict[str, Any], file: Path) -> None:
    """Load the weights of a checkpoint, if it is of this Run."""
    of_checkpoint, spec = described(registry, former, file)
    if of_checkpoint.model != run.model:
        raise Damaged(f"{file} is of another run: its model is {of_checkpoint.model}, not {run.model}{way_out(file)}")
    load_weights(task, former["state_dict"], file, run.model["name"])
    require_finite(task, file)
    if run.recipe.weights:
        task.set_normalization(spec.mean, spec.std)


def _test_best(trainer: L.Trainer, task: Task, data: Any, trackers: Trackers) -> None:
    if len(getattr(task.spec, "classes", ())) <= trackers.most_classes:
        task.collect_details(metrics=False)
    with supervised(trainer):
        trainer.test(task, datamodule=data, verbose=False)
    warn_of_excluded(data)
    require_counted(trainer, task, "test")


def _record_best(trainer: L.Trainer, selection: Selection) -> None:
    """Record the validation metric of the best checkpoint, which marks the end of a run without a test."""
    name = selection.monitor.replace("val/", f"{BEST}/", 1)
    value = math.nan if selection.best is None else selection.best
    for logger in trainer.loggers:
        logger.log_metrics({name: value, "epoch": trainer.current_epoch}, trainer.global_step)


def _show_best(task: Task, data: Any, trackers: Trackers, folder: RunFolder) -> None:
    """Give the trackers what they show of the best weights."""
    if trackers.guests:
        trackers.log_samples("val/samples", task.validation_samples(data))
        trackers.log_monitors(folder.monitors_file, getattr(task.spec, "classes", ()), task.details.get("confusion", ()))


def _load_best(registry: Registry, task: Task, folder: RunFolder, is_rank_zero: bool) -> None:
    """Load the best checkpoint, or, where that of a finished run was lost, the last, which takes its place.

    Not by Lightning, which would load the weights before averaging.
    """
    try:
        best = read_checkpoint(folder.best)
    except UserError:
        best = read_checkpoint(folder.last)
        if is_rank_zero:
            copy_checkpoint(folder.last, folder.best)
    task.load_state_dict(best["state_dict"])
    task.spec = described(registry, best, folder.best)[1]  # it may have been calibrated before the training was resumed


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
    trainer = build_trainer(settings, run, logger=False, callbacks=[Stopping(), EvaluationProgress()])
    require_batches(trainer, module, "test")
    task.collect_details()
    with supervised(trainer):
        trainer.test(task, datamodule=module, verbose=False)
    warn_of_excluded(module)
    require_counted(trainer, task, "test")
    return TestResult(_test_metrics(trainer), details=task.details, is_rank_zero=trainer.is_global_zero)


def _test_metrics(trainer: L.Trainer) -> dict[str, float]:
    return {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("test/")}
