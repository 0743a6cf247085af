"""The callbacks that a recipe asks for."""

from __future__ import annotations

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping

from zoo.config.run import Run
from zoo.training.averaging import averaging


class Patience(EarlyStopping):
    """Early stopping whose state in a checkpoint includes the last epoch, and which keeps a stopped run stopped on resume."""

    def __init__(self, monitor: str, direction: str, patience: int) -> None:
        # by default Lightning would call it after all other callbacks, and so after saving
        super().__init__(monitor, mode=direction, patience=patience, check_on_train_epoch_end=False)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        trainer.should_stop = self.wait_count >= self.patience


def recipe_callbacks(run: Run, monitor: str, direction: str) -> list[L.Callback]:
    patience = run.recipe.early_stopping_patience
    return [*([Patience(monitor, direction, patience)] if patience else []), *averaging(run.recipe)]
