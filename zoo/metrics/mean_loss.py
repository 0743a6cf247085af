"""The mean of a loss over all samples of an evaluation, whatever the number of processes."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class MeanLoss(Metric):
    """The mean over the samples that count.

    torchmetrics' MeanMetric keeps its weights only when it looks for NaN, which waits for the device at every batch.
    """

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, losses: Tensor, counted: Tensor) -> None:
        """Take in ``losses``, [N], where ``counted``, bool [N], says so."""
        self.total += (losses * counted).to(self.total).sum()
        self.count += counted.sum()

    def compute(self) -> Tensor:
        return self.total / self.count
