"""Expected calibration error: how far confidence is from accuracy, by bins of confidence (Guo et al. 2017, section 2)."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

BINS = 15  # of equal width, as in the paper


class CalibrationError(Metric):
    """The expected calibration error (equation 3), from sums over all processes.

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
