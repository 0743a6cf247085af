"""What is kept, when, and that it is plain data."""

from __future__ import annotations

import math
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from zoo.config.recipe import parse_setting, resolve
from zoo.core.json_lines import read_json_lines
from zoo.registry.registry import scan
from zoo.spec import Crop, ImageSpec, spec_from_primitives, spec_to_primitives
from zoo.training import engine
from zoo.training.checkpoints import KEY, Checkpoints, StopRequest, read_checkpoint
from zoo.training.metrics_logger import MetricsLogger
from zoo.training.run_folder import RunFolder


def train(*settings: str, model: str = "softmax") -> engine.TrainResult:
    texts = ["recipe.epochs=3", "trainer.limit_train_batches=3", "trainer.accelerator=cpu", *settings]
    return engine.train(scan(), resolve(scan(), model, {}, [parse_setting(text) for text in texts]), "run")


def test_a_checkpoint_is_plain_data_that_says_what_it_is() -> None:
    checkpoint = torch.load(train().folder.best, weights_only=True)
    about = checkpoint[KEY]
    assert about["run"]["model"] == {"name": "softmax"} and about["run"]["data"]["name"] == "digits"
    assert spec_from_primitives(about["spec"]).classes == tuple("0123456789")
    assert checkpoint["hyper_parameters"]["recipe"] == about["run"]["recipe"]


def test_best_is_the_epoch_with_the_best_validation_metric() -> None:
    outcome = train("recipe.epochs=6")
    scores = {r["epoch"]: r["val/accuracy"] for r in read_json_lines(outcome.folder.metrics_file) if "val/accuracy" in r}
    best = read_checkpoint(outcome.folder.best)
    assert scores[best["epoch"]] == max(scores.values()) == pytest.approx(outcome.best)
    assert read_checkpoint(outcome.folder.last)["epoch"] == 5


@pytest.mark.parametrize(("direction", "kept"), [("max", [0.1, 0.3, 0.3]), ("min", [0.1, 0.05])])
def test_best_follows_the_direction_of_the_metric_and_equals_go_to_the_later(direction: str, kept: list[float]) -> None:
    class FakeTrainer:
        world_size, current_epoch, max_epochs = 1, 0, 9
        callback_metrics: dict[str, float] = {}

    saved = []
    saving = Checkpoints(RunFolder(Path("runs/x")), dict, "val/x", direction, 1.0, StopRequest())
    saving.save = lambda trainer, best=False: saved.append(best)
    values = [0.1, 0.3, 0.2, 0.3, 0.05]
    for value in values:
        FakeTrainer.callback_metrics = {"val/x": value}
        saving.on_train_epoch_end(FakeTrainer, None)
    assert [value for value, best in zip(values, saved, strict=True) if best] == kept


@pytest.mark.parametrize(("values", "kept"), [([math.nan, 0.5, 0.1], [0.5]), ([0.5, math.nan, 0.6], [0.5, 0.6])])
def test_a_score_that_is_no_number_is_worse_than_any(values: list[float], kept: list[float]) -> None:
    saving = Checkpoints(RunFolder(Path("runs/x")), dict, "val/x", "max", 1.0, StopRequest())
    saved = []
    saving.save = lambda trainer, best=False: saved.append(best)
    for value in values:
        saving.on_train_epoch_end(
            SimpleNamespace(world_size=1, current_epoch=0, max_epochs=9, callback_metrics={"val/x": value}), None
        )
    best = [value for value, is_best in zip(values, saved, strict=True) if is_best]
    assert [value for value in best if value == value] == kept and saving.best == kept[-1]


def test_a_program_may_train_in_any_thread() -> None:
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(train, "recipe.epochs=1").result().test


def test_a_long_epoch_is_saved_within() -> None:
    outcome = train("recipe.epochs=1", "recipe.checkpoint_minutes=1e-9", "trainer.limit_train_batches=5")
    assert outcome.test  # saved after every step, and nothing else changed
    assert not list(outcome.folder.checkpoints.glob(".*"))


def test_averaged_weights_are_what_is_tested_and_kept() -> None:
    plain = read_checkpoint(train().folder.last)
    Path("runs/run").rename("runs/former")
    averaged = read_checkpoint(train("recipe.ema_decay=0.5").folder.last)
    assert torch.equal(plain["state_dict"]["linear.weight"], averaged["current_model_state"]["linear.weight"])
    assert not torch.equal(plain["state_dict"]["linear.weight"], averaged["state_dict"]["linear.weight"])


def test_no_other_file_of_the_folder_is_touched() -> None:
    run = resolve(scan(), "softmax", {}, [parse_setting("recipe.epochs=1")])
    folder = RunFolder(Path("runs/run"))
    folder.describe(run, {})
    other = folder.checkpoints / "mine.ckpt"
    other.write_text("mine")
    engine.train(scan(), run, resume=folder)
    assert other.read_text() == "mine"


def test_a_signal_is_noted_once_and_handlers_are_given_back() -> None:
    former = signal.getsignal(signal.SIGINT)
    stop = StopRequest()
    with stop.listening():
        signal.raise_signal(signal.SIGINT)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is former


def test_what_is_not_finite_is_null_in_the_record(tmp_path: Path) -> None:
    log = MetricsLogger(tmp_path / "metrics.jsonl")
    log.log_metrics({"val/loss": math.inf, "val/accuracy": 0.5, "epoch": 0}, 3)
    assert '"val/loss":null,"val/accuracy":0.5' in log.path.read_text() and log.latest["val/loss"] == math.inf


def test_records_after_the_resumed_step_and_a_broken_last_line_are_dropped(tmp_path: Path) -> None:
    log = MetricsLogger(tmp_path / "metrics.jsonl")
    for step in (5, 10, 15):
        log.log_metrics({"train/loss": 1.0 / step, "epoch": 0}, step)
    with log.path.open("a") as file:
        file.write('{"step": 20, "tra')
    log.rewind(10)
    assert [record["step"] for record in read_json_lines(log.path)] == [5, 10]


def test_a_spec_survives_its_primitives() -> None:
    crop = Crop("center", 0.875, "bicubic")
    spec = ImageSpec(3, 32, 24, classes=("a", "b"), mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0), crop=crop)
    assert spec_from_primitives(spec_to_primitives(spec)) == spec
    older = {key: value for key, value in spec_to_primitives(spec).items() if key != "crop"}
    assert spec_from_primitives(older) == replace(spec, crop=Crop())
