"""The classification task: cross-entropy on images of one class each."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from zoo.errors import UserError
from zoo.metrics.class_figures import ClassFigures
from zoo.metrics.mean_loss import MeanLoss
from zoo.recipe import Recipe
from zoo.spec import IGNORE, ImageSpec
from zoo.tasks.task import Task, read_out

CLASSES_FOR_TOP5 = 20  # below, the right class among five says little


class Classifier(Task):
    """Images in, one score for each class out. A model writes ``__init__``, ``forward`` and ``stages``.

    A batch is a dict: ``images``, [N, C, H, W] with values from 0 to 255; ``labels``, int64 [N]; and, when images were mixed,
    ``targets``, [N, classes]. Images are normalised here, with the statistics of the spec, so that a trained network
    carries its own preprocessing with it.
    """

    task = "classification"
    monitor = "accuracy"
    directions = {"accuracy": "max", "accuracy_top5": "max", "loss": "min"}

    def __init__(self, spec: ImageSpec, recipe: Recipe) -> None:
        super().__init__(spec, recipe)
        mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (spec.mean, spec.std))
        # not in the state dict: they are part of the spec, and a published state dict fits with strict=True
        self.register_buffer("input_scale", 1 / (255 * std), persistent=False)
        self.register_buffer("input_shift", -mean / std, persistent=False)
        self.metrics = nn.ModuleDict({stage: _metrics(len(spec.classes)) for stage in ("val", "test")})
        self.class_figures: ClassFigures | None = None

    def normalise(self, images: Tensor) -> Tensor:
        """Pixels from 0 to 255 to zero mean and unit deviation, [N, C, H, W], in the layout that the network likes."""
        layout = torch.channels_last if self.channels_last else torch.preserve_format
        if images.is_floating_point():
            return (images * self.input_scale + self.input_shift).contiguous(
                memory_format=torch.channels_last if self.channels_last else torch.contiguous_format
            )
        return images.to(self.input_scale.dtype).mul_(self.input_scale).add_(self.input_shift).to(memory_format=layout)

    def trunk(self) -> nn.Module:
        """The part that sees: normalised images [N, C, H, W] to what it finds at each place, [N, features, rows, columns].

        The head and what only serves it are left out. The module shares its parameters with this one.

        Raises:
            UserError: the network does not keep places apart.
        """
        raise UserError(f"{type(self).__name__} has no feature map: take a convolutional network or a transformer")

    def load_published(self) -> None:
        """Take over the weights that the network was published with, and its statistics of images; the head stays as it is.

        Raises:
            UserError: there are none to be had.
        """
        raise UserError(f"{type(self).__name__} comes without published weights: name a run that trained it")

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        logits = self(self.normalise(batch["images"]))
        labels = batch["labels"]
        # for mixed images the loss takes the soft targets, and accuracy the unmixed label
        loss = self.loss(logits, batch.get("targets", labels))
        return self.objective(loss, len(labels), accuracy=(logits.detach().argmax(1) == labels).sum())

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The mean loss that is trained on; ``targets`` are labels, [N], or of mixed images probabilities, [N, classes]."""
        return F.cross_entropy(logits, targets, label_smoothing=self.recipe.label_smoothing)

    def test_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss of each sample in evaluation, [N]; what it is where the label is ``IGNORE`` does not matter."""
        return F.cross_entropy(logits, labels, reduction="none", ignore_index=IGNORE)

    def outputs(self, batch: dict[str, Tensor]) -> Tensor:
        """The probability of each class, [N, classes]."""
        return self(self.normalise(batch["images"])).float().softmax(1)

    def example(self, n: int, seed: int = 0) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        images = torch.randint(0, 256, (n, *self.spec.shape), generator=generator, dtype=torch.uint8)
        return {"images": images, "labels": torch.randint(0, len(self.spec.classes), (n,), generator=generator)}

    def evaluate(self, stage: str, batch: dict[str, Tensor]) -> None:
        logits, labels = self(self.normalise(batch["images"])).float(), batch["labels"]
        for name, metric in self.metrics[stage].items():
            if name == "loss":
                metric.update(self.test_losses(logits, labels), labels != IGNORE)
            else:
                metric.update(logits, labels)
        if stage == "test" and self.class_figures is not None:
            self.class_figures.update(logits, labels)

    def figures(self, stage: str) -> dict[str, float]:
        figures = read_out(self.metrics[stage])
        if stage == "test" and self.class_figures is not None:
            figures["calibration_error"], self.findings = self.class_figures.take(self.spec.classes)
        return figures

    def look_closer(self) -> None:
        self.class_figures = ClassFigures(len(self.spec.classes), IGNORE).to(self.device)


def _metrics(classes: int) -> nn.ModuleDict:
    metrics: dict[str, Metric] = {
        "accuracy": MulticlassAccuracy(classes, average="micro", ignore_index=IGNORE, validate_args=False),
        "loss": MeanLoss(),
    }
    if classes >= CLASSES_FOR_TOP5:
        metrics["accuracy_top5"] = MulticlassAccuracy(classes, top_k=5, average="micro", ignore_index=IGNORE, validate_args=False)
    return nn.ModuleDict(metrics)


def require_classifier(task: Task, named: str, command: str) -> None:
    """Refuse what does not sort images into classes.

    Raises:
        UserError: and what it does instead.
    """
    if not isinstance(task, Classifier):
        raise UserError(f"{named} is for {task.task}: {command} is for networks that sort images into classes")
    if task.spec.are_points:
        raise UserError(f"{named} sorts points in the plane: {command} is for networks that sort images into classes")
