"""Checkpoints: plain data with its own metadata, written atomically and read without running anything."""

from __future__ import annotations

import math
import os
import pickle
import re
import shlex
import shutil
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.plugins import CheckpointIO
from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError

from zoo.callbacks.throughput import Throughput
from zoo.config.recipe import Run
from zoo.core.errors import UserError, one_line
from zoo.core.files import replacing, replacing_path, require_regular
from zoo.core.json_lines import JsonLinesWriter
from zoo.core.ranks import rank_zero_print
from zoo.core.signals import Stopped, stop
from zoo.training.run_folder import RunFolder
from zoo.training.stopping import Stopping

FORMAT = 1
KEY = "bestiary"  # of the zoo's metadata in a checkpoint: format, run, spec


class PlainCheckpointIO(CheckpointIO):
    """Writes atomically; reads with ``weights_only=True``.

    Attributes:
        has_loaded: whether a checkpoint was read, which is then restored.
    """

    has_loaded = False

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        path = Path(path)
        try:
            with replacing(path, exclusive=True) as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:
            # torch's writer reports a full disk as a RuntimeError that names neither the disk nor the file
            reason = error.strerror if isinstance(error, OSError) else "the disk is full or cannot be written"
            raise UserError(f"{path} could not be written: {reason}; the previous checkpoint is kept") from error

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        self.has_loaded = True
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


class Strict(BaseModel):
    """Plain data of a checkpoint, whose types are not converted."""

    model_config = ConfigDict(strict=True)


class About(Strict):
    """The zoo's metadata in a checkpoint."""

    format: int
    run: dict[str, Any]
    spec: dict[str, Any]
    callbacks: list[str] = []
    wandb_id: str | None = None
    records: dict[str, NonNegativeInt] = {}


class TrainingState(Strict):
    """What a training goes on from besides the weights."""

    epoch: NonNegativeInt
    global_step: NonNegativeInt
    loops: dict[str, Any]
    callbacks: dict[str, Any]
    optimizer_states: list[dict[str, Any]]
    lr_schedulers: list[dict[str, Any]]


class Damaged(UserError):
    """A file of a run that cannot be used, with what can be done in the message."""


def read_checkpoint(path: Path, training: bool = False) -> dict[str, Any]:
    """Read a checkpoint to the CPU without running anything in it.

    Args:
        training: whether it must hold the state of the training, too.

    Raises:
        Damaged: the file is missing, damaged, not of the zoo, or contains more than plain data.
    """
    try:
        if path.exists():
            require_regular(path)
        return _read(path, training)
    except UserError as error:
        raise Damaged(f"{error}{way_out(path)}") from error


def way_out(path: Path) -> str:
    """What can be done about a checkpoint of a run that cannot be used, after the text of the error; empty for other files."""
    folder = RunFolder(path.parent.parent)
    if path not in (folder.best, folder.last) or not folder.run_file.is_file():
        return ""
    other = folder.last if path == folder.best else folder.best
    try:
        _read(other, training=True)
    except UserError:
        return f"; to start again: zoo train --config {shlex.quote(str(folder.run_file))}"
    if path == folder.best:
        return f"; to replace it: zoo train --resume {folder.name}"
    return f"; to go on from {folder.best.name}: zoo train --resume {folder.name} --checkpoint best"


def _read(path: Path, training: bool) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            # torch does not verify the checksums that it writes
            if (broken := archive.testzip()) is not None:
                raise UserError(f"{path} is damaged: {broken} does not match its checksum")
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except zipfile.BadZipFile:
        raise UserError(f"{path} is damaged or not a checkpoint: it is truncated, or of another format") from None
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is refused: it would run {refused_global(error) or 'code'}, but a checkpoint is plain data"
        ) from None
    except Exception as error:
        raise UserError(f"{path} is damaged: {type(error).__name__}: {one_line(error, 150)}") from None
    require_checkpoint(checkpoint, path)
    if training:
        _require(TrainingState, checkpoint, path)
    return checkpoint


def refused_global(error: pickle.UnpicklingError) -> str:
    """The global that torch refused to load, as in ``os.system``; empty where unknown."""
    named = re.search(r"GLOBAL (\S+)", str(error))
    return named[1] if named else ""


def require_checkpoint(checkpoint: Any, path: Path) -> dict[str, Any]:
    """Check the metadata and the weights of a checkpoint, and return it.

    Raises:
        UserError: it has none, is of another version, or the value of a key is none that the zoo writes.
    """
    about = checkpoint.get(KEY) if isinstance(checkpoint, dict) else None
    if not isinstance(about, dict) or not {"format", "run", "spec"} <= set(about) or "state_dict" not in checkpoint:
        raise UserError(f"{path} is not a checkpoint of the zoo")
    if about["format"] != FORMAT:
        raise UserError(f"{path} has format {about['format']}, this version of bestiary reads {FORMAT}: install a matching one")
    _require(About, about, path)
    _require(Run, about["run"], path, "run.")
    weights = checkpoint["state_dict"]
    if not isinstance(weights, dict):
        raise UserError(f"{path} is damaged: state_dict is no dictionary of weights")
    for name, value in weights.items():
        if reason := unusable(name, value):
            raise UserError(f"{path} is damaged: state_dict.{name} is {reason}")
    return checkpoint


