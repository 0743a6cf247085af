"""The multi-label task: any number of classes for each image, each with a threshold of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from zoo.core.errors import UserError
from zoo.metrics.label_scores import THRESHOLD, LabelCounts, LabelScores, average_precision, best_thresholds
from zoo.metrics.mean_loss import MeanLoss
from zoo.registry.entry import register_task
from zoo.spec import IGNORE, MultiLabelSpec, spec_from_primitives
from zoo.tasks.images import ImageModel
from zoo.tasks.outputs import Outputs
from zoo.tasks.prediction import Prediction
from zoo.tasks.samples import SPLIT_NAMES, SampleImage, Samples, Text, evenly_spread, part_of, require_some, rows_of

MOST_TESTED = 2000  # images that are predicted for a report
SHOWN, SHOWN_MISTAKES = 12, 6
NOTHING = "none"  # where no class is predicted


@register_task("multilabel", task="classification")
class MultiLabelClassifier(ImageModel):
    """Any number of classes for each image: a sigmoid for each.

    Labels are int8 [N, classes]: 1, 0, or ``IGNORE`` where that is unknown; targets of mixed images are in [0, 1], nan where
    they are unknown. In a tuple of any ``Trainer`` labels may be integers, or probabilities; negative ones are unknown.

    Each validation chooses the thresholds with the maximal F1 of each class and keeps them in the spec. So F1 on the
    validation images is the best that thresholds can give there; on others it is that of the thresholds kept.
    """

    task = "multilabel"
    monitor = "mAP"
    directions = {"mAP": "max", "f1_micro": "max", "f1_macro": "max", "loss": "min"}
    default_loss = "bce"
    has_class_metrics = True
    spec: MultiLabelSpec

    def build_metrics(self) -> None:
        self.metrics = nn.ModuleDict(
            {stage: nn.ModuleDict({"loss": MeanLoss(), "scores": LabelScores()}) for stage in ("val", "test")}
        )
        none = torch.zeros(1, len(self.spec.classes))
        self.test_losses(none, none)  # refuses weights of another number of classes now, not at the first step

    @property
    def thresholds(self) -> Tensor:
        """The probability from which on each class is predicted, float32 [classes]."""
        return torch.tensor(self.spec.thresholds or [THRESHOLD] * len(self.spec.classes))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        saved = spec_from_primitives(checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY]["spec"])
        self.spec = replace(self.spec, thresholds=saved.thresholds)

    # ------------------------------------------------------------------ labels

    def labels_from_tuple(self, labels: Tensor) -> dict[str, Tensor]:
        classes = len(self.spec.classes)
        if labels.shape[1:] != (classes,):
            raise UserError(f"labels are 1 or 0 for each class, [N, {classes}], and these are {list(labels.shape)}")
        if not labels.is_floating_point():
            return {"labels": labels.clamp(min=IGNORE, max=127).to(torch.int8)}
        hard = torch.where(labels >= 0, (labels >= 0.5).to(torch.int8), IGNORE)
        return {"labels": hard.to(torch.int8), "targets": labels.to(self.dtype)}

    def check_labels(self, batch: dict[str, Tensor]) -> None:
        labels, classes = batch["labels"], len(self.spec.classes)
        name = type(self).__name__
        if labels.shape[1:] != (classes,):
            raise UserError(f"{name} takes labels [N, {classes}] of several classes, and these are {list(labels.shape)}")
        strange = labels[(labels != 0) & (labels != 1) & (labels != IGNORE)]
        if len(strange):
            raise UserError(f"labels of several classes are 1, 0, or {IGNORE} where unknown, and one is {int(strange[0])}")

    def example_labels(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.randint(0, 2, (n, len(self.spec.classes)), generator=generator, dtype=torch.int8)

    # ------------------------------------------------------------------ steps

    def training_sums(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {}

    def predictions(self, logits: Tensor) -> Tensor:
        """The probability of each class, [N, classes]; they do not add up to 1."""
        return logits.sigmoid()

    def merge_views(self, logits: Tensor) -> Tensor:
        """Logits, [N, classes], whose probabilities are the mean of those of several views, [views, N, classes]."""
        return logits.sigmoid().mean(0).logit(eps=torch.finfo(logits.dtype).eps)

    def evaluation_step(self, stage: str, batch: dict[str, Tensor]) -> None:
        logits, labels = self.logits(batch).float(), batch["labels"]
        self.metrics[stage]["loss"].update(self.test_losses(logits, labels), (labels != IGNORE).any(1))
        self.metrics[stage]["scores"].update(logits.sigmoid(), labels)

    def compute_metrics(self, stage: str) -> dict[str, float]:
        loss, collected = self.metrics[stage]["loss"], self.metrics[stage]["scores"]
        mean_loss, (scores, labels) = float(loss.compute()), collected.compute()
        loss.reset()
        collected.reset()
        if stage == "val" and not self.trainer.sanity_checking:
            self.spec = replace(self.spec, thresholds=tuple(best_thresholds(scores, labels).tolist()))
        report = _Evaluation.of(scores, labels, self.thresholds)
        if stage == "test":
            self.details = {"classes": report.by_class(self.spec.classes)}
        counts = report.counts
        return {"mAP": report.mean_precision, "f1_micro": counts.f1_micro, "f1_macro": counts.f1_macro, "loss": mean_loss}

    # ------------------------------------------------------------------ predictions

    def describe_outputs(self) -> Outputs:
        classes, thresholds = self.spec.classes, self.thresholds.tolist()
        return Outputs(
            network=f"a multi-label image classifier with {len(classes)} classes",
            name="probabilities",
            title="Classes",
            names=classes,
            notes=tuple(f"predicted from a probability of {threshold:.4g} on" for threshold in thresholds),
            meaning="An image may be assigned several of these classes, or none of them.",
            from_logits=".sigmoid()",
            metadata={"thresholds": json.dumps(thresholds)},
        )

    def to_predictions(self, predictions: Tensor) -> list[Prediction]:
        chosen = (predictions.cpu() >= self.thresholds).tolist()
        rows = zip(predictions.tolist(), chosen, strict=True)
        return [LabelSet(dict(zip(self.spec.classes, row, strict=True)), self._named(mask)) for row, mask in rows]

    def predict_images(self, images: Tensor) -> list[Prediction]:
        """The classes of each image whose probability reaches their threshold."""
        return self.to_predictions(self.predict_step({"images": images}))

    def _named(self, mask: Sequence[bool]) -> tuple[str, ...]:
        return tuple(name for name, is_there in zip(self.spec.classes, mask, strict=True) if is_there)

    def report_samples(self, data: Any, split: str = "test") -> Samples:
        """Metrics of each class, and images, those with the most wrong labels first."""
        samples, kind = data.splits[split], f"{SPLIT_NAMES[split]} images"
        require_some(samples, kind)
        chosen, labels, scores = self.predict_split(data, split, MOST_TESTED)
        predicted = scores >= self.thresholds
        wrong = ((predicted != (labels == 1)) & (labels != IGNORE)).sum(1)
        report = _Evaluation.of(scores, labels, self.thresholds)
        about = (
            f"The best checkpoint has a mean average precision of {report.mean_precision:.4f} on "
            f"{part_of(len(chosen), len(samples), kind)}; all labels are right for {int((wrong == 0).sum()):,} of them."
        )
        mistakes = wrong.argsort(descending=True, stable=True)[: min(SHOWN_MISTAKES, int((wrong > 0).sum()))].tolist()
        others = evenly_spread(len(chosen), SHOWN - len(mistakes)).tolist()
        shown = torch.tensor(list(dict.fromkeys([*mistakes, *others])))
        rows = rows_of(samples, chosen[shown], labels[shown] == 1, predicted[shown], wrong[shown] == 0)
        images = [
            SampleImage(image, _joined(self._named(own)), _joined(self._named(guess)), is_correct)
            for image, own, guess, is_correct in rows
        ]
        return Samples(about, images=images, texts=[Text("Classes", report.table(self.spec.classes), is_aligned=True)])


def _joined(names: Sequence[str]) -> str:
    return ", ".join(names) or NOTHING


@dataclass(frozen=True)
class LabelSet(Prediction):
    """The classes that are predicted for an image.

    Args:
        values: class -> probability, of all classes.
        labels: the classes that are predicted.
    """

    values: dict[str, float]
    labels: tuple[str, ...]

    @property
    def name(self) -> str:
        return _joined(self.labels)

    def to_dict(self) -> dict[str, Any]:
        return {"labels": list(self.labels), "probabilities": self.values}

    def to_columns(self) -> dict[str, Any]:
        probabilities = {f"probability_{name}": f"{value:.6f}" for name, value in self.values.items()}
        return {"labels": "|".join(self.labels), **probabilities}

    def to_row(self) -> dict[str, str]:
        order = sorted(self.values, key=lambda name: (name not in self.labels, -self.values[name]))
        shown = order[: max(len(self.labels), 1) + 2]
        return {"labels": self.name, "probabilities": "  ".join(f"{name} {self.values[name]:.4f}" for name in shown)}

    @property
    def probability(self) -> None:
        return None


@dataclass(frozen=True)
class _Evaluation:
    """Average precisions, float64 [classes], counts at thresholds, the thresholds, and the number of positives of each class."""

    precisions: Tensor
    counts: LabelCounts
    thresholds: Tensor
    positives: Tensor

    @classmethod
    def of(cls, scores: Tensor, labels: Tensor, thresholds: Tensor) -> _Evaluation:
        counts = LabelCounts.of(scores, labels, thresholds)
        return cls(average_precision(scores, labels), counts, thresholds, (labels == 1).sum(0))

    @property
    def mean_precision(self) -> float:
        """The mean over the classes that have positives."""
        return float(self.precisions.nanmean())

    def by_class(self, names: Sequence[str]) -> dict[str, dict[str, float]]:
        """Metrics of each class as plain data; an average precision that is not defined is 0."""
        columns = {
            "precision": self.counts.precision,
            "recall": self.counts.recall,
            "f1": self.counts.f1,
            "average_precision": self.precisions.nan_to_num(0.0),
            "threshold": self.thresholds,
            "images": self.positives,
        }
        rows = zip(*(column.tolist() for column in columns.values()), strict=True)
        return {name: dict(zip(columns, row, strict=True)) for name, row in zip(names, rows, strict=True)}

    def table(self, names: Sequence[str]) -> str:
        """The metrics of each class as lines of text."""
        width = max(map(len, [*names, "class"]))
        head = f"{'class':<{width}}  images  average precision  precision  recall      F1  threshold"
        lines = [
            f"{name:<{width}}  {one['images']:>6,}  {one['average_precision']:>17.4f}  {one['precision']:>9.4f}  "
            f"{one['recall']:>6.4f}  {one['f1']:>6.4f}  {one['threshold']:>9.4f}"
            for name, one in self.by_class(names).items()
        ]
        return "\n".join([head, *lines])
