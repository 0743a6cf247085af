"""What is kept, when, and that it is plain data."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from zoo.config.resolution import resolve
from zoo.config.settings import parse_setting
from zoo.core.json_lines import JsonLinesWriter, read_json_lines
from zoo.registry.registry import scan
from zoo.spec import Crop, ImageSpec, spec_from_primitives, spec_to_primitives
from zoo.training import building, engine
from zoo.training.checkpoints import KEY, read_checkpoint
from zoo.training.metrics_logger import MetricsLogger
from zoo.training.run_folder import RunFolder
from zoo.training.selection import Selection


def train(*settings: str, model: str = "softmax") -> engine.TrainResult:
    texts = ["recipe.epochs=3", "trainer.limit_train_batches=3", "trainer.accelerator=cpu", *settings]
    return engine.train(scan(), resolve(scan(), model, {}, [parse_setting(text) for text in texts]), "run")


def test_a_checkpoint_is_plain_data_that_says_what_it_is() -> None:
    checkpoint = torch.load(train().folder.best, weights_only=True)
    about = checkpoint[KEY]
    assert about["run"]["model"] == {"name": "softmax"} and about["run"]["data"]["name"] == "digits"
    assert spec_from_primitives(about["spec"]).classes == tuple("0123456789")
    assert checkpoint["hyper_parameters"]["recipe"] == about["run"]["recipe"]


def test_best_is_within_a_standard_error_of_the_best_epoch_and_has_the_lowest_loss_of_these() -> None:
    outcome = train("recipe.epochs=6")
    epochs = {r["epoch"]: r for r in read_json_lines(outcome.folder.metrics_file) if "val/accuracy" in r}
    highest = max(record["val/accuracy"] for record in epochs.values())
    samples = len(building.build_data(scan(), RunFolder.find("run").read_run()).splits["val"])
    near = highest - math.sqrt(highest * (1 - highest) / samples)
    best = epochs[read_checkpoint(outcome.folder.best)["epoch"]]
    lowest = min(record["val/loss"] for record in epochs.values() if record["val/accuracy"] >= near)
    assert best["val/loss"] == lowest and best["val/accuracy"] == outcome.best
    assert read_checkpoint(outcome.folder.last)["epoch"] == 5


def kept(direction: str, epochs: list[tuple[float, float]], error: float = 0.0, resumed: bool = False) -> list[int]:
    """Which of the epochs, each a metric and a loss, were the best so far."""
    selection, found = Selection("val/x", direction), []
    for epoch, (value, loss) in enumerate(epochs):
        if resumed:
            former, selection = selection, Selection("val/x", direction)
            selection.load_state_dict(former.state_dict())
        if selection.is_best({"val/x": value, "val/loss": loss}, lambda value: error):
            found.append(epoch)
    return found


@pytest.mark.parametrize(("direction", "expected"), [("max", [0, 1, 3]), ("min", [0, 4])])
def test_best_follows_the_direction_of_the_metric_and_equals_go_to_the_later(direction: str, expected: list[int]) -> None:
    assert kept(direction, [(value, 1.0) for value in (0.1, 0.3, 0.2, 0.3, 0.05)]) == expected
    assert kept(direction, [(value, math.nan) for value in (0.1, 0.3, 0.2, 0.3, 0.05)]) == expected


@pytest.mark.parametrize("resumed", [False, True])
def test_near_ties_go_to_the_lower_loss(resumed: bool) -> None:
    lucky = [(0.55, 1.1), (0.53, 0.9), (0.52, 0.8), (0.54, 0.85), (0.40, 0.1)]
    assert kept("max", lucky, error=0.04, resumed=resumed) == [0, 1, 2]
    assert kept("max", lucky, error=0.0, resumed=resumed) == [0]
    climbing = [(0.50, 0.5), (0.53, 0.6), (0.56, 0.7), (0.58, 0.8)]
    assert kept("max", climbing, error=0.04, resumed=resumed) == [0, 2], "within reach of the highest so far, not of the kept one"
    assert kept("max", [(0.5, 0.5), (0.5, 0.4), (0.5, 0.6), (0.5, 0.4)], resumed=resumed) == [0, 1, 3]


@pytest.mark.parametrize(("values", "expected"), [([math.nan, 0.5, 0.1], [0, 1]), ([0.5, math.nan, 0.6], [0, 2])])
def test_a_score_that_is_no_number_is_worse_than_any(values: list[float], expected: list[int]) -> None:
    assert kept("max", [(value, 1.0) for value in values]) == expected


@pytest.mark.slow
def test_an_all_but_untrained_network_does_not_win_by_luck() -> None:
    run = resolve(scan(), "softmax", {}, [parse_setting(text) for text in ("data.name=spirals", "trainer.accelerator=cpu")])
    outcome = engine.train(scan(), run, "run")
    assert read_checkpoint(outcome.folder.best)["epoch"] > 0


def test_a_damaged_checkpoint_does_not_take_its_twin_along() -> None:
    folder = train().folder
    best = folder.best.read_bytes()
    with folder.last.open("rb+") as file:
        file.write(b"damaged")
    assert folder.best.read_bytes() == best


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


def test_what_is_not_finite_is_null_in_the_record(tmp_path: Path) -> None:
    log = MetricsLogger(JsonLinesWriter(tmp_path / "metrics.jsonl"))
    log.log_metrics({"val/loss": math.inf, "val/accuracy": 0.5, "epoch": 0}, 3)
    assert '"val/loss":null,"val/accuracy":0.5' in log.file.path.read_text() and log.latest["val/loss"] == math.inf


def test_a_spec_survives_its_primitives() -> None:
    crop = Crop("center", 0.875, "bicubic")
    spec = ImageSpec(3, 32, 24, classes=("a", "b"), mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0), crop=crop)
    assert spec_from_primitives(spec_to_primitives(spec)) == spec
    older = {key: value for key, value in spec_to_primitives(spec).items() if key != "crop"}
    assert spec_from_primitives(older) == replace(spec, crop=Crop())
