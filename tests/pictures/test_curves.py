"""Learning curves, held against records that are written by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from zoo.core.errors import UserError
from zoo.pictures import curves as module
from zoo.pictures.curves import curve, draw_curves, metrics_of
from zoo.pictures.figure import COLORS
from zoo.training.records import Metrics
from zoo.training.run_folder import RunFolder

# two epochs of 25 steps, recorded every 10 steps and at the end of each; the records at steps 25 and 50 hold five steps
RECORDS = [
    {"step": 10, "epoch": 0, "train/loss": 4.0, "train/accuracy": 0.2, "train/lr": 1.0},
    {"step": 20, "epoch": 0, "train/loss": 3.0, "train/accuracy": 0.3, "train/lr": 1.0},
    {"step": 25, "epoch": 0, "train/loss": 2.0, "train/accuracy": 0.4, "train/lr": 1.0},
    {"step": 25, "epoch": 0, "val/loss": 2.5, "val/accuracy": 0.5},
    {"step": 35, "epoch": 1, "train/loss": 1.5, "train/accuracy": 0.6, "train/lr": 0.5},
    {"step": 45, "epoch": 1, "train/loss": 1.0, "train/accuracy": 0.7, "train/lr": 0.5},
    {"step": 50, "epoch": 1, "train/loss": 0.5, "train/accuracy": 0.8, "train/lr": 0.5},
    {"step": 50, "epoch": 1, "val/loss": 1.2, "val/accuracy": 0.75},
    {"step": 50, "epoch": 2, "test/loss": 1.3, "test/accuracy": 0.7},
]


def test_epochs_and_values_are_those_of_the_records():
    epochs, values = curve(Metrics(RECORDS), "val/loss", "first")
    assert epochs.tolist() == [1, 2] and values.tolist() == [2.5, 1.2]
    epochs, values = curve(Metrics(RECORDS), "train/loss", "first")
    assert epochs == pytest.approx([0.4, 0.8, 1.0, 1.4, 1.8, 2.0]) and values.tolist() == [4, 3, 2, 1.5, 1, 0.5]


def test_error_is_what_accuracy_leaves_unless_it_was_recorded():
    assert curve(Metrics(RECORDS), "train/error", "first")[1] == pytest.approx([0.8, 0.7, 0.6, 0.4, 0.3, 0.2])
    assert curve(Metrics(RECORDS), "val/error", "first")[1] == pytest.approx([0.5, 0.25])
    own = [*RECORDS, {"step": 50, "epoch": 1, "val/error": 0.9}]
    assert curve(Metrics(own), "val/error", "first")[1].tolist() == [0.9]


def test_a_remainder_of_an_epoch_is_joined_and_keeps_the_mean_of_the_epoch():
    records = [
        {"step": 10, "epoch": 0, "train/loss": 1.0},
        {"step": 20, "epoch": 0, "train/loss": 2.0},
        {"step": 21, "epoch": 0, "train/loss": 13.0},  # one step, as loud as it may be
        {"step": 31, "epoch": 1, "train/loss": 1.0},
        {"step": 41, "epoch": 1, "train/loss": 1.0},
        {"step": 42, "epoch": 1, "train/loss": 1.0},
    ]
    epochs, values = curve(Metrics(records), "train/loss", "first")
    assert epochs == pytest.approx([10 / 21, 1, 31 / 21, 2]) and values == pytest.approx([1, (10 * 2 + 13) / 11, 1, 1])
    assert np.average(values[:2], weights=[10, 11]) == pytest.approx((10 * 1 + 10 * 2 + 13) / 21)


def test_an_unknown_metric_names_the_nearest():
    assert {"train/error", "val/error", "test/error", "train/lr"} <= set(metrics_of(Metrics(RECORDS)))
    with pytest.raises(UserError, match="no metric of first 'val/accurcy': did you mean 'val/accuracy'"):
        curve(Metrics(RECORDS), "val/accurcy", "first")


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    """The figures that are drawn, as objects."""
    figures: list[Figure] = []

    def keep(*arguments):
        figures.append(draw_curves(*arguments))
        return figures[-1]

    monkeypatch.setattr(module, "draw_curves", keep)
    return figures


def test_two_runs_share_panels_and_each_has_its_color(zoo, drawn, write_run):
    write_run("first", RECORDS, rest='{"step": 60, "epo')  # a line that was cut off
    write_run("second", [{**record, "val/loss": 9.0} if "val/loss" in record else record for record in RECORDS])
    answer = zoo("picture", "curves", "first", "runs/second")
    assert answer.code == 0 and Path("curves.png").is_file(), answer.err
    loss, accuracy = drawn[0].axes
    assert loss.get_ylabel() == "loss" and accuracy.get_ylabel() == "accuracy" and loss.get_xlabel() == "epochs"
    lines = [(line.get_color(), line.get_ydata().tolist()) for line in loss.lines]
    assert lines == [(COLORS[0], [4, 3, 2, 1.5, 1, 0.5]), (COLORS[0], [2.5, 1.2]),
                     (COLORS[1], [4, 3, 2, 1.5, 1, 0.5]), (COLORS[1], [9, 9])]  # fmt: skip
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["first", "second", "training", "validation"]
    assert loss.lines[0].get_linewidth() < loss.lines[1].get_linewidth()


def test_several_runs_state_their_recipe_or_in_what_it_differs(zoo, drawn, write_run):
    same = {"lr": 0.1, "weight_decay": 1e-4}
    for model in ("plain20", "resnet20"):
        write_run(model, RECORDS, model)
        write_run(f"{model}-same", RECORDS, model, **same, seed=len(model))
    for runs in (["plain20", "resnet20"], ["plain20-same", "resnet20-same"], ["plain20"]):
        assert zoo("picture", "curves", *runs).code == 0
    different, one, alone = (figure.get_suptitle().replace("\n", " ") for figure in drawn)
    assert different == "recipes differ: lr 0.1 or 0.2, weight_decay 0.0001 or 0.0005" and not alone
    assert one.startswith("one recipe: optimizer sgd, lr 0.1, weight_decay 0.0001, schedule one-cycle, epochs 60")


def test_chosen_metrics_make_one_panel_for_each_quantity(zoo, drawn, write_run):
    write_run("first", RECORDS)
    assert zoo("picture", "curves", "first", "--metric", "train/error, val/error,train/lr").code == 0
    assert [axes.get_ylabel() for axes in drawn[0].axes] == ["error", "lr"]
    assert [len(axes.lines) for axes in drawn[0].axes] == [2, 1] and Path("first-curves.png").is_file()


def test_the_suggested_command_works_and_is_another(zoo, write_run):
    write_run("first", RECORDS)
    write_run("words", [{name: value for name, value in record.items() if "accuracy" not in name} for record in RECORDS])
    errors = "zoo picture curves first --metric train/error,val/error"
    assert json.loads(zoo("picture", "curves", "first", "--json").out)["next"] == errors
    assert json.loads(zoo(*errors.split()[1:], "--json").out)["next"] == "zoo report first"
    for runs in (["words"], ["first", "words"]):
        assert json.loads(zoo("picture", "curves", *runs, "--json").out)["next"] == f"zoo report {' '.join(runs)}"


def test_runs_of_one_name_are_told_apart_by_their_paths(zoo, drawn, write_run, tmp_path):
    first = write_run("first", RECORDS)
    elsewhere = RunFolder(tmp_path / "first")
    elsewhere.describe(first.read_run(), {})
    elsewhere.metrics_file.write_text(first.metrics_file.read_text())
    assert zoo("picture", "curves", "first", tmp_path / "first").code == 0
    labels = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert labels[:2] == ["runs/first", str(tmp_path / "first")]


def test_a_real_run_is_read_as_its_epochs(zoo):
    assert zoo("train", "softmax", "--epochs", "3", "--set", "trainer.accelerator=cpu", "--name", "first").code == 0
    records = module.read_metrics(RunFolder.find("first"))
    assert curve(records, "val/accuracy", "first")[0].tolist() == [1, 2, 3]
    assert curve(records, "train/loss", "first")[0].tolist() == [1, 2, 3]


def test_what_cannot_be_drawn_is_one_line(zoo, workplace, write_run):
    write_run("first", RECORDS)
    write_run("empty", [])
    write_run("young", RECORDS[:2])
    lost = RunFolder(write_run("lost", []).path)
    lost.best.parent.mkdir(exist_ok=True)
    lost.best.touch()
    cases = {
        ("first", "--metric", "val/los"): ["metric of first 'val/los'", "'val/loss'"],
        ("first", "young", "--metric", "val/loss"): ["metric of young 'val/loss'"],
        ("empty",): ["empty has recorded no metrics yet"],
        ("lost",): ["metrics.jsonl is missing or damaged; to record it again: zoo train --config runs/lost/run.yaml"],
        ("young",): ["--metric takes", "train/loss"],
        ("firsd",): ["no run 'firsd'", "'first'"],
        ("first", "--data", "digits"): ["curves takes no --data", "--metric"],
        (): ["zoo picture curves RUN..."],
    }
    for arguments, words in cases.items():
        assert zoo("picture", "curves", *arguments).is_one_line_error(*words), arguments
    assert not list(workplace.glob("*.png"))
    assert zoo("picture", "curves", "young", "--metric", "train/loss").code == 0
