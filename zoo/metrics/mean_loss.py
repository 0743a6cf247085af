"""Mean of a loss over an evaluation."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class MeanLoss(Metric):
    """Mean over samples, on any number of processes.

    torchmetrics' MeanMetric supports weights only together with a NaN check, which synchronizes with the device at every batch.
    """

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, losses: Tensor, counted: Tensor) -> None:
        """Update with ``losses``, [N], where the mask ``counted``, bool [N], is true."""
        self.total += (losses * counted).to(self.total).sum()
        self.count += counted.sum()

    def compute(self) -> Tensor:
        return self.total / self.count
