"""The classification task: cross-entropy on images of one class each."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from zoo.config.recipe import Recipe
from zoo.core.counts import out_of
from zoo.core.errors import UserError
from zoo.metrics.class_means import BalancedAccuracy, MacroF1
from zoo.metrics.class_metrics import ClassMetrics
from zoo.metrics.label_noise import label_suspects
from zoo.metrics.mean_loss import MeanLoss, proportion_error
from zoo.optim.class_weights import class_weights, fixed_class_weights
from zoo.optim.distillation import distillation_loss
from zoo.registry.entry import register_task
from zoo.spec import IGNORE, ImageSpec
from zoo.tasks.images import ImageModel
from zoo.tasks.outputs import Outputs
from zoo.tasks.prediction import Prediction, rank
from zoo.tasks.samples import SPLIT_NAMES, SampleImage, Samples, evenly_spread, part_of, require_some, rows_of
from zoo.tasks.task import compute_and_reset

CLASSES_FOR_TOP5 = 20  # below, the right class among five says little
# in a report: test or training images that are classified, and those of them that are shown
MOST_TESTED = 2000
SHOWN, SHOWN_MISTAKES, SHOWN_SUSPECTS = 12, 6, 12
SHOWN_IN_TRACKERS = 16
TEACHER = "teacher_logits"  # column of a batch with those of ``recipe.teacher``, [N, classes]
MOST_SUSPECTS = 0.3  # of the images: where more look mislabeled, it is the network that is wrong


@register_task("classification", task="classification")
class Classifier(ImageModel):
    """One class for each image.

    Labels are int64 [N], and targets of mixed images probabilities, [N, classes]; in a tuple of any ``Trainer`` labels may also
    be one-hot or probabilities.
    """

    task = "classification"
    monitor = "accuracy"
    directions = {"accuracy": "max", "accuracy_top5": "max", "balanced_accuracy": "max", "f1_macro": "max", "loss": "min"}
    default_loss = "cross-entropy"
    has_class_metrics = True
    weighs_classes = True
    has_teachers = True

    def __init__(self, spec: ImageSpec, recipe: Recipe | None = None) -> None:
        super().__init__(spec, recipe)
        given = self.recipe.class_weights
        self.register_buffer("class_weights", torch.ones(len(spec.classes)) if given else None, persistent=False)
        if given and not isinstance(given, str):
            self.class_weights.copy_(fixed_class_weights(given, spec.classes))

    def check_data_options(self, data: Any) -> None:
        if getattr(data, "sampling", "natural") == "natural":
            return
        if self.one_pass:
            raise UserError("data.sampling=balanced: this model reads each training image once: omit it")
        if isinstance(self.recipe.class_weights, str):
            raise UserError(
                f"data.sampling=balanced and recipe.class_weights={self.recipe.class_weights} make up for the same imbalance: "
                "omit one"
            )

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit" and isinstance(self.recipe.class_weights, str):
            self._weigh_classes(self.recipe.class_weights)

    def _weigh_classes(self, kind: str) -> None:
        """Weigh classes by their number of training images.

        Raises:
            UserError: it is unknown.
        """
        splits = getattr(self.trainer.datamodule, "splits", None)
        if splits is None:
            raise UserError(
                f"recipe.class_weights={kind} needs a data set of the zoo, which tells the number of images in each class: "
                "give a list of weights"
            )
        counts = torch.bincount(splits["train"].labels.cpu(), minlength=len(self.spec.classes))
        self.class_weights.copy_(class_weights(counts, kind))

    def build_metrics(self) -> None:
        self.metrics = nn.ModuleDict({stage: _metrics(len(self.spec.classes)) for stage in ("val", "test")})
        self.directions = {name: way for name, way in self.directions.items() if name in self.metrics["val"]}
        self.class_metrics: ClassMetrics | None = None
        self.adds_metrics = False

    def labels_from_tuple(self, labels: Tensor) -> dict[str, Tensor]:
        if labels.is_floating_point() or labels.shape[1:] not in ((), (1,)):
            classes = len(self.spec.classes)
            if labels.shape[1:] != (classes,):
                these = f"{str(labels.dtype).removeprefix('torch.')} {list(labels.shape)}"
                raise UserError(f"labels are classes, int64 [N], or probabilities [N, {classes}], and these are {these}")
            return {"labels": labels.argmax(1), "targets": labels.to(self.dtype)}
        return {"labels": labels.long().view(len(labels))}

    def check_labels(self, batch: dict[str, Tensor]) -> None:
        labels, targets, classes = batch["labels"], batch.get("targets"), len(self.spec.classes)
        if targets is not None and self.recipe.loss in (None, "cross-entropy"):
            sums = targets.float().sum(1)
            if (sums - 1).abs().max() > 0.01:
                raise UserError(
                    f"labels [N, {classes}] are probabilities of the classes, and these have a sum of {float(sums[0]):g}"
                )
        strange = labels[(labels != IGNORE) & ((labels < 0) | (labels >= classes))]
        if len(strange):
            raise UserError(f"{type(self).__name__} has the classes 0 to {classes - 1}, and a label is {int(strange[0])}")

    def training_sums(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"accuracy": (logits.argmax(1) == labels).sum()}

    def loss_options(self) -> dict[str, Any]:
        options = super().loss_options()
        return options if self.class_weights is None else {**options, "weight": self.class_weights}

    def batch_loss(self, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """The mean training loss of a batch; with a teacher, the rest beside the share of the distillation loss."""
        loss = super().batch_loss(logits, batch)
        if TEACHER not in batch:
            return loss
        share, counted = self.recipe.teacher_share, batch["labels"] != IGNORE
        distance = distillation_loss(logits, batch[TEACHER], self.recipe.teacher_temperature, counted)
        self.running.add(0, distillation=distance.detach() * len(counted))
        return share * distance + (1 - share) * loss

    @property
    def chance_classes(self) -> int | None:
        is_cross_entropy = self.recipe.loss in (None, "cross-entropy") and type(self).loss is ImageModel.loss
        return len(self.spec.classes) if is_cross_entropy and not self.recipe.teacher else None

    def calibrated(self, logits: Tensor) -> Tensor:
        """The logits, float32 [N, classes], divided by the temperature of the spec; their softmax is the probability."""
        return logits if self.spec.temperature == 1 else logits / self.spec.temperature

    def merge_views(self, logits: Tensor) -> Tensor:
        """Logits, [N, classes], whose probabilities are the mean of those of several views, [views, N, classes]."""
        return (self.calibrated(logits).log_softmax(2).logsumexp(0) - math.log(len(logits))) * self.spec.temperature

    def predictions(self, logits: Tensor) -> Tensor:
        """The probability of each class, [N, classes]."""
        return self.calibrated(logits).softmax(1)

    def example_labels(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.randint(0, len(self.spec.classes), (n,), generator=generator)

    def evaluation_step(self, stage: str, batch: dict[str, Tensor]) -> None:
        logits, labels = self.calibrated(self.logits(batch).float()), batch["labels"]
        for name, metric in self.metrics[stage].items():
            if name == "loss":
                metric.update(self.test_losses(logits, labels), labels != IGNORE)
            else:
                metric.update(logits, labels)
        if stage == "test" and self.class_metrics is not None:
            self.class_metrics.update(logits, labels)

    def compute_metrics(self, stage: str) -> dict[str, float]:
        values = compute_and_reset(self.metrics[stage])
        if stage == "test" and self.class_metrics is not None:
            calibration_error, self.details = self.class_metrics.compute_and_reset(self.spec.classes)
            if self.adds_metrics:
                values["calibration_error"] = calibration_error
        return values

    def standard_error(self, value: float) -> float:
        metrics = self.metrics["val"]
        if self.monitor == "balanced_accuracy":
            return metrics["balanced_accuracy"].standard_error
        return proportion_error(value, metrics["loss"].samples) if self.monitor in ("accuracy", "accuracy_top5") else 0.0

    def collect_details(self, metrics: bool = True) -> None:
        self.adds_metrics = metrics
        self.class_metrics = ClassMetrics(len(self.spec.classes), IGNORE).to(self.device)

    # ------------------------------------------------------------------ predictions

    @property
    def use_command(self) -> str:
        return "picture regions {run}" if self.spec.are_points else "predict {run} IMAGE..."

    @property
    def review_command(self) -> str:
        return "report {run}" if self.recipe.epochs > 1 else "picture confusion {run}"

    def describe_outputs(self) -> Outputs:
        classes, temperature = self.spec.classes, self.spec.temperature
        is_calibrated = temperature != 1
        fitted = f"They are calibrated: logits are divided by {temperature:.6g}, which was fitted on the validation images."
        return Outputs(
            network=f"an image classifier with {len(classes)} classes",
            name="probabilities",
            title="Classes",
            names=classes,
            about=fitted if is_calibrated else "",
            meaning="Every image is assigned one of these classes, even if it shows none of them.",
            from_logits=f"{f'.div({temperature!r})' if is_calibrated else ''}.softmax(1)",
        )

    def decisions(self, predictions: Tensor) -> Tensor:
        return predictions.argmax(1)

    def to_predictions(self, predictions: Tensor, top: int = 3) -> list[Prediction]:
        return rank(predictions, self.spec.classes, "class", top)

    def predict_images(self, images: Tensor, top: int = 3) -> list[Prediction]:
        """The ``top`` most probable classes of each image."""
        return self.to_predictions(self.predict_step({"images": images}), top)

    def report_samples(self, data: Any, split: str = "test") -> Samples:
        """Images, the most confident mistakes first, and training images whose labels look wrong."""
        samples, classes = data.splits[split], self.spec.classes
        kind = f"{SPLIT_NAMES[split]} {'points' if self.spec.are_points else 'images'}"
        require_some(samples, kind)
        chosen, labels, probabilities = self.predict_split(data, split, MOST_TESTED)
        confidence, predicted = probabilities.max(1)
        wrong = predicted != labels
        about = f"The best checkpoint is correct on {out_of(int((~wrong).sum()), len(chosen), kind)}"
        about += "." if len(chosen) == len(samples) else f", evenly spaced among all {len(samples):,}."
        pairs = labels * len(classes) + predicted
        confusion = torch.bincount(pairs, minlength=len(classes) ** 2).view(len(classes), -1)
        report = Samples(about, classes=classes, confusion=confusion)
        if not self.spec.are_points:
            mistakes = wrong.nonzero()[:, 0]
            mistakes = mistakes[confidence[mistakes].argsort(descending=True, stable=True)][:SHOWN_MISTAKES].tolist()
            others = evenly_spread(len(chosen), SHOWN - len(mistakes)).tolist()
            shown = torch.tensor(list(dict.fromkeys([*mistakes, *others])))
            report.images = [
                SampleImage(image, classes[label], classes[guess], label == guess, probability)
                for image, label, guess, probability in rows_of(
                    samples, chosen[shown], labels[shown], predicted[shown], confidence[shown]
                )
            ]
            report.about_labels, report.suspects = self.suspect_labels(data)
        return report

    def suspect_labels(self, data: Any) -> tuple[str, list[SampleImage]]:
        """Summarize the training labels that look wrong, with the most suspicious images."""
        split, classes = data.splits["train"], self.spec.classes
        chosen, labels, probabilities = self.predict_split(data, "train", MOST_TESTED)
        suspects, predicted = label_suspects(labels, probabilities)
        examined = part_of(len(chosen), len(split), "training images")
        if not len(suspects):
            return f"Of {examined} none looks mislabeled.", []
        if len(suspects) > MOST_SUSPECTS * len(chosen):
            return f"Of {examined}, {len(suspects):,} look mislabeled: the network is not accurate enough to judge labels.", []
        about = (
            f"Of {examined}, {len(suspects):,} look{'s' if len(suspects) == 1 else ''} mislabeled: another class is more "
            "probable than the label, and at least as probable as it is on average for images of that class. "
            f"{'Below are the most suspicious. ' if len(suspects) > SHOWN_SUSPECTS else ''}"
            "Check before you change a label: the network may be wrong, the more so the less accurate it is."
        )
        shown, predicted = suspects[:SHOWN_SUSPECTS], predicted[:SHOWN_SUSPECTS]
        places = chosen[shown]
        rows = rows_of(split, places, labels[shown], predicted, probabilities[shown, predicted])
        names = (_name(data, place) for place in places.tolist())
        return about, [
            SampleImage(image, classes[label], classes[guess], None, probability, name)
            for (image, label, guess, probability), name in zip(rows, names, strict=True)
        ]

    def validation_samples(self, data: Any) -> Samples:
        if self._after_features or self.spec.are_points:  # batches hold features, or points
            return Samples()
        samples, classes = data.splits["val"], self.spec.classes
        if not len(samples):
            return Samples(missing="No samples: there are no validation images.")
        self.eval()
        with torch.inference_mode():
            chosen, labels, probabilities = self.predict_split(data, "val", SHOWN_IN_TRACKERS)
        confidence, predicted = probabilities.max(1)
        rows = rows_of(samples, chosen, labels, predicted, confidence)
        images = [SampleImage(image, classes[label], classes[guess], label == guess, sure) for image, label, guess, sure in rows]
        return Samples(f"{len(images)} images, evenly spaced in the validation split.", images=images)


def _name(data: Any, index: int) -> str:
    """The file of a training image, or its index in the split."""
    files = data.splits["train"].files
    if not files:
        return f"training image {index}"
    file = Path(files[index])
    return str(file.relative_to(data.root)) if data.root and file.is_relative_to(data.root) else str(file)


def _metrics(classes: int) -> nn.ModuleDict:
    metrics: dict[str, Metric] = {
        "accuracy": MulticlassAccuracy(classes, average="micro", ignore_index=IGNORE, validate_args=False),
        "balanced_accuracy": BalancedAccuracy(classes, IGNORE),
        "f1_macro": MacroF1(classes, IGNORE),
        "loss": MeanLoss(),
    }
    if classes >= CLASSES_FOR_TOP5:
        metrics["accuracy_top5"] = MulticlassAccuracy(classes, top_k=5, average="micro", ignore_index=IGNORE, validate_args=False)
    return nn.ModuleDict(metrics)
