"""Metrics that count each class equally, however many samples it has."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class _ClassCounts(Metric):
    """Counts of each class, int64 [classes], over all processes: its samples, its predictions, and those that are correct.

    torchmetrics counts the pairs of all classes, which takes memory of their square and synchronizes with the device.

    Args:
        classes: number of classes.
        ignore: label of samples that do not count.
    """

    full_state_update = False

    def __init__(self, classes: int, ignore: int) -> None:
        super().__init__()
        self.classes, self.ignore = classes, ignore
        for name in ("labeled", "predicted", "correct"):
            self.add_state(name, torch.zeros(classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Update with logits, [N, classes], and labels, int64 [N]."""
        predictions, counted = logits.argmax(1), labels != self.ignore
        self.labeled += self._count(labels, counted)
        self.predicted += self._count(predictions, counted)
        self.correct += self._count(labels, counted & (predictions == labels))

    def _count(self, classes: Tensor, counted: Tensor) -> Tensor:
        counts = classes.new_zeros(self.classes)
        return counts.scatter_add_(0, classes.where(counted, 0), counted.to(counts.dtype))


class BalancedAccuracy(_ClassCounts):
    """Mean recall of the classes that have samples.

    Attributes:
        standard_error: of the last value, of samples that are drawn from each class independently.
    """

    standard_error = 0.0

    def compute(self) -> Tensor:
        labeled, correct = self.labeled.cpu().double(), self.correct.cpu()
        recall, labeled = (values[labeled > 0] for values in (correct / labeled, labeled))
        self.standard_error = float((recall * (1 - recall) / labeled).sum().sqrt() / len(labeled)) if len(labeled) else 0.0
        return recall.mean()


class MacroF1(_ClassCounts):
    """Mean F1 of the classes that have samples or predictions."""

    def compute(self) -> Tensor:
        total = (self.labeled + self.predicted).cpu().double()
        return (2 * self.correct.cpu() / total)[total > 0].mean()
