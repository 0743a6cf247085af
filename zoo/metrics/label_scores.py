"""Metrics of several labels an image: average precision, thresholds, and precision, recall and F1 at thresholds.

All follow from the exact scores, which are gathered from all processes: a sum over bins would be another average precision.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from zoo.spec import IGNORE

THRESHOLD = 0.5  # of a class without positives, for which none can be chosen


class LabelScores(Metric):
    """The scores, float32 [N, classes], and the labels, int8 [N, classes], of an evaluation; labels are 1, 0 or ``IGNORE``."""

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self.add_state("scores", [], dist_reduce_fx="cat")
        self.add_state("labels", [], dist_reduce_fx="cat")

    def update(self, scores: Tensor, labels: Tensor) -> None:
        """Update with the scores of a batch, in [0, 1], and its labels."""
        self.scores.append(scores.float())
        self.labels.append(labels.to(torch.int8))

    def compute(self) -> tuple[Tensor, Tensor]:
        """Scores and labels on the CPU, in any order."""
        return dim_zero_cat(self.scores).cpu(), dim_zero_cat(self.labels).cpu()


def average_precision(scores: Tensor, labels: Tensor) -> Tensor:
    """Average precision of each class, float64 [classes]: the sum of precision times the gain in recall over all scores.

    It is that of scikit-learn, without interpolation; nan for a class without positives.
    """
    return torch.stack([_average_precision(*_cumulative(*column)) for column in _columns(scores, labels)])


def _average_precision(scores: Tensor, found: Tensor, predicted: Tensor) -> Tensor:
    if not len(scores) or not found[-1]:
        return torch.tensor(torch.nan, dtype=torch.float64)
    gain = torch.diff(found, prepend=found.new_zeros(1)) / found[-1]
    return (gain * found / predicted).sum()


def best_thresholds(scores: Tensor, labels: Tensor) -> Tensor:
    """The threshold of each class, float32 [classes], from which on predicting it has the maximal F1.

    It lies halfway between the lowest score that is predicted and the next lower one. Among equal F1 it is the highest.
    """
    return torch.tensor([_best_threshold(*_cumulative(*column)) for column in _columns(scores, labels)])


def _best_threshold(scores: Tensor, found: Tensor, predicted: Tensor) -> float:
    if not len(scores) or not found[-1]:
        return THRESHOLD
    best = int((2 * found / (predicted + found[-1])).argmax())
    upper = float(scores[best])
    lower = float(scores[best + 1]) if best + 1 < len(scores) else 0.0
    middle = float(torch.tensor((upper + lower) / 2, dtype=scores.dtype))
    return middle if middle > lower else upper  # neighbors in float32 have nothing between them


def _columns(scores: Tensor, labels: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The known scores and labels of each class."""
    known = labels != IGNORE
    return [(scores[mask, i], labels[mask, i] == 1) for i, mask in enumerate(known.unbind(1))]


def _cumulative(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Distinct scores, descending, and float64 counts of the positives and of all samples with such a score or a higher one."""
    scores, order = scores.sort(descending=True)
    found = labels[order].double().cumsum(0)
    last = torch.ones_like(scores, dtype=torch.bool)
    last[:-1] = scores[1:] != scores[:-1]
    predicted = torch.arange(1, len(scores) + 1, dtype=torch.float64)
    return scores[last], found[last], predicted[last]


@dataclass(frozen=True)
class LabelCounts:
    """True positives, false positives and false negatives of each class, float64 [classes]."""

    true_positives: Tensor
    false_positives: Tensor
    false_negatives: Tensor

    @classmethod
    def of(cls, scores: Tensor, labels: Tensor, thresholds: Tensor) -> LabelCounts:
        """Count predictions: a class is predicted from its threshold, float32 [classes], on."""
        predicted, positive, negative = scores >= thresholds, labels == 1, labels == 0
        counts = (predicted & positive, predicted & negative, ~predicted & positive)
        return cls(*(count.sum(0).double() for count in counts))

    @property
    def precision(self) -> Tensor:
        """Of each class; 0 if it is never predicted."""
        return _ratio(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall(self) -> Tensor:
        """Of each class; 0 if it has no positives."""
        return _ratio(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def f1(self) -> Tensor:
        """Of each class; 0 if it is neither predicted nor positive."""
        return _ratio(2 * self.true_positives, 2 * self.true_positives + self.false_positives + self.false_negatives)

    @property
    def f1_micro(self) -> float:
        """F1 of all predictions of all classes taken together."""
        found, extra, missed = (float(count.sum()) for count in (self.true_positives, self.false_positives, self.false_negatives))
        return 2 * found / max(2 * found + extra + missed, 1.0)

    @property
    def f1_macro(self) -> float:
        """Mean F1 over the classes, as scikit-learn has it."""
        return float(self.f1.mean())


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    return part / whole.clamp(min=1)
