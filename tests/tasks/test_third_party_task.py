"""A task of a third party, images in and one number out: every command takes it, and no file of ours knows of it."""

from __future__ import annotations

import csv
import io
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from zoo.checks.contract import check_entry
from zoo.config.resolution import resolve
from zoo.registry.registry import scan
from zoo.report.samples import take_samples
from zoo.tasks.task import Task
from zoo.training import engine
from zoo.training.building import build_data, load_task
from zoo.training.checkpoints import read_checkpoint
from zoo.training.run_folder import RunFolder

SMALL = ("--set", "model.channels=4", "--set", "data.count=100", "--set", "trainer.accelerator=cpu")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def trained(zoo, plugin: Path) -> str:
    answer = zoo("train", "conv-regressor", "--epochs", 2, "--name", "shares", *SMALL)
    assert answer.code == 0, answer.err
    return answer.out


def test_no_file_of_ours_knows_the_task() -> None:
    found = subprocess.run(
        ["grep", "-rlE", "CoverageRegressor|bright-shares|task=.coverage", "zoo", "datamodules", "callbacks", "cli.py"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 1 and not found.stdout


def test_it_is_listed_and_keeps_the_contract(zoo, plugin: Path) -> None:
    (model,) = json.loads(zoo("list", "--task", "coverage", "--json").out)
    (data,) = json.loads(zoo("data", "list", "--task", "coverage", "--json").out)
    assert (model["name"], data["name"]) == ("conv-regressor", "bright-shares")
    assert zoo("train", "conv-regressor", "--data", "digits").is_one_line_error("coverage", "bright-shares")
    registry = scan()
    for entry in (registry.model("conv-regressor"), registry.data_set("bright-shares")):
        assert not [result for result in check_entry(registry, entry) if not result.passed]


def test_it_trains_tests_and_predicts(zoo, trained: str) -> None:
    assert "next: zoo predict shares IMAGE...    zoo test shares    zoo report shares" in trained
    registry, best = scan(), RunFolder.find("shares").best
    task, run = load_task(registry, read_checkpoint(best), best)
    split = build_data(registry, run).splits["test"]
    with torch.inference_mode():
        errors = task.predict_step({"images": split.images.pixels}) - split.labels
    tested = json.loads(zoo("test", "shares", "--json").out)
    assert tested == pytest.approx({"test/mae": float(errors.abs().mean()), "test/loss": float(errors.square().mean())}, abs=1e-6)
    files = ["0.png", "1.png"]
    for place, file in enumerate(files):
        Image.fromarray(split.images.pixels[place, 0].numpy()).save(file)
    said = json.loads(zoo("predict", "shares", *files, "--json").out)
    expected = [float(errors[place] + split.labels[place]) for place in (0, 1)]
    assert [each["file"] for each in said] == files and [each["value"] for each in said] == pytest.approx(expected, abs=1e-6)
    (row, _) = csv.DictReader(io.StringIO(zoo("predict", "shares", *files, "--csv").out))
    assert float(row["value"]) == pytest.approx(expected[0], abs=1e-6)
    assert f"{expected[1]:.4f}" in zoo("predict", "shares", *files).out
    assert zoo("predict", "shares", *files, "--top", 2).is_one_line_error("--top does not apply to coverage", "it takes none")
    assert zoo("sample", "shares").is_one_line_error("conv-regressor is for coverage", "zoo predict RUN IMAGE...")


def test_its_report_shows_images_with_numbers(zoo, trained: str) -> None:
    samples = take_samples(scan(), RunFolder.find("shares"))
    assert samples.missing == "" and len(samples.images) == 8 and samples.confusion is None
    assert all(image.label.startswith("label 0.") and float(image.predicted) < 2 for image in samples.images)
    assert zoo("report", "shares").code == 0
    assert f"{samples.images[0].predicted} <small>{samples.images[0].label}" in Path("runs/shares/report.html").read_text()


def test_it_is_shown_previewed_and_diagnosed(zoo, plugin: Path) -> None:
    layers = json.loads(zoo("show", "conv-regressor", "--layers", "--json").out)
    assert layers["layers"][-1]["output"] == [1]
    facts = json.loads(zoo("data", "show", "bright-shares", "--measure", "--json").out)
    assert facts["train_images"] + facts["val_images"] == 192 and facts["test_images"] == 48
    assert zoo("data", "preview", "bright-shares").code == 0 and Image.open("bright-shares.png").width > 8 * 72
    assert zoo("data", "advise", "bright-shares").is_one_line_error("bright-shares is not an image classification data set")
    checks = json.loads(zoo("diagnose", "conv-regressor", *SMALL, "--json").out)["checks"]
    assert {check["check"] for check in checks} >= {"initial loss", "overfit one batch", "learning rate"}


def test_a_resumed_run_ends_with_the_same_bits(zoo, plugin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"model": {"channels": 4}, "data": {"count": 100}, "recipe": {"epochs": 3, "batch_size": 16}}
    run = resolve(scan(), "conv-regressor", {}, [{**settings, "trainer": {"accelerator": "cpu"}}])
    engine.train(scan(), run, "whole")
    original = Task.on_train_batch_end

    def stopping(self: Task, *arguments: Any) -> None:
        original(self, *arguments)
        if self.trainer.global_step == 7:  # within the second epoch
            raise RuntimeError("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(Task, "on_train_batch_end", stopping)
        with pytest.raises(RuntimeError, match="stopped"):
            engine.train(scan(), run, "halves")
    engine.train(scan(), run, resume=RunFolder.find("halves"))
    first, second = (read_checkpoint(RunFolder.find(name).last)["state_dict"] for name in ("whole", "halves"))
    assert first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())
