"""Checkpoints: plain data with its own metadata, written atomically and read without running anything."""

from __future__ import annotations

import math
import os
import pickle
import re
import shutil
import signal
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins import CheckpointIO

from zoo.core.errors import UserError, one_line
from zoo.core.files import replacing
from zoo.training.run_folder import RunFolder

FORMAT = 1
KEY = "bestiary"  # of the zoo's metadata in a checkpoint: format, run, spec


class Stopped(Exception):
    """A request to stop was met, inside of Lightning, which ends the process itself at a KeyboardInterrupt."""


class StopRequest:
    """Records a request to stop by Ctrl-C or SIGTERM."""

    def __init__(self) -> None:
        self.requested = False

    @contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Record the first signal; a second one ends the process as usual.

        Only the main thread receives signals: in any other this does nothing.
        """
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        former = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def note(number: int, frame: Any) -> None:
            self.requested = True
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

        try:
            for number in former:
                signal.signal(number, note)
            yield self
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)


class PlainCheckpointIO(CheckpointIO):
    """Writes atomically; reads with ``weights_only=True``."""

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
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint to the CPU without running anything in it.

    Raises:
        UserError: the file is missing, damaged, not of the zoo, or contains more than plain data.
    """
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
    return require_checkpoint(checkpoint, path)


def refused_global(error: pickle.UnpicklingError) -> str:
    """The global that torch refused to load, as in ``os.system``; empty where unknown."""
    named = re.search(r"GLOBAL (\S+)", str(error))
    return named[1] if named else ""


def require_checkpoint(checkpoint: Any, path: Path) -> dict[str, Any]:
    """Check the metadata of a checkpoint and return it.

    Raises:
        UserError: it has none, or is of another version.
    """
    about = checkpoint.get(KEY) if isinstance(checkpoint, dict) else None
    if not isinstance(about, dict) or not {"format", "run", "spec"} <= set(about) or "state_dict" not in checkpoint:
        raise UserError(f"{path} is not a checkpoint of the zoo")
    if about["format"] != FORMAT:
        raise UserError(f"{path} has format {about['format']}, this version of bestiary reads {FORMAT}: install a matching one")
    return checkpoint


class Checkpoints(L.Callback):
    """Saves ``last.ckpt`` and ``best.ckpt`` of a run, and stops it cleanly on request.

    Saves after every validation, every ``minutes`` within an epoch, on a request to stop, and on an exception, so that nothing
    loses the run. Of equally good checkpoints the later one is the best, which was trained longer and at a lower learning rate.

    Args:
        folder: the run's own folder; nothing outside it is touched.
        about: returns the metadata of a checkpoint as plain data.
        monitor: metric that decides which is best.
        direction: of that metric, "max" or "min".
        minutes: between checkpoints within an epoch.
        stop: checked at the end of each step.
    """

    def __init__(
        self,
        folder: RunFolder,
        about: Callable[[], dict[str, Any]],
        monitor: str,
        direction: str,
        minutes: float,
        stop: StopRequest,
    ) -> None:
        self.folder, self.about, self.monitor, self.direction = folder, about, monitor, direction
        self.seconds, self.stop = minutes * 60, stop
        self.best: float | None = None
        self.saved_at = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[KEY] = {"format": FORMAT, **self.about()}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.saved_at = time.monotonic()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        # the end of an epoch saves anyway, and gradients that are being accumulated cannot be saved
        if trainer.is_last_batch or (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        stop, due = self.stop.requested, time.monotonic() - self.saved_at > self.seconds
        if trainer.world_size > 1:
            # processes must agree, which synchronizes them: not at every step
            if trainer.global_step % trainer.log_every_n_steps:
                return
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
            due = trainer.strategy.reduce_boolean_decision(due, all=False)
        if (stop or due) and not pl_module.one_pass:  # a pass is short, and not the same from its middle on
            self.save(trainer)
        if stop:
            raise Stopped

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        value = trainer.callback_metrics.get(self.monitor)
        score = None if value is None else float(value)
        improved = score is None or self._is_at_least_as_good(score)
        if improved:
            self.best = score
        self.save(trainer, best=improved)
        stop = self.stop.requested
        if trainer.world_size > 1:
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
        if stop and trainer.current_epoch + 1 < trainer.max_epochs:
            raise Stopped

    def _is_at_least_as_good(self, score: float) -> bool:
        """Whether a score is at least as good as the best so far; nan is worse than any number."""
        if self.best is None or math.isnan(self.best):
            return True
        return score >= self.best if self.direction == "max" else score <= self.best

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        # within a step batch norms are updated already, and some weights may be; other processes may be anywhere
        batches = trainer.fit_loop.epoch_loop.batch_progress.current
        between_steps = batches.started == batches.processed and trainer.accumulate_grad_batches == 1
        whole = trainer.training and trainer.world_size == 1 and between_steps
        if whole and trainer.global_step and not isinstance(exception, (Stopped, UserError)):
            self.save(trainer)

    def save(self, trainer: L.Trainer, best: bool = False) -> None:
        """Write ``last.ckpt``, and link the same file as ``best.ckpt`` first if it is the best so far."""
        fresh = self.folder.checkpoints / ".fresh.ckpt"
        trainer.save_checkpoint(fresh)
        if trainer.is_global_zero:
            if best:
                _link(fresh, self.folder.best)
            os.replace(fresh, self.folder.last)
        trainer.strategy.barrier("checkpoint")
        self.saved_at = time.monotonic()


def _link(source: Path, target: Path) -> None:
    """Replace a file atomically by a hard link, or by a copy where the file system has no links."""
    beside = target.with_name(f".{target.name}.partial")
    beside.unlink(missing_ok=True)
    try:
        os.link(source, beside)
    except OSError:
        shutil.copyfile(source, beside)
    os.replace(beside, target)
