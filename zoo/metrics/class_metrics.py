"""Per-class metrics of a classifier, its confusion matrix and its calibration error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import (
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MulticlassPrecision,
    MulticlassRecall,
)

from zoo.metrics.calibration import CalibrationError

PER_CLASS = ("precision", "recall", "f1")


class ClassMetrics(nn.Module):
    """Per-class precision, recall and F1, confusion matrix and expected calibration error, over all processes.

    Args:
        classes: number of classes.
        ignore: label of samples that do not count.
    """

    def __init__(self, classes: int, ignore: int) -> None:
        super().__init__()
        common = {"num_classes": classes, "ignore_index": ignore, "validate_args": False}
        self.by_class = MetricCollection(
            {
                "precision": MulticlassPrecision(average="none", **common),
                "recall": MulticlassRecall(average="none", **common),
                "f1": MulticlassF1Score(average="none", **common),
                "confusion": MulticlassConfusionMatrix(**common),
            }
        )
        self.calibration = CalibrationError(ignore=ignore)

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Update with logits, [N, classes], and labels, int64 [N]."""
        self.by_class.update(logits, labels)
        self.calibration.update(logits.softmax(1), labels)

    def compute_and_reset(self, names: Sequence[str]) -> tuple[float, dict[str, Any]]:
        """Compute and reset: the expected calibration error (Guo et al. 2017, equation 3), and metrics by class as plain data.

        ``classes`` has for each name its ``precision``, ``recall`` and ``f1``, 0 if undefined, and its number of ``images``;
        ``confusion`` the counts of predictions (columns) for each true class (rows).
        """
        error = float(self.calibration.compute())
        found = {name: value.tolist() for name, value in self.by_class.compute().items()}
        self.calibration.reset()
        self.by_class.reset()
        confusion = found["confusion"]
        values = {**{name: found[name] for name in PER_CLASS}, "images": [sum(row) for row in confusion]}
        rows = zip(*values.values(), strict=True)
        return error, {
            "classes": {name: dict(zip(values, row, strict=True)) for name, row in zip(names, rows, strict=True)},
            "confusion": confusion,
        }
