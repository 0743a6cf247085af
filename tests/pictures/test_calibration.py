"""The reliability diagram, held against numpy by hand, and its error against that of ``zoo test``."""

from __future__ import annotations

import json

import numpy as np
import pytest

from zoo.pictures.calibration import calibration_bins, calibration_error, draw_calibration
from zoo.pictures.figure import style
from zoo.pictures.predictions import predict_test_data
from zoo.registry.registry import scan
from zoo.training.run_folder import RunFolder

QUICK = ["--epochs", "2", "--set", "trainer.limit_train_batches=6", "--set", "trainer.accelerator=cpu"]


def test_bins_by_hand() -> None:
    confidence = np.array([0.30, 0.49, 0.50, 0.74, 0.75, 0.90, 1.00], dtype=np.float32)
    bins = calibration_bins(confidence, np.array([True, False, True, True, False, True, True]), bins=4)
    assert bins.counts.tolist() == [0, 2, 2, 3]
    assert np.isnan(bins.accuracy[0]) and np.isnan(bins.confidence[0])
    assert bins.accuracy[1:] == pytest.approx([1 / 2, 2 / 2, 2 / 3])
    assert bins.confidence[1:] == pytest.approx([0.395, 0.62, 2.65 / 3], abs=1e-6)


def test_bins_of_many_samples_give_the_calibration_error(zoo) -> None:
    assert zoo("train", "softmax", *QUICK, "--name", "first").code == 0
    tested = predict_test_data(scan(), RunFolder.find("first"), "best", "", ())
    confidence, right = tested.probabilities.amax(1).numpy(), (tested.predictions == tested.labels).numpy()
    bins = calibration_bins(confidence, right)
    by_hand = 0.0
    for lower in np.arange(15) / 15:
        inside = (confidence >= lower) & (confidence < lower + 1 / 15)
        assert bins.counts[round(lower * 15)] == inside.sum()
        if inside.any():
            assert bins.accuracy[round(lower * 15)] == pytest.approx(right[inside].mean())
            by_hand += abs(right[inside].mean() - confidence[inside].astype(float).mean()) * inside.mean()
    error = calibration_error(tested)
    assert error == pytest.approx(by_hand, abs=1e-5) and error > 0.01
    assert json.loads(zoo("test", "first", "--json").out)["test/calibration_error"] == pytest.approx(error, abs=1e-5)


def test_bars_stand_for_bins_and_gaps_reach_to_the_confidence() -> None:
    confidence, right = np.array([0.55, 0.55, 0.95, 0.95]), np.array([True, False, True, True])
    with style():
        figure = draw_calibration(calibration_bins(confidence, right, 10), 0.75, 0.75, "title")
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
