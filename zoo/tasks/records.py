"""What training measures, summed on the device and sent to the loggers when a record is due."""

from __future__ import annotations

import math
import time
from collections import Counter
from typing import Any

import lightning as L
import torch
from torch import Tensor

from zoo.config.recipe import Recipe
from zoo.core.errors import UserError

SUMS = "sums"  # of the records that wait, in a checkpoint


class Diverged(UserError):
    """A non-finite training loss."""


class RunningMeans:
    """Means over samples that are summed on the device and read when a record is due."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.count = 0

    def add(self, count: int, **sums: Tensor) -> None:
        """Add sums over ``count`` samples, each a 0-d tensor without gradient."""
        for name, value in sums.items():
            known = self.sums.get(name)
            self.sums[name] = value if known is None else known + value
        self.count += count

    def state(self, task: L.LightningModule) -> dict[str, Tensor]:
        """The sums and ``count`` of each process, [processes] each; all processes must call it."""
        own = {**self.sums, "count": torch.tensor(self.count, device=task.device)}
        return {name: task.all_gather(value).reshape(-1).cpu() for name, value in own.items()}

    def restore(self, task: L.LightningModule, state: dict[str, Tensor]) -> None:
        """Restore the sums of this process, and its part of those of other processes if there were more."""
        rank, world = task.trainer.global_rank, task.trainer.world_size
        own = {name: values[rank::world].sum(dtype=values.dtype).to(task.device) for name, values in state.items()}
        self.count = int(own.pop("count", 0))
        self.sums = own

    def take(self, task: L.LightningModule) -> tuple[dict[str, float], int]:
        """Return means over all processes and the number of samples since the last call, and reset them."""
        total = torch.stack([*self.sums.values(), torch.tensor(float(self.count), device=task.device)])
        total = task.trainer.strategy.reduce(total, reduce_op="sum")
        *sums, count = total.tolist()
        names = list(self.sums)
        self.sums, self.count = {}, 0
        return {name: value / count for name, value in zip(names, sums, strict=True)}, int(count)


class RecordingModule(L.LightningModule):
    """A module that logs means over training samples, and metrics.

    Attributes:
        running: what a training step adds its sums to.
    """

    recipe: Recipe

    def __init__(self) -> None:
        super().__init__()
        self.running = RunningMeans()
        self._sums_of_epoch: Counter[str] = Counter()
        self._recorded_at = 0.0

    # ------------------------------------------------------------------ training

    def on_train_start(self) -> None:
        self._recorded_at = time.monotonic()
        self._publish_averages()  # those of a checkpoint

    def on_train_epoch_start(self) -> None:
        self._sums_of_epoch.clear()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.record(batch_idx)

    def record(self, batch_idx: int) -> None:
        """Send what was summed since the last record to the loggers, if a record is due after this batch and was not sent yet.

        What saves a checkpoint at the end of a batch, before this hook of the module, calls it first.
        """
        trainer = self.trainer
        # each record has an optimizer step of its own, or a resume would not know which it goes through again;
        # 0 in a Trainer without logging
        every = trainer.log_every_n_steps * trainer.accumulate_grad_batches
        is_last = trainer.is_last_batch or trainer.global_step == trainer.max_steps
        if self.running.count and ((every and (batch_idx + 1) % every == 0) or is_last):
            self._record()

    def _record(self) -> None:
        """Send what was summed since the last record to the loggers."""
        means, samples = self.running.take(self)
        now = time.monotonic()
        values = {f"train/{name}": value for name, value in means.items()}
        self._sums_of_epoch.update({name: mean * samples for name, mean in values.items()}, samples=samples)
        self._publish_averages()
        values["train/lr"] = self.trainer.optimizers[0].param_groups[-1]["lr"]  # the last group is of the head
        values["train/samples_per_second"] = samples / max(now - self._recorded_at, 1e-9)
        self._recorded_at = now
        if not math.isfinite(values["train/loss"]):
            raise self.diverged(f"the loss is {values['train/loss']} at step {self.trainer.global_step}")
        self.send(values)

    def _publish_averages(self) -> None:
        """Make the means over the epoch so far known to callbacks."""
        sums, samples = self._sums_of_epoch, self._sums_of_epoch["samples"]
        averages = {name: total / samples for name, total in sums.items() if name != "samples"}
        # not by self.log, after which Lightning goes through what was logged at every step
        self.trainer.callback_metrics.update({name: torch.tensor(value) for name, value in averages.items()})
        self.trainer.progress_bar_metrics.update(averages)

    def diverged(self, what: str) -> Diverged:
        """Return the error that ends training, with advice."""
        if self.recipe.decays_past_zero:
            return Diverged(f"{what}: recipe.weight_decay={self.recipe.weight_decay} takes more than the weights in each step")
        return Diverged(f"{what}: lower recipe.lr={self.recipe.lr}, or set recipe.gradient_clip_val where gradients explode")

    @property
    def _is_exact(self) -> bool:
        """Whether metrics are logged as they are, under the number of optimizer steps, and not in Lightning's way."""
        return any(getattr(logger, "is_exact", False) for logger in self.trainer.loggers)

    def send(self, values: dict[str, float]) -> None:
        """Log values under the number of optimizer steps, or, as Lightning does, that of the last step, counted from 0; all
        processes must call it alike.
        """
        step = self.trainer.global_step if self._is_exact else max(0, self.trainer.global_step - 1)
        for logger in self.trainer.loggers:
            logger.log_metrics({"epoch": self.trainer.current_epoch, **values}, step=step)

    def on_validation_end(self) -> None:
        self._recorded_at = time.monotonic()  # validation is not part of the training rate

    # ------------------------------------------------------------------ evaluation

    def log_metrics(self, stage: str, metrics: dict[str, float]) -> None:
        """Log the metrics of a stage, which are of all processes."""
        values = {f"{stage}/{name}": value for name, value in metrics.items()}
        is_exact = self._is_exact
        # without sync_dist: they are of all processes already, and another mean would round them
        self.log_dict(values, logger=False if is_exact else None, prog_bar=not is_exact)
        if is_exact and not self.trainer.sanity_checking:
            self.send(values)

    # ------------------------------------------------------------------ checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self._trainer is not None:  # which fits, and does not only save
            checkpoint[SUMS] = {"running": self.running.state(self), "epoch": dict(self._sums_of_epoch)}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        sums = checkpoint.get(SUMS, {"running": {}, "epoch": {}})
        self.running.restore(self, sums["running"])
        self._sums_of_epoch = Counter(sums["epoch"])
