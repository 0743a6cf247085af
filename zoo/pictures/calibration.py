"""Whether the probabilities of a classifier can be believed: how often it is right among images of which it is equally sure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from torchmetrics.functional.classification import multiclass_calibration_error

from zoo.metrics.class_metrics import BINS
from zoo.pictures.figure import COLORS, Picture
from zoo.pictures.predictions import Tested, ask
from zoo.registry.registry import Registry
from zoo.training.run_folder import RunFolder

NEARLY = 0.01  # a difference of confidence and accuracy that is not worth a word


@dataclass(frozen=True)
class Bins:
    """Samples sorted by the probability of their likeliest class into bins of equal width from 0 to 1; arrays of one value a bin.

    Attributes:
        counts: samples.
        accuracy, confidence: the share that is right, and the mean probability; NaN where there is no sample.
    """

    counts: np.ndarray
    accuracy: np.ndarray
    confidence: np.ndarray


def calibration(
    registry: Registry, runs: list[RunFolder], checkpoint: str = "best", data: str = "", settings: Sequence[str] = ()
) -> Picture:
    """The reliability diagram of a classifier, over the histogram of how sure it is (Guo et al. 2017, figure 1)."""
    tested = ask(registry, runs[0], checkpoint, data, settings)
    confidence, right = tested.probabilities.amax(1).numpy(), (tested.predictions == tested.labels).numpy()
    error = calibration_error(tested)
    title = f"{tested.run_name} ({len(right):,} samples)\nexpected calibration error {error:.4f}"
    sure, accuracy = float(confidence.mean()), tested.accuracy
    more = "surer than it is right" if sure > accuracy else "less sure than it is right"
    verdict = "about as sure as it is right" if abs(sure - accuracy) < NEARLY else more
    following = "confusion" if tested.task.spec.are_points else "mistakes"
    return Picture(
        draw_calibration(calibration_bins(confidence, right), sure, accuracy, title),
        "where bars end below the diagonal the network is too sure, above it too modest, and short bars below mean few samples; "
        f"on the whole it is {verdict} ({sure:.1%} and {accuracy:.1%})",
        f"zoo picture {following} {runs[0].name}",
    )


def calibration_error(tested: Tested) -> float:
    """The expected calibration error, by the rule of ``zoo test``."""
    classes = len(tested.task.spec.classes)
    return float(multiclass_calibration_error(tested.probabilities, tested.labels, classes, n_bins=BINS, norm="l1"))


def calibration_bins(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> Bins:
    """Sort samples by ``confidence``, [N] from 0 to 1; ``right``, bool [N], says which are right."""
    weights = (None, confidence.astype(float), right.astype(float))
    counts, sure, correct = (np.histogram(confidence, bins, (0, 1), weights=of_each)[0] for of_each in weights)
    with np.errstate(invalid="ignore"):
        return Bins(counts, correct / counts, sure / counts)


def draw_calibration(bins: Bins, confidence: float, accuracy: float, title: str) -> Figure:
    """Bars of accuracy by confidence beside the diagonal on which they should end, and below the share of samples in each bin."""
    figure = Figure((5.2, 6.4), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    edges = np.linspace(0, 1, len(bins.counts) + 1)
    width, there = edges[1], bins.counts > 0
    middles, right, sure = (edges[:-1] + width / 2)[there], bins.accuracy[there], bins.confidence[there]
    common = {"width": width, "edgecolor": "white", "linewidth": 0.8}
    upper.bar(middles, right, color=COLORS[0], label="accuracy", **common)
    gap = {"facecolor": "none", "edgecolor": COLORS[2], "hatch": "////", "linewidth": 0.8}
    upper.bar(middles, sure - right, width, right, label="gap to the mean confidence", **gap)
    upper.plot((0, 1), (0, 1), color="black", linewidth=1, linestyle="--", label="as sure as right")
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy", title=title)
    upper.legend(loc="upper left", fontsize=8)
    lower.bar(middles, bins.counts[there] / bins.counts.sum(), color="0.6", **common)
    for value, name, color, line in ((confidence, "mean confidence", COLORS[2], "-"), (accuracy, "accuracy", COLORS[0], "--")):
        lower.axvline(value, color=color, linestyle=line, linewidth=1.4, label=f"{name} {value:.1%}")
    lower.set(xlabel="probability of the likeliest class", ylabel="share of samples", ylim=(0, None))
    figure.legend(handles=lower.lines, loc="outside lower center", ncols=2, fontsize=8)
    return figure
