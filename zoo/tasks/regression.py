"""The regression task: one or several numbers for each image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo.core.errors import UserError
from zoo.metrics.mean_loss import MeanLoss
from zoo.metrics.value_errors import ValueErrors
from zoo.registry.entry import register_task
from zoo.spec import RegressionSpec
from zoo.tasks.images import ImageModel
from zoo.tasks.outputs import Outputs
from zoo.tasks.prediction import Prediction
from zoo.tasks.samples import SPLIT_NAMES, SampleImage, Samples, Text, evenly_spread, part_of, require_some, rows_of

MOST_TESTED = 2000  # images that are predicted for a report
SHOWN, SHOWN_MISTAKES = 12, 6


@register_task("regression", task="classification")
class ImageRegressor(ImageModel):
    """One or several numbers for each image.

    Labels are float [N, targets], nan where they are unknown; in a tuple of any ``Trainer`` also [N] of a single target. The
    network gives them with zero mean and unit deviation over the training images; predictions are in the units of the labels.
    """

    task = "regression"
    monitor = "r2"
    directions = {"r2": "max", "mae": "min", "rmse": "min", "loss": "min"}
    default_loss = "mse"
    explain_command = ""
    spec: RegressionSpec

    def build_metrics(self) -> None:
        self.register_buffer("target_mean", torch.tensor(self.spec.target_mean), persistent=False)
        self.register_buffer("target_std", torch.tensor(self.spec.target_std), persistent=False)
        self.metrics = nn.ModuleDict(
            {stage: nn.ModuleDict({"loss": MeanLoss(), "errors": ValueErrors(self.spec.outputs)}) for stage in ("val", "test")}
        )

    def standardized(self, labels: Tensor) -> Tensor:
        """Labels with zero mean and unit deviation."""
        return (labels - self.target_mean) / self.target_std

    # ------------------------------------------------------------------ labels

    def labels_from_tuple(self, labels: Tensor) -> dict[str, Tensor]:
        targets = self.spec.outputs
        if labels.shape[1:] != (targets,) and not (labels.dim() == 1 and targets == 1):
            raise UserError(f"labels are numbers, [N, {targets}], and these are {list(labels.shape)}")
        return {"labels": labels.to(self.dtype).view(len(labels), targets)}

    def check_labels(self, batch: dict[str, Tensor]) -> None:
        labels, targets, name = batch["labels"], self.spec.outputs, type(self).__name__
        if labels.shape[1:] != (targets,) or not labels.is_floating_point():
            raise UserError(f"{name} takes numbers, float [N, {targets}], and these are {labels.dtype} {list(labels.shape)}")
        if labels.isinf().any():
            raise UserError(f"{name} takes finite numbers, or nan where they are unknown, and one is infinite")

    def example_labels(self, n: int, generator: torch.Generator) -> Tensor:
        drawn = torch.randn(n, self.spec.outputs, generator=generator)
        return drawn * torch.tensor(self.spec.target_std) + torch.tensor(self.spec.target_mean)

    # ------------------------------------------------------------------ steps

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return super().loss(logits, self.standardized(targets))

    def test_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        return super().test_losses(logits, self.standardized(labels))

    def training_sums(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {}

    def predictions(self, logits: Tensor) -> Tensor:
        """The numbers, [N, targets]."""
        return logits * self.target_std + self.target_mean

    def evaluation_step(self, stage: str, batch: dict[str, Tensor]) -> None:
        outputs, labels = self.logits(batch).float(), batch["labels"]
        self.metrics[stage]["loss"].update(self.test_losses(outputs, labels), ~labels.isnan().all(1))
        self.metrics[stage]["errors"].update(outputs, self.standardized(labels))

    def compute_metrics(self, stage: str) -> dict[str, float]:
        loss, errors = self.metrics[stage]["loss"], self.metrics[stage]["errors"]
        mean_loss, found = float(loss.compute()), self._in_units(errors.compute())
        loss.reset()
        errors.reset()
        if stage == "test":
            self.details = {"targets": _by_target(self.spec.targets, found)}
        return {**{name: float(each.nanmean()) for name, each in found.items()}, "loss": mean_loss}

    def _in_units(self, found: dict[str, Tensor]) -> dict[str, Tensor]:
        """Errors of standardized values, [targets], as errors of the numbers; R2 is the same for both."""
        std = self.target_std.cpu()
        each = {name: values.reshape(-1) for name, values in found.items()}  # torchmetrics takes the only one out of a tensor
        return {name: values if name == "r2" else values * std for name, values in each.items()}

    # ------------------------------------------------------------------ predictions

    def describe_outputs(self) -> Outputs:
        mean, std = (list(values) for values in (self.spec.target_mean, self.spec.target_std))
        count = self.spec.outputs
        return Outputs(
            network=f"a network that predicts {count} number{'' if count == 1 else 's'} for an image",
            name="values",
            title="Outputs",
            names=self.spec.targets,
            about="They are in the units of the training data.",
            from_logits=f".mul(torch.tensor({std})).add(torch.tensor({mean}))",
            scales=self.spec.target_std,
            pipeline="",
        )

    def to_predictions(self, predictions: Tensor) -> list[Prediction]:
        return [Values(dict(zip(self.spec.targets, row, strict=True))) for row in predictions.tolist()]

    def predict_images(self, images: Tensor) -> list[Prediction]:
        """The numbers of each image."""
        return self.to_predictions(self.predict_step({"images": images}))

    def report_samples(self, data: Any, split: str = "test") -> Samples:
        """Errors of each number, truth against prediction, and images, those with the largest errors first."""
        samples, kind = data.splits[split], f"{SPLIT_NAMES[split]} images"
        require_some(samples, kind)
        chosen, labels, predicted = self.predict_split(data, split, MOST_TESTED)
        true, guess = (self.standardized(values.to(self.device)).cpu() for values in (labels, predicted))
        errors = ValueErrors(self.spec.outputs).set_dtype(torch.float64)
        errors.update(guess, true)
        found = self._in_units(errors.compute())
        about = (
            f"The best checkpoint has an R2 of {float(found['r2'].nanmean()):.4f} on {part_of(len(chosen), len(samples), kind)}"
            f"{', the mean of its numbers' if self.spec.outputs > 1 else ''}."
        )
        wrong = (guess - true).nan_to_num(0).square().sum(1)
        mistakes = wrong.argsort(descending=True, stable=True)[:SHOWN_MISTAKES].tolist()
        shown = torch.tensor(list(dict.fromkeys([*mistakes, *evenly_spread(len(chosen), SHOWN - len(mistakes)).tolist()])))
        texts = (self.to_predictions(values[shown]) for values in (labels, predicted))
        rows = zip(rows_of(samples, chosen[shown]), *texts, strict=True)
        return Samples(
            about,
            images=[SampleImage(image, f"true {own.name}", said.name) for (image,), own, said in rows],
            texts=[Text("Errors", _table(self.spec.targets, found), is_aligned=True)],
            scatter={name: (labels[:, place], predicted[:, place]) for place, name in enumerate(self.spec.targets)},
        )


def _by_target(names: tuple[str, ...], found: dict[str, Tensor]) -> dict[str, dict[str, float]]:
    """Errors of each number as plain data; an R2 that is not defined is 0."""
    columns = {name: values.nan_to_num(0.0).tolist() for name, values in found.items()}
    rows = zip(*columns.values(), strict=True)
    return {name: dict(zip(columns, row, strict=True)) for name, row in zip(names, rows, strict=True)}


def _table(names: tuple[str, ...], found: dict[str, Tensor]) -> str:
    """The errors of each number as lines of text."""
    width = max(map(len, [*names, "number"]))
    lines = [
        f"{name:<{width}}  {one['mae']:>10.4g}  {one['rmse']:>10.4g}  {one['r2']:>7.4f}"
        for name, one in _by_target(names, found).items()
    ]
    return "\n".join([f"{'number':<{width}}  {'mae':>10}  {'rmse':>10}  {'r2':>7}", *lines])


@dataclass(frozen=True)
class Values(Prediction):
    """The numbers that are predicted for an image, by name."""

    @property
    def name(self) -> str:
        if len(self.values) == 1:
            return f"{next(iter(self.values.values())):.4g}"
        return ", ".join(f"{name} {value:.3g}" for name, value in self.values.items())

    def to_dict(self) -> dict[str, Any]:
        return {"values": self.values}

    def to_row(self) -> dict[str, str]:
        return {name: f"{value:.4g}" for name, value in self.values.items()}

    def __str__(self) -> str:
        return self.name
