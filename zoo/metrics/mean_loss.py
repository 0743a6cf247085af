"""Mean of a loss over an evaluation."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchmetrics import Metric


class MeanLoss(Metric):
    """Mean over samples, on any number of processes.

    torchmetrics' MeanMetric supports weights only together with a NaN check, which synchronizes with the device at every batch.

    Attributes:
        samples: of the last mean, over all processes.
    """

    full_state_update = False
    samples = 0

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, losses: Tensor, counted: Tensor) -> None:
        """Update with ``losses``, [N], where the mask ``counted``, bool [N], is true."""
        self.total += losses.where(counted, 0).to(self.total).sum()
        self.count += counted.sum()

    def compute(self) -> Tensor:
        self.samples = int(self.count)
        return self.total / self.count


def proportion_error(proportion: float, samples: int) -> float:
    """Standard error of a proportion, from 0 to 1, of independent samples; 0 without samples."""
    return math.sqrt(proportion * (1 - proportion) / samples) if samples and 0 <= proportion <= 1 else 0.0
