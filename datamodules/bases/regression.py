"""The base of regression data: images with one or several numbers each."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from zoo.core.errors import UserError, some
from zoo.core.violation import require
from zoo.datamodules.bases.images import ImageData
from zoo.datamodules.loading.augmentations.augmentation import Augmentation
from zoo.datamodules.loading.loader import Batch
from zoo.spec import RegressionSpec


class RegressionData(ImageData):
    """Images with numbers. A subclass implements ``build_spec`` and ``load_splits``.

    A batch has ``images``, uint8 [N, C, H, W], and ``labels``, float32 [N, targets], nan where they are unknown. ``setup``
    computes mean and standard deviation of the training labels. No preset of ``augment`` moves or flips images, as that may
    change the numbers.
    """

    task = "regression"
    light = standard = "none"
    strong = "jitter:0.2"

    def __init__(self, batch_size: int, seed: int, **options: Any) -> None:
        super().__init__(batch_size, seed, **options)
        if mixing := Augmentation(self.augment, classes=1).mixing:
            raise UserError(f"data.augment={mixing[0]}: mixes classes, which numbers have none of: remove it")

    def setup(self, stage: str | None = None) -> None:
        if self.splits:
            return
        super().setup(stage)
        labels = self.splits["train"].labels.double()
        mean = labels.nanmean(0)
        std = (labels - mean).square().nanmean(0).sqrt()
        for name, deviation in zip(self.spec.targets, std.tolist(), strict=True):
            if not 0 < deviation < math.inf:
                known = "is the same for all" if deviation == 0 else "has infinite values in the"
                what = "has no value in the" if math.isnan(deviation) else known
                source = self.source or type(self).__name__
                raise UserError(f"{source}: {name!r} {what} training images: there is nothing to learn")
        self._spec = replace(self.spec, target_mean=tuple(mean.tolist()), target_std=tuple(std.tolist()))

    def require_compatible(self, spec: RegressionSpec, name: str) -> None:
        super().require_compatible(spec, name)
        if set(spec.targets) != set(self.spec.targets):
            theirs, own = some(spec.targets), some(self.spec.targets)
            raise UserError(f"{name} has the numbers {own}, but the model predicts {theirs}")
        order = [self.spec.targets.index(target) for target in spec.targets]
        self.splits = {split: replace(each, labels=each.labels[:, order]) for split, each in self.splits.items()}
        self._spec = replace(self.spec, targets=spec.targets, target_mean=spec.target_mean, target_std=spec.target_std)

    def label_text(self, row: Tensor) -> str:
        """The numbers in a row of labels."""
        return ", ".join(f"{name} {value:.3g}" for name, value in zip(self.spec.targets, row.tolist(), strict=True))

    def summarize(self) -> dict[str, Any]:
        """Mean and standard deviation of each number, shape, images in each split, and statistics, once ``setup`` has run."""
        spec = self.spec
        rows = zip(spec.targets, spec.target_mean, spec.target_std, strict=True)
        targets = {name: {"mean": round(mean, 4), "std": round(std, 4)} for name, mean, std in rows}
        return {"targets": targets, **super().summarize()}

    def preview_texts(self, chosen: Tensor) -> list[list[str]]:
        return [[self.label_text(row)] for row in self.splits["train"].labels[chosen]]

    def check_batch(self, batch: Batch) -> None:
        super().check_batch(batch)
        labels, targets = batch["labels"], self.spec.outputs
        require(labels.shape[1:] == (targets,), f"labels have shape {tuple(labels.shape)}, and there are {targets} targets")
        require(labels.dtype == torch.float32, f"labels are {labels.dtype}, and numbers are float32")
