"""The reliability diagram, held against numpy by hand, and its error against that of ``zoo test``."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from zoo.pictures.calibration import calibration_bins, draw_calibration
from zoo.pictures.figure import style
from zoo.pictures.predictions import predict_test_data
from zoo.registry.registry import scan
from zoo.training.run_folder import RunFolder

QUICK = ["--epochs", "2", "--set", "trainer.limit_train_batches=6", "--set", "trainer.accelerator=cpu"]


def binary(confidence: list[float], right: list[bool]) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities of two classes, the first of which is predicted, and labels."""
    sure = torch.tensor(confidence)
    return torch.stack([sure, 1 - sure], 1), (~torch.tensor(right)).long()


def test_bins_by_hand() -> None:
    right = [True, False, True, True, False, True, True]
    bins, error = calibration_bins(*binary([0.51, 0.60, 0.625, 0.75, 0.80, 0.90, 1.00], right), bins=8)
    assert bins.counts.tolist() == [0, 0, 0, 0, 3, 1, 1, 2]
    assert np.isnan(bins.accuracy[:4]).all() and np.isnan(bins.confidence[:4]).all()
    assert bins.accuracy[4:] == pytest.approx([2 / 3, 1, 0, 1])
    assert bins.confidence[4:] == pytest.approx([1.735 / 3, 0.75, 0.8, 0.95])
    assert error == pytest.approx((2 - 1.735 + 0.25 + 0.8 + 0.1) / 7)


def test_the_picture_has_the_error_of_a_test(zoo) -> None:
    assert zoo("train", "softmax", *QUICK, "--name", "first").code == 0
    tested = predict_test_data(scan(), RunFolder.find("first"), "best", "", ())
    _, error = calibration_bins(tested.probabilities, tested.labels)
    assert error > 0.01
    assert json.loads(zoo("test", "first", "--json").out)["test/calibration_error"] == pytest.approx(error, abs=1e-5)


def test_bars_stand_for_bins_and_gaps_reach_to_the_confidence() -> None:
    bins, _ = calibration_bins(*binary([0.55, 0.55, 0.95, 0.95], [True, False, True, True]), 10)
    with style():
        figure = draw_calibration(bins, 0.75, 0.75, "title")
    upper, lower = figure.axes
    accuracy, gap = upper.containers
    assert [(round(bar.get_x(), 6), bar.get_height()) for bar in accuracy] == [(0.5, 0.5), (0.9, 1.0)]
    assert [bar.get_y() + bar.get_height() for bar in gap] == pytest.approx([0.55, 0.95])
    assert [bar.get_height() for bar in lower.containers[0]] == [0.5, 0.5]


def test_the_command_says_whether_it_is_too_sure(zoo) -> None:
    assert zoo("train", "softmax", *QUICK, "--name", "first").code == 0
    answer = zoo("picture", "calibration", "first")
    assert answer.code == 0 and answer.out.startswith("first-calibration.png: ")
    assert "it is underconfident" in answer.out and "next: zoo picture mistakes first" in answer.out
    assert zoo("train", "mlp", "--data", "blobs", *QUICK, "--name", "points").code == 0
    assert "next: zoo picture confusion points" in zoo("picture", "calibration", "points").out
