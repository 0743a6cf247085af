"""Calibration of classifiers (Guo et al. 2017): the expected calibration error, and the temperature that lowers it."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchmetrics import Metric

BINS = 15  # of equal width, as in the paper
TEMPERATURES = 1e-3, 1e3  # lowest and highest
BISECTIONS = 50  # of their logarithms, after which a double is exact


class CalibrationError(Metric):
    """The expected calibration error (section 2, equation 3), from sums over all processes.

    Bin m of M holds confidences in ((m - 1) / M, m / M], so that a probability of 1 is in the last one.

    Args:
        bins: their number, M.
        ignore: label of samples that do not count.

    Attributes:
        counts, confidence, correct: of each bin, the number of samples, the sum of their confidences and the number of correct
            predictions; [bins] each.
    """

    full_state_update = False
    counts: Tensor
    confidence: Tensor
    correct: Tensor

    def __init__(self, bins: int = BINS, ignore: int | None = None) -> None:
        super().__init__()
        self.ignore = ignore
        self.edges = [place / bins for place in range(1, bins)]
        for name, dtype in (("counts", torch.int64), ("confidence", torch.float32), ("correct", torch.int64)):
            self.add_state(name, torch.zeros(bins, dtype=dtype), dist_reduce_fx="sum")

    def update(self, probabilities: Tensor, labels: Tensor) -> None:
        """Add samples: probabilities, [N, classes], and labels, int64 [N]."""
        if self.ignore is not None:
            kept = labels != self.ignore
            probabilities, labels = probabilities[kept], labels[kept]
        confidence, predictions = probabilities.max(1)
        edges = torch.tensor(self.edges, dtype=confidence.dtype, device=confidence.device)
        bins = torch.bucketize(confidence, edges)  # an edge is in the bin below it
        self.counts.index_add_(0, bins, torch.ones_like(bins))
        self.confidence.index_add_(0, bins, confidence.to(self.confidence))
        self.correct.index_add_(0, bins, (predictions == labels).long())

    def compute(self) -> Tensor:
        """The mean over samples of the difference between confidence and accuracy of their bin; 0 without samples."""
        return (self.correct - self.confidence).abs().sum() / self.counts.sum().clamp(min=1)


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature that minimizes the negative log-likelihood of the labels (section 4.2).

    The likelihood is concave in the inverse of the temperature: bisection of its slope finds the one maximum.

    Args:
        logits: [N, classes].
        labels: int64 [N].

    Raises:
        ValueError: the likelihood grows without end, towards a temperature of zero or of infinity.
    """
    logits = logits.double()
    of_labels = logits.gather(1, labels[:, None])[:, 0]
    if bool((of_labels == logits.amax(1)).all()):
        raise ValueError("there is no mistake among the predictions")
    if float((of_labels - logits.mean(1)).mean()) <= 0:
        raise ValueError("the predictions are no better than chance")

    def slope(inverse: float) -> float:
        return float((of_labels - ((logits * inverse).softmax(1) * logits).sum(1)).mean())

    low, high = (-math.log(temperature) for temperature in reversed(TEMPERATURES))
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(math.exp(middle)) > 0 else (low, middle)
    return math.exp(-(low + high) / 2)
