"""Reliability diagrams: the accuracy of a classifier as a function of its confidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from zoo.core.counts import percentage
from zoo.metrics.calibration import BINS, CalibrationError
from zoo.pictures.figure import COLORS, Picture
from zoo.pictures.predictions import predict_test_data
from zoo.registry.registry import Registry
from zoo.training.run_folder import RunFolder

NEGLIGIBLE = 0.01  # difference of mean confidence and accuracy


@dataclass(frozen=True)
class Bins:
    """Equal-width bins of confidence from 0 to 1, each with its upper edge; one value per bin.

    Attributes:
        counts: number of samples.
        accuracy, confidence: their means; NaN in empty bins.
    """

    counts: np.ndarray
    accuracy: np.ndarray
    confidence: np.ndarray


def calibration(
    registry: Registry, runs: list[RunFolder], checkpoint: str = "best", data: str = "", settings: Sequence[str] = ()
) -> Picture:
    """Draw the reliability diagram of a classifier and a histogram of its confidence (Guo et al. 2017)."""
    tested = predict_test_data(registry, runs[0], checkpoint, data, settings)
    bins, error = calibration_bins(tested.probabilities, tested.labels)
    count, sure, accuracy = len(tested.labels), float(tested.probabilities.amax(1).double().mean()), tested.accuracy
    title = f"{tested.run_name} ({count:,} {tested.kind})\nexpected calibration error {error:.4f}"
    direction = "overconfident" if sure > accuracy else "underconfident"
    verdict = "neither over- nor underconfident" if abs(sure - accuracy) < NEGLIGIBLE else direction
    following = "confusion" if tested.task.spec.are_points else "mistakes"
    return Picture(
        draw_calibration(bins, sure, accuracy, title),
        "bars below the diagonal mean overconfidence, above it underconfidence; short bars in the histogram mean few samples; "
        f"on average it is {verdict} "
        f"(mean confidence {percentage(sure * count, count)}, accuracy {percentage(accuracy * count, count)})",
        f"zoo picture {following} {runs[0].name}",
    )


def calibration_bins(probabilities: Tensor, labels: Tensor, bins: int = BINS) -> tuple[Bins, float]:
    """Bin samples by confidence, and compute the expected calibration error, as in ``zoo test``.

    Args:
        probabilities: [N, classes].
        labels: int64 [N].
    """
    metric = CalibrationError(bins)
    metric.update(probabilities, labels)
    counts, sure, correct = (sums.numpy() for sums in (metric.counts, metric.confidence, metric.correct))
    with np.errstate(invalid="ignore"):
        return Bins(counts, correct / counts, sure / counts), float(metric.compute())


def draw_calibration(bins: Bins, confidence: float, accuracy: float, title: str) -> Figure:
    """Draw accuracy by confidence with the diagonal of perfect calibration, and below the histogram of confidence."""
    figure = Figure((5.2, 6.4), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    edges = np.linspace(0, 1, len(bins.counts) + 1)
    width, there = edges[1], bins.counts > 0
    middles, right, sure = (edges[:-1] + width / 2)[there], bins.accuracy[there], bins.confidence[there]
    common = {"width": width, "edgecolor": "white", "linewidth": 0.8}
    upper.bar(middles, right, color=COLORS[0], label="accuracy", **common)
    gap = {"facecolor": "none", "edgecolor": COLORS[2], "hatch": "////", "linewidth": 0.8}
    upper.bar(middles, sure - right, width, right, label="gap to mean confidence", **gap)
    upper.plot((0, 1), (0, 1), color="black", linewidth=1, linestyle="--", label="perfect calibration")
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy", title=title)
    lower.bar(middles, bins.counts[there] / bins.counts.sum(), color="0.6", **common)
    count = int(bins.counts.sum())
    for value, name, color, line in ((confidence, "mean confidence", COLORS[2], "-"), (accuracy, "accuracy", COLORS[0], "--")):
        label = f"{name} {percentage(value * count, count)}"
        lower.axvline(value, color=color, linestyle=line, linewidth=1.4, label=label)
    lower.set(xlabel="confidence (probability of the predicted class)", ylabel="fraction of samples", ylim=(0, None))
    figure.legend(handles=[*upper.containers, *upper.lines, *lower.lines], loc="outside lower center", ncols=2, fontsize=8)
    return figure
