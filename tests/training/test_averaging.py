"""Stochastic weight averaging held against torch's own averages and batch norm statistics of the same trainings."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import lightning as L
import pytest
import torch
from torch.optim.swa_utils import AveragedModel, update_bn

from zoo.config.resolution import resolve
from zoo.config.settings import parse_setting
from zoo.core.json_lines import read_json_lines
from zoo.registry.registry import scan
from zoo.training import engine

EPOCHS, START = 4, 2
SETTINGS = [
    f"recipe.epochs={EPOCHS}", "recipe.batch_size=32", "trainer.limit_train_batches=3", "trainer.limit_val_batches=2",
    "trainer.accelerator=cpu", "trainer.log_every_n_steps=1", "model.channels=[4]", "model.hidden_size=8", "model.norm=batch",
    "data.augment=crop:1,mixup",
]  # fmt: skip
SWA = ["recipe.average=swa", f"recipe.swa_start={START / EPOCHS}"]


class Observer(L.Callback):
    """Keeps the network at the end of each epoch, and the batches of the last."""

    def __init__(self) -> None:
        self.ends: list[Any] = []
        self.batches: list[torch.Tensor] = []
        self.evaluated: list[torch.Tensor] = []

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch == EPOCHS - 1:
            self.batches.append(pl_module.normalize(batch["images"]).clone())

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        if trainer.is_last_batch:
            self.ends.append(deepcopy(pl_module.state_dict()))

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        self.evaluated.append(pl_module.network_weight().clone())


def train(name: str, *settings: str, callbacks: tuple[L.Callback, ...] = ()) -> tuple[engine.TrainResult, dict[str, Any]]:
    run = resolve(scan(), "convnet", {}, [parse_setting(text) for text in [*SETTINGS, *settings]])
    outcome = engine.train(scan(), run, name, progress=False, monitor=False, callbacks=callbacks)
    return outcome, torch.load(outcome.folder.last, weights_only=True)


@pytest.fixture
def observer(monkeypatch: pytest.MonkeyPatch) -> Observer:
    from zoo.tasks.task import Task

    monkeypatch.setattr(Task, "network_weight", lambda self: next(self.parameters()).detach(), raising=False)
    return Observer()


def test_the_average_and_its_batch_norms_are_those_of_torch_and_the_training_is_as_without(observer: Observer) -> None:
    outcome, checkpoint = train("averaged", *SWA, callbacks=(observer,))
    network = deepcopy(outcome.task)
    network.load_state_dict(observer.ends[0])
    average = AveragedModel(network)
    for end in observer.ends[START:]:
        network.load_state_dict(end)
        average.update_parameters(network)
    update_bn(observer.batches, average)
    expected = average.module.state_dict()
    assert checkpoint["state_dict"].keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(checkpoint["state_dict"][name], value, rtol=1e-6, atol=1e-7, msg=name)
    assert int(checkpoint["averaging_state"]["n_averaged"]) == EPOCHS - START
    # evaluated is what is kept
    first = next(iter(dict(average.module.named_parameters()).values()))
    torch.testing.assert_close(observer.evaluated[-1], first, rtol=1e-6, atol=1e-7)
    assert torch.equal(observer.evaluated[0], next(iter(observer.ends[0].values()))), "before its start, the weights themselves"

    plain, without = train("plain")
    for name, value in without["state_dict"].items():
        assert torch.equal(checkpoint["current_model_state"][name], value), name
    of_training = [
        [{key: value for key, value in line.items() if key in ("step", "train/loss", "train/accuracy")} for line in lines]
        for lines in (list(read_json_lines(each.folder.metrics_file)) for each in (outcome, plain))
    ]
    assert of_training[0] == of_training[1]


def test_a_rate_of_its_own_holds_from_the_start_of_the_average() -> None:
    outcome, _ = train("rated", *SWA, "recipe.swa_lr=0.03", "recipe.lr=0.1", "recipe.schedule=cosine")
    rates = [line["train/lr"] for line in read_json_lines(outcome.folder.metrics_file) if "train/lr" in line]
    assert rates[-5:] == pytest.approx([0.03] * 5) and 0.03 not in rates[:5], "records hold the rate of the next step"


def test_a_training_that_ends_before_the_start_keeps_its_weights(capsys: pytest.CaptureFixture) -> None:
    settings = ("recipe.swa_start=0.9", "recipe.epochs=10", "recipe.early_stopping_patience=1", "recipe.lr=1e-9")
    outcome, checkpoint = train("short", "recipe.average=swa", *settings)
    assert checkpoint["epoch"] < 8 and "averaging_state" not in checkpoint and outcome.test
    told = (
        f"warning: training ended after {checkpoint['epoch'] + 1} epochs, and recipe.swa_start is after 9: nothing was averaged"
    )
    assert told in "".join(capsys.readouterr())
