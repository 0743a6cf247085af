"""Checkpoints: plain data that says what it is, written whole or not at all, and read without running anything."""

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
from zoo.training.run_folder import RunFolder

FORMAT = 1
KEY = "bestiary"  # where a checkpoint keeps what the zoo needs: format, run, spec


class Interrupted(Exception):
    """A run was asked to stop, and has stopped where it can go on exactly, or, if nothing was saved yet, begin anew.

    Args:
        run: its name, once that is known.
        is_saved: whether it has a checkpoint.
    """

    def __init__(self, run: str = "", is_saved: bool = True) -> None:
        super().__init__(run)
        self.is_saved = is_saved


class StopRequest:
    """Whether somebody has asked this process to stop, by Ctrl-C or SIGTERM."""

    def __init__(self) -> None:
        self.asked = False

    @contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Take note of the first signal; a second one ends the process as usual.

        Signals come to the main thread alone: in another one nothing is listened to.
        """
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        former = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def note(number: int, frame: Any) -> None:
            self.asked = True
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
    """Writes beside and renames; reads with ``weights_only=True``."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        path = Path(path)
        beside = path.with_name(f".{path.name}.partial")
        try:
            with beside.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        except BaseException as error:
            beside.unlink(missing_ok=True)
            # torch's writer reports a full disk as a RuntimeError that names neither the disk nor the file
            if isinstance(error, (OSError, RuntimeError)):
                reason = error.strerror if isinstance(error, OSError) else "the disk is full or cannot be written"
                raise UserError(f"{path} could not be written: {reason}; what was saved before is kept") from error
            raise

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint file, on the CPU. Nothing in it is run.

    Raises:
        UserError: the file is missing, damaged, of another origin, or holds more than plain data.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            # torch does not look at the checksums that its own writer leaves
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
        raise UserError(f"{path} is damaged or not a checkpoint: it was cut off, or written by something else") from None
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is refused: it asks to run {asked_to_run(error) or 'code'}, a checkpoint of the zoo is plain data"
        ) from None
    except Exception as error:
        raise UserError(f"{path} is damaged: {type(error).__name__}: {one_line(error, 150)}") from None
    return require_ours(checkpoint, path)


def asked_to_run(error: pickle.UnpicklingError) -> str:
    """What torch's reader of plain data stumbled over first, as in ``os.system``; nothing where it does not tell."""
    named = re.search(r"GLOBAL (\S+)", str(error))
    return named[1] if named else ""


def require_ours(checkpoint: Any, path: Path) -> dict[str, Any]:
    """The content of a file that says of itself what a checkpoint of the zoo does.

    Raises:
        UserError: it does not, or in the words of another version.
    """
    about = checkpoint.get(KEY) if isinstance(checkpoint, dict) else None
    if not isinstance(about, dict) or not {"format", "run", "spec"} <= set(about) or "state_dict" not in checkpoint:
        raise UserError(f"{path} is not a checkpoint of the zoo")
    if about["format"] != FORMAT:
        raise UserError(f"{path} has format {about['format']}, this version of bestiary reads {FORMAT}: install a matching one")
    return checkpoint


class Checkpoints(L.Callback):
    """Keeps ``last.ckpt`` and ``best.ckpt`` of a run, and stops it cleanly when asked.

    Saved after every validation, when ``minutes`` have passed within an epoch, when somebody asks to stop, and on a fault, so
    that nothing loses the run. Best is judged in the metric's own direction;
    of equals the later one is kept, which has seen more and been trained at a lower rate.

    Args:
        folder: the run's own folder; nothing outside it is touched.
        about: what a checkpoint says of itself beside the weights, as plain data.
        monitor: the metric, and ``direction``, "max" or "min".
        minutes: between two saves within an epoch.
        stop: asked at the end of each step.
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
        # the end of an epoch saves for itself, and gradients that are still being accumulated cannot be saved
        if trainer.is_last_batch or (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        stop, due = self.stop.asked, time.monotonic() - self.saved_at > self.seconds
        if trainer.world_size > 1:
            # processes must agree, and agreeing waits for all of them: not at every step
            if trainer.global_step % trainer.log_every_n_steps:
                return
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
            due = trainer.strategy.reduce_boolean_decision(due, all=False)
        if (stop or due) and not pl_module.one_pass:  # a pass is short, and not the same from its middle on
            self.save(trainer)
        if stop:
            raise Interrupted

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        value = trainer.callback_metrics.get(self.monitor)
        score = None if value is None else float(value)
        improved = score is None or self._is_at_least_as_good(score)
        if improved:
            self.best = score
        self.save(trainer, best=improved)
        stop = self.stop.asked
        if trainer.world_size > 1:
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
        if stop and trainer.current_epoch + 1 < trainer.max_epochs:
            raise Interrupted

    def _is_at_least_as_good(self, score: float) -> bool:
        """As good as the best so far; what is not a number is worse than any that is."""
        if self.best is None or math.isnan(self.best):
            return True
        return score >= self.best if self.direction == "max" else score <= self.best

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        # within a step batch norms have taken in the batch, and some weights may have moved; other processes may be anywhere
        batches = trainer.fit_loop.epoch_loop.batch_progress.current
        between_steps = batches.started == batches.processed and trainer.accumulate_grad_batches == 1
        whole = trainer.training and trainer.world_size == 1 and between_steps
        if whole and trainer.global_step and not isinstance(exception, (Interrupted, UserError)):
            self.save(trainer)

    def save(self, trainer: L.Trainer, best: bool = False) -> None:
        """Write ``last.ckpt`` and, first, give the same file the name ``best.ckpt`` if it is the best so far."""
        fresh = self.folder.checkpoints / ".fresh.ckpt"
        trainer.save_checkpoint(fresh)
        if trainer.is_global_zero:
            if best:
                _link(fresh, self.folder.best)
            os.replace(fresh, self.folder.last)
        trainer.strategy.barrier("checkpoint")
        self.saved_at = time.monotonic()


def _link(source: Path, target: Path) -> None:
    """A second name for a file, or a copy where the file system knows no links; the old target is replaced at once."""
    beside = target.with_name(f".{target.name}.partial")
    beside.unlink(missing_ok=True)
    try:
        os.link(source, beside)
    except OSError:
        shutil.copyfile(source, beside)
    os.replace(beside, target)
