"""When a training saves its state: after each validation, at times in between, on a request to stop, and on an exception."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor
from torch.optim import Adafactor, Optimizer

from zoo.callbacks.throughput import Throughput
from zoo.core.errors import UserError, some
from zoo.core.json_lines import JsonLinesWriter
from zoo.core.ranks import rank_zero_print
from zoo.core.signals import Stopped, stop
from zoo.optim.muon import MuonWithAdamW
from zoo.training.checkpoints import FORMAT, KEY, copy_checkpoint, read_checkpoint
from zoo.training.run_folder import RunFolder
from zoo.training.selection import Selection
from zoo.training.stopping import Stopping

# what torch's optimizers keep for each weight
STATE_OF_WEIGHTS = {
    "acc_delta", "ax", "exp_avg", "exp_avg_sq", "exp_inf", "grad_avg", "max_exp_avg_sq", "momentum_buffer", "prev", "square_avg",
    "step_size", "sum",
}  # fmt: skip


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
        if state_dict["best"] is None and not self.folder.best.exists():  # no epoch has ended yet
            return
        try:
            read_checkpoint(self.folder.best)
        except UserError as error:  # gone or damaged: any is better
            takes = "the best of the epochs that follow takes its place, or the last where none follows"
            rank_zero_print(f"warning: {error.__cause__}: {takes}")
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
        progress = trainer.fit_loop.epoch_loop.batch_progress
        if not progress.is_last_batch and trainer.global_step != trainer.max_steps:  # Lightning takes it for the end of the data
            raise UserError(
                f"the epoch ended after {progress.current.completed:,} of {trainer.num_training_batches:,} batches: the model, "
                "the data or a callback raised StopIteration"
            )
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


def require_fitting_state(optimizer: Optimizer) -> None:
    """Check the state of an optimizer, which torch restores unseen and which would fail in the first step.

    Raises:
        ValueError: that of a parameter lacks what another's of its kind has, or what torch keeps for each weight is of another
            shape.
    """
    alike: dict[bool, list[tuple[Tensor, dict[str, Any]]]] = {True: [], False: []}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if state := optimizer.state.get(parameter):
                alike[_is_matrix(parameter, optimizer)].append((parameter, state))
    for states in alike.values():
        _require_alike(states)


def _is_matrix(parameter: Tensor, optimizer: Optimizer) -> bool:
    """Whether the optimizer keeps for it what it keeps for matrices, if that is other than for the rest."""
    return (isinstance(optimizer, Adafactor) and parameter.ndim > 1) or (
        isinstance(optimizer, MuonWithAdamW) and parameter.ndim == 2
    )


def _require_alike(states: list[tuple[Tensor, dict[str, Any]]]) -> None:
    names = {name for _, state in states for name in state}
    for parameter, state in states:
        if missing := sorted(map(str, names - state.keys())):
            raise ValueError(f"optimizer_states: {some(missing)} missing in the state of a parameter")
        for name in names & STATE_OF_WEIGHTS:
            if isinstance(state[name], Tensor) and state[name].shape != parameter.shape:
                shapes = f"{list(state[name].shape)} for a parameter of {list(parameter.shape)}"
                raise ValueError(f"optimizer_states: {name} is {shapes}")


class Rescue(L.Callback):
    """Refuses a restored state that would fail in the first step, and saves a checkpoint on an exception between two steps.

    Put it first, before other callbacks let go of their state.

    Args:
        greeting: printed when the training starts, with everything restored.
    """

    def __init__(self, checkpoints: Checkpoints, greeting: str) -> None:
        self.checkpoints, self.greeting = checkpoints, greeting

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for optimizer in trainer.optimizers:
            require_fitting_state(optimizer)
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