def _require(kind: type[BaseModel], content: dict[str, Any], path: Path, prefix: str = "") -> None:
    try:
        kind(**{str(key): value for key, value in content.items()})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"{path} is damaged: {prefix}{where}: {one_line(first['msg'].lower(), 150)}") from None


def unusable(name: Any, value: Any) -> str:
    """Why a value cannot be a weight or a buffer; empty if it can."""
    if not isinstance(value, torch.Tensor):
        is_extra = isinstance(name, str) and name.endswith("_extra_state")  # what a module of a plugin may add
        return "" if is_extra else f"{type(value).__name__}, no tensor"
    if value.layout != torch.strided or value.is_quantized:
        return "no dense tensor"
    return "without values" if value.is_meta else ""


def require_finite(task: torch.nn.Module, path: Path) -> None:
    """Refuse weights that are not finite, and buffers with nan.

    Raises:
        UserError: naming the first.
    """
    wrong = [name for name, weight in task.named_parameters() if not bool(weight.isfinite().all())]
    wrong += [name for name, buffer in task.named_buffers() if buffer.is_floating_point() and bool(buffer.isnan().any())]
    if wrong:
        raise Damaged(f"{path} is damaged: state_dict.{wrong[0]} is not finite{way_out(path)}")


class Selection:
    """Selects the best checkpoint of a run by the one-standard-error rule (Breiman et al. 1984, section 3.4.3).

    Of all epochs whose metric is within one standard error of the best value so far, which may be luck, that with the lowest
    validation loss is the best, and of equals the later one.

    Args:
        monitor: metric that decides.
        direction: of that metric, "max" or "min".

    Attributes:
        best: the metric of the best checkpoint; None before the first.
    """

    def __init__(self, monitor: str, direction: str) -> None:
        self.monitor, self.sign = monitor, 1 if direction == "max" else -1
        self.best: float | None = None
        self.loss = self.extreme = math.nan  # validation loss of the best checkpoint; best value of any epoch

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "loss": self.loss, "extreme": self.extreme}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.loss, self.extreme = (state_dict[name] for name in ("best", "loss", "extreme"))

    def is_best(self, metrics: Mapping[str, Any], standard_error: Callable[[float], float]) -> bool:
        """Whether the epoch with these metrics is the best so far; nan is worse than any number.

        Args:
            standard_error: of a value of the metric.
        """
        value, loss = float(metrics.get(self.monitor, math.nan)), float(metrics.get("val/loss", math.nan))
        former = math.nan if self.best is None else self.best
        if not math.isnan(value) and (math.isnan(self.extreme) or self.sign * (value - self.extreme) > 0):
            self.extreme = value
        least = self.sign * self.extreme - standard_error(self.extreme)
        if math.isnan(value) and not math.isnan(former):
            return False
        if self.sign * value >= least and self.sign * former >= least:  # a near-tie
            by_loss = not (math.isnan(loss) or math.isnan(self.loss))
            improved = loss <= self.loss if by_loss else self.sign * (value - former) >= 0
        else:
            improved = math.isnan(former) or self.sign * value >= least
        if improved:
            self.best, self.loss = None if math.isnan(value) else value, loss
        return improved


