"""The coverage task: images in, the share of them that is bright out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from zoo import ImageSpec, Recipe
from zoo.metrics.mean_loss import MeanLoss
from zoo.tasks.prediction import Prediction
from zoo.tasks.samples import SampleImage, Samples, evenly_spread
from zoo.tasks.task import Task, compute_and_reset

SHOWN = 8  # images in a report


class CoverageRegressor(Task):
    """Images in, one number each out, learned by its squared error. A model writes ``__init__``, ``forward`` and ``stages``.

    A batch is a dict: ``images``, [N, C, H, W] with values from 0 to 255, and ``labels``, float [N].
    """

    task = "coverage"
    monitor = "mae"
    directions = {"mae": "min", "loss": "min"}

    def __init__(self, spec: ImageSpec, recipe: Recipe) -> None:
        super().__init__(spec, recipe)
        for name in ("mean", "std"):
            self.register_buffer(name, 255 * torch.tensor(getattr(spec, name)).view(1, -1, 1, 1), persistent=False)
        self.metrics = nn.ModuleDict(
            {stage: nn.ModuleDict({name: MeanLoss() for name in self.directions}) for stage in ("val", "test")}
        )

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        errors = self.predict_step(batch) - batch["labels"]
        return self.objective(errors.square().mean(), len(errors), mae=errors.detach().abs().sum())

    def evaluation_step(self, stage: str, batch: dict[str, Tensor]) -> None:
        errors, counted = self.predict_step(batch) - batch["labels"], ~batch["labels"].isnan()
        self.metrics[stage]["mae"].update(errors.abs(), counted)
        self.metrics[stage]["loss"].update(errors.square(), counted)

    def compute_metrics(self, stage: str) -> dict[str, float]:
        return compute_and_reset(self.metrics[stage])

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int = 0) -> Tensor:
        """The number for each image, [N]."""
        return self((batch["images"] - self.mean) / self.std)

    def example_batch(self, n: int, seed: int = 0) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        images = torch.randint(0, 256, (n, *self.spec.shape), generator=generator, dtype=torch.uint8)
        return {"images": images, "labels": torch.rand(n, generator=generator)}

    # what follows is optional: `zoo predict`, and a report that also shows labels

    def predict_images(self, images: Tensor) -> list[Prediction]:
        return [Prediction({"value": value}) for value in self.predict_step({"images": images}).tolist()]

    def report_samples(self, data: Any, split: str = "test") -> Samples:
        split = data.splits["test"]
        chosen = evenly_spread(len(split), SHOWN)
        images = next(split.images.batches(iter([chosen]))).cpu()
        rows = zip(images, split.labels[chosen].tolist(), self.predict_images(images.to(self.device)), strict=True)
        shown = [SampleImage(image, f"label {label:.4f}", str(prediction)) for image, label, prediction in rows]
        return Samples(f"{len(shown)} test images with predicted numbers and labels.", images=shown)
