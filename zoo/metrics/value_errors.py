"""Errors of predicted numbers: mean absolute error, root mean squared error and R2, from sums and counts."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class ValueErrors(Metric):
    """Sums over an evaluation, for each target, of what is known of it; of targets near zero mean and unit deviation.

    Args:
        targets: their number.
    """

    full_state_update = False

    def __init__(self, targets: int) -> None:
        super().__init__()
        for name in ("count", "absolute", "squared", "values", "squares"):
            self.add_state(name, torch.zeros(targets), dist_reduce_fx="sum")

    def update(self, predicted: Tensor, true: Tensor) -> None:
        """Update with predictions and true values, [N, targets]; nan is unknown."""
        known = ~true.isnan()
        true = true.where(known, 0).to(self.count)
        error = (predicted.to(self.count) - true) * known
        self.count = self.count + known.sum(0)
        self.absolute = self.absolute + error.abs().sum(0)
        self.squared = self.squared + error.square().sum(0)
        self.values = self.values + true.sum(0)
        self.squares = self.squares + true.square().sum(0)

    def compute(self) -> dict[str, Tensor]:
        """``mae``, ``rmse`` and ``r2`` of each target, [targets] on the CPU.

        R2 is the coefficient of determination as in scikit-learn, nan where all values are the same.
        """
        count = self.count
        spread = self.squares - self.values.square() / count
        found = {"mae": self.absolute / count, "rmse": (self.squared / count).sqrt(), "r2": 1 - self.squared / spread}
        found["r2"] = found["r2"].where(spread > 1e-9 * count, torch.nan)
        return {name: values.cpu() for name, values in found.items()}
