"""The figure of plain and residual networks: which run is drawn where, and what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from zoo.core.errors import UserError
from zoo.pictures.depth import DEPTH_COLORS, assign, draw_depth
from zoo.pictures.figure import style

LAST_ERRORS = {"plain20": 0.2, "plain56": 0.3, "resnet20": 0.15, "resnet56": 0.1}


def records(error: float) -> list[dict]:
    """Twenty epochs that begin at chance and end at an error, in validation five points above."""
    training = [
        {"step": 10 * epoch + 10, "epoch": epoch, "train/accuracy": 0.1 if epoch == 0 else 1 - error} for epoch in range(20)
    ]
    validation = [{"step": 10 * epoch + 10, "epoch": epoch, "val/accuracy": 0.95 - error} for epoch in range(20)]
    return training + validation


@pytest.fixture
def four(write_run) -> dict:
    return {model: write_run(f"run of {model}", records(error), model) for model, error in LAST_ERRORS.items()}


def test_plain_networks_are_left_residual_ones_right_and_training_is_thin(four):
    with style():
        left, right = draw_depth(assign(list(four.values())[::-1])).axes
    assert "plain" in left.get_title() and "residual" in right.get_title()
    for axes, kind in ((left, "plain"), (right, "resnet")):
        lines = iter(axes.lines)
        for layers in (20, 56):
            error = LAST_ERRORS[f"{kind}{layers}"]
            training, validation = next(lines), next(lines)
            assert training.get_color() == validation.get_color() == DEPTH_COLORS[layers]
            assert training.get_ydata()[-1] == pytest.approx(error) and training.get_ydata()[0] == pytest.approx(0.9)
            assert validation.get_ydata() == pytest.approx([error + 0.05] * 20)
            assert training.get_xdata().tolist() == validation.get_xdata().tolist() == list(range(1, 21))
            assert training.get_linewidth() < validation.get_linewidth()
    assert left.get_ylim() == right.get_ylim() == pytest.approx((0, 1.05 * 0.35)), "the start at chance leaves room for the rest"


def test_the_command_says_where_training_ends(zoo, four):
    answer = zoo("picture", "depth", *[folder.path for folder in four.values()])
    assert answer.code == 0 and Path("depth.png").is_file(), answer.err
    assert "20.0% and 30.0% without residual connections, at 15.0% and 10.0% with them" in answer.out
    assert "'runs/run of plain20'" not in answer.out and "'run of plain20'" in answer.out


def test_a_missing_network_is_named_with_the_command_that_trains_it(zoo, four, workplace):
    answer = zoo("picture", "depth", *[folder.path for model, folder in four.items() if model != "resnet20"])
    assert answer.is_one_line_error("needs a run of resnet20 too: zoo train resnet20 --data digits")
    assert not list(workplace.glob("*.png"))


def test_other_models_twins_and_other_data_are_refused(four, write_run):
    with pytest.raises(UserError, match=r"linear \(softmax\)"):
        assign([*four.values(), write_run("linear", records(0.1))])
    with pytest.raises(UserError, match="again are both plain20"):
        assign([four["plain20"], write_run("again", records(0.1), "plain20")])
    with pytest.raises(UserError, match="different data.*digits.*cifar10"):
        assign([four["plain20"], write_run("color", records(0.1), "plain56", "cifar10")])