class Checkpoints(Stopping):
    """Saves ``last.ckpt`` and ``best.ckpt`` of a run, and stops it cleanly on request.

    Saves after every validation, every ``minutes`` within an epoch, on a request to stop, and, with ``Rescue``, on an exception,
    so that nothing loses the run. Put it after all callbacks that write records: a checkpoint comes after those of its step.

    Args:
        folder: the run's own folder; nothing outside it is touched.
        about: returns the metadata of a checkpoint as plain data.
        records: files of the run, whose positions a checkpoint holds.
        selection: decides which checkpoint is the best.
        minutes: between checkpoints within an epoch.
    """

    def __init__(
        self,
        folder: RunFolder,
        about: Callable[[], dict[str, Any]],
        records: Sequence[JsonLinesWriter],
        selection: Selection,
        minutes: float,
    ) -> None:
        super().__init__()
        self.folder, self.about, self.records, self.selection = folder, about, records, selection
        self.seconds = minutes * 60
        self.saved_at = time.monotonic()
        self.has_started = self.has_stepped = False  # before a step has ended, nothing of the run may change

    def state_dict(self) -> dict[str, Any]:
        return self.selection.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        try:
            read_checkpoint(self.folder.best)
        except UserError as error:  # gone or damaged: any is better
            rank_zero_print(f"warning: {error.__cause__}: the best of the epochs that follow takes its place")
        else:
            self.selection.load_state_dict(state_dict)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[KEY] = {"format": FORMAT, **self.about()}
        if trainer.is_global_zero:
            checkpoint[KEY]["records"] = {file.path.name: file.position() for file in self.records}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.has_started, self.saved_at = True, time.monotonic()
        self.stop_if_requested(trainer, now=True)
        stop.error = None  # from here on only where the state can be saved

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.has_stepped = True
        # the end of an epoch saves anyway, and gradients that are being accumulated cannot be saved
        if trainer.is_last_batch or (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        is_due = time.monotonic() - self.saved_at > self.seconds
        stopping, saving = self.agreement.any(trainer, stop.requested, is_due)
        if (stopping or saving) and not pl_module.one_pass:  # a pass is short, and not the same from its middle on
            pl_module.record(batch_idx)
            self.save(trainer)
        if stopping:
            raise Stopped

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        if stop.error is None:  # a validation of the training
            self.stop_if_requested(trainer, save=lambda: self._save_before_validation(trainer, pl_module))

    def _save_before_validation(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Save the state at the last step, so that a resumed run begins with the validation."""
        if pl_module.one_pass:
            return
        for callback in trainer.callbacks:
            if isinstance(callback, WeightAveraging):
                callback.on_validation_epoch_end(trainer, pl_module)  # which gives the weights of the training back
        repeat_validation(trainer)
        self.save(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.save(trainer, best=self.selection.is_best(trainer.callback_metrics, pl_module.standard_error))
        self.stop_if_requested(trainer, now=True)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.stop_if_requested(trainer, now=True)
        stop.release(Stopped)

    def save(self, trainer: L.Trainer, best: bool = False) -> None:
        """Write ``last.ckpt``, and first a copy as ``best.ckpt`` if it is the best so far.

        Raises:
            UserError: the disk is full; what was saved before is kept.
        """
        fresh = self.folder.checkpoints / ".fresh.ckpt"
        with ExitStack() as stack:
            for callback in trainer.callbacks:
                if isinstance(callback, Throughput):
                    stack.enter_context(callback.paused())
            trainer.save_checkpoint(fresh)
            if trainer.is_global_zero:
                try:
                    if best:
                        copy_checkpoint(fresh, self.folder.best)
                    os.replace(fresh, self.folder.last)
                finally:
                    fresh.unlink(missing_ok=True)
            trainer.strategy.barrier("checkpoint")
        self.saved_at = time.monotonic()


class Rescue(L.Callback):
    """Saves a checkpoint on an exception between two steps. Put it first, before other callbacks let go of their state.

    Args:
        greeting: printed when the training starts, with everything restored.
    """

    def __init__(self, checkpoints: Checkpoints, greeting: str) -> None:
        self.checkpoints, self.greeting = checkpoints, greeting

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.greeting:
            rank_zero_print(self.greeting)

    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        # within a step batch norms are updated already, and some weights may be; other processes may be anywhere; and at the end
        # of an epoch the state is that before or after a validation
        loop = trainer.fit_loop.epoch_loop
        batches, is_last = loop.batch_progress.current, loop.batch_progress.is_last_batch
        between_steps = batches.started == batches.processed and trainer.accumulate_grad_batches == 1
        whole = trainer.training and trainer.world_size == 1 and between_steps and self.checkpoints.has_stepped
        if not whole or isinstance(exception, (Stopped, UserError)) or (is_last and batches.completed == batches.ready):
            return
        if batches.ready == batches.processed:  # else the next batch has begun
            pl_module.record(batches.processed - 1)
            for callback in trainer.callbacks:
                if isinstance(callback, Throughput):
                    callback.on_train_batch_end(trainer, pl_module, None, None, batches.processed - 1)
            if is_last:
                loop.batch_progress.increment_completed()
                repeat_validation(trainer)
        self.checkpoints.save(trainer)


def repeat_validation(trainer: L.Trainer) -> None:
    """Let a checkpoint that is saved now, after the last batch of an epoch, resume with the validation."""
    progress = trainer.fit_loop.epoch_loop.val_loop.batch_progress
    progress.reset()  # in the first batch, where Lightning recognizes a validation to repeat
    progress.increment_ready()
    progress.increment_started()


def copy_checkpoint(source: Path, target: Path) -> None:
    """Replace a checkpoint atomically by a copy of another, which shares no blocks with it that damage could reach.

    Raises:
        UserError: the disk is full.
    """
    try:
        with replacing_path(target, exclusive=True) as beside:
            shutil.copyfile(source, beside)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UserError(f"{target} could not be written: {reason}; the previous checkpoint is kept") from error
