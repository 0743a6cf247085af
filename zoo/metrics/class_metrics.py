"""What a classifier does class by class: figures of each, which is taken for which, and whether its probabilities are true."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import (
    MulticlassCalibrationError,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MulticlassPrecision,
    MulticlassRecall,
)

FIGURES = ("precision", "recall", "f1")
BINS = 15  # of confidence, equally wide, as in Guo et al. 2017


class ClassMetrics(nn.Module):
    """Figures of each class over a whole test, from counts, and its calibration, from the confidence in each sample.

    All are joined over all processes when they are read.

    Args:
        classes: how many there are.
        ignore: the label of samples that do not count.
    """

    def __init__(self, classes: int, ignore: int) -> None:
        super().__init__()
        common = {"num_classes": classes, "ignore_index": ignore, "validate_args": False}
        self.counted = MetricCollection(
            {
                "precision": MulticlassPrecision(average="none", **common),
                "recall": MulticlassRecall(average="none", **common),
                "f1": MulticlassF1Score(average="none", **common),
                "confusion": MulticlassConfusionMatrix(**common),
            }
        )
        self.calibration = MulticlassCalibrationError(n_bins=BINS, norm="l1", **common)

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Take in a batch: scores of each class before softmax, [N, classes], and the true classes, int64 [N]."""
        self.counted.update(logits, labels)
        # torchmetrics would take scores that all lie between 0 and 1 for probabilities
        self.calibration.update(logits.softmax(1), labels)

    def take(self, names: Sequence[str]) -> tuple[float, dict[str, Any]]:
        """The expected calibration error (Guo et al. 2017, equation 3), and what is told of single classes; then all starts anew.

        The second is plain data. ``classes`` holds for each name its ``precision``, ``recall`` and ``f1``, 0 where there is
        nothing to divide by, and its number of ``images``; ``confusion`` how many images of each true class (row) were taken
        for each (column).
        """
        error = float(self.calibration.compute())
        found = {name: value.tolist() for name, value in self.counted.compute().items()}
        self.calibration.reset()
        self.counted.reset()
        confusion = found["confusion"]
        values = {**{name: found[name] for name in FIGURES}, "images": [sum(row) for row in confusion]}
        by_class = zip(*values.values(), strict=True)
        return error, {
            "classes": {name: dict(zip(values, of_class, strict=True)) for name, of_class in zip(names, by_class, strict=True)},
            "confusion": confusion,
        }
