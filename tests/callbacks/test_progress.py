"""Progress is shown with rate and time left, by a callback that any Lightning project can use."""

from __future__ import annotations

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from callbacks.progress import TrainingProgress


class Anybodys(L.LightningModule):
    """A module that knows nothing of the zoo."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return self.layer(batch).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(progress: TrainingProgress, **options) -> None:
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        **{"callbacks": [progress], **options},
    )  # fmt: skip
    trainer.fit(Anybodys(), DataLoader(torch.randn(12, 2), batch_size=4))


def test_a_log_gets_plain_lines_with_metrics_and_time_left(capfd: pytest.CaptureFixture) -> None:
    fit(TrainingProgress({"train/loss": 0.5, "other": 1.0}, ("train/loss", "val/loss"), terminal=False), max_epochs=2)
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("epoch ")]
    assert lines[-1].startswith("epoch 2/2  train/loss 0.5  ") and "left" in lines[-1]
    assert "other" not in lines[-1]


def test_a_terminal_gets_a_bar_that_reaches_its_end(capfd: pytest.CaptureFixture) -> None:
    progress = TrainingProgress({"train/loss": 0.5}, ("train/loss",), terminal=True)
    fit(progress, max_epochs=2)
    told = capfd.readouterr().err
    assert "6/6" in told and "2/2" in told and "steps/s" in told
    assert progress.bar is None, "the bar is closed"


def test_a_bar_shows_how_the_metric_went_from_epoch_to_epoch(capfd: pytest.CaptureFixture) -> None:
    class Improves(L.Callback):
        def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            metrics["val/accuracy"] = 0.1 * trainer.current_epoch

    metrics: dict[str, float] = {}
    progress = TrainingProgress(metrics, ("val/accuracy",), terminal=True, trend="val/accuracy")
    fit(progress, max_epochs=3, callbacks=[Improves(), progress])
    assert progress.past == pytest.approx([0.0, 0.1, 0.2])
    assert "▁▅█" in capfd.readouterr().err


def test_the_bar_is_closed_when_a_training_fails() -> None:
    class Failing(Anybodys):
        def training_step(self, batch, batch_idx):
            raise RuntimeError("no")

    progress = TrainingProgress({}, (), terminal=True)
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[progress], max_epochs=1,
    )  # fmt: skip
    with pytest.raises(RuntimeError):
        trainer.fit(Failing(), DataLoader(torch.randn(4, 2)))
    assert progress.bar is None
