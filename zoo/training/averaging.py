"""Averages of the weights, which are evaluated and kept in their place: exponential, and of the last epochs (SWA)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, WeightAveraging
from torch.nn.modules.batchnorm import _BatchNorm

from zoo.config.recipe import Recipe
from zoo.core.ranks import rank_zero_print
from zoo.core.signals import stop


def averaging(recipe: Recipe) -> list[L.Callback]:
    """The callback for the average of a recipe, if it has one."""
    if recipe.average == "swa":
        return [StochasticWeightAveraging(recipe.first_averaged_epoch)]
    if recipe.average == "ema":
        # batch norm statistics are averages already: averaged again they would lag far behind
        return [EMAWeightAveraging(decay=recipe.decay_of_average, use_buffers=False)]
    return []


class StochasticWeightAveraging(WeightAveraging):
    """The mean of the weights at the end of each epoch from ``start`` on, counted from 0 (Izmailov et al. 2018, algorithm 1).

    From then on each validation, and each checkpoint, is of the mean, with batch norm statistics of its own.
    """

    def __init__(self, start: int) -> None:
        super().__init__(use_buffers=False)
        self.start = start

    @property
    def has_begun(self) -> bool:
        return self._average_model is not None and int(self._average_model.n_averaged) > 0

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        # here, as the validation comes before the end of the epoch
        if trainer.is_last_batch and trainer.current_epoch >= self.start:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        if self.has_begun:
            super().on_validation_epoch_start(trainer, pl_module)
            update_batch_norms(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if self.has_begun:
            super().on_validation_epoch_end(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if self.has_begun:
            super().on_train_end(trainer, pl_module)
        elif not stop.requested:
            early = f"training ended after {trainer.current_epoch} epochs, and recipe.swa_start is after {self.start}"
            rank_zero_print(f"warning: {early}: nothing was averaged")

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        if self.has_begun:
            super().on_save_checkpoint(trainer, pl_module, checkpoint)

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        if "averaging_state" in checkpoint:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)


@torch.no_grad()
def update_batch_norms(trainer: L.Trainer, task: Any) -> None:
    """Replace the statistics of batch norms by those of the batches of this epoch, as ``torch.optim.swa_utils.update_bn`` does.

    All processes together see each batch once, and end with the same statistics. Frozen norms keep theirs.
    """
    was_training = task.training
    task.train()
    norms = [each for each in task.modules() if isinstance(each, _BatchNorm) and each.training and each.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # an equally weighted mean
    if norms:
        with task.unrecorded():
            for index, batch in enumerate(_batches_of_epoch(trainer, task)):
                task.seed_step(index)
                with trainer.precision_plugin.train_step_context():
                    task.training_step(batch, index)
                if stop.requested and trainer.world_size == 1:
                    break  # the validation will stop, too, and a resumed run repeats both
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        for statistics in (norm.running_mean, norm.running_var):
            statistics.copy_(trainer.strategy.reduce(statistics.clone(), reduce_op="mean"))
    task.train(was_training)


def _batches_of_epoch(trainer: L.Trainer, task: Any) -> Iterator[Any]:
    """The training batches of this process in the current epoch, on its device, as they were trained on."""
    loader = trainer.train_dataloader
    batches = loader.batches(trainer.current_epoch, 0) if hasattr(loader, "batches") else iter(loader)
    for batch in islice(batches, int(trainer.num_training_batches)):
        batch = task._on_before_batch_transfer(trainer.precision_plugin.convert_input(batch), dataloader_idx=0)
        yield trainer.strategy.batch_to_device(batch, dataloader_idx=0)
