"""The base of image classification data."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from zoo.core.errors import UserError
from zoo.core.randomness import derive_seed
from zoo.core.violation import require
from zoo.datamodules.bases.images import PREVIEWED, ImageData
from zoo.datamodules.loading.class_names import match_classes
from zoo.datamodules.loading.held_out import fold_by_class, parse_fold, split_by_class
from zoo.datamodules.loading.loader import Batch
from zoo.datamodules.loading.splits import Split
from zoo.spec import ImageSpec


class ClassificationData(ImageData):
    """Images with one class each. A subclass implements ``build_spec`` and ``load_splits``.

    A batch has ``images``, uint8 [N, C, H, W], and ``labels``, int64 [N]; mixup and cutmix add ``targets``, float [N, classes].
    The validation images are stratified by class, where they are no files.

    Args:
        sampling: natural, each training image once an epoch, or balanced, each class equally often in as many steps.
    """

    task = "classification"

    def __init__(self, batch_size: int, seed: int, sampling: Literal["natural", "balanced"] = "natural", **options: Any) -> None:
        super().__init__(batch_size, seed, **options)
        self.sampling = sampling
        self.fold = parse_fold(self.validation)
        if self.fold is None and not 0 <= float(self.validation) < 1:
            raise UserError(f"data.validation={self.validation}: must be at least 0 and less than 1")

    @property
    def class_count(self) -> int:
        return len(self.spec.classes)

    def require_compatible(self, spec: ImageSpec, name: str) -> None:
        super().require_compatible(spec, name)
        if self.spec.classes != spec.classes:
            self._relabel(spec.classes, name)

    def _relabel(self, classes: tuple[str, ...], name: str) -> None:
        """Give each image the label that its class has among those of a network, which may have more of them."""
        places = torch.tensor(match_classes(classes, self.spec.classes, name))
        self.splits = {split: replace(each, labels=places[each.labels]) for split, each in self.splits.items()}
        self._spec = replace(self.spec, classes=classes)

    def with_validation(self, splits: dict[str, Split]) -> dict[str, Split]:
        if self.fold and "val" in splits:
            raise UserError(f"data.validation={self.validation}: the data has its own validation split, so there are no folds")
        return super().with_validation(splits)

    def hold_out(self, split: Split) -> tuple[Tensor, Tensor]:
        if split.files:
            return super().hold_out(split)
        labels, seed = split.labels, derive_seed(self.seed, "val")
        if self.fold is None:
            return split_by_class(labels, float(self.validation), seed)
        smallest = int(torch.bincount(labels)[labels.unique()].min())
        if smallest < self.fold[1]:
            raise UserError(f"data.validation={self.validation}: a class has only {smallest} images, too few for that many folds")
        return fold_by_class(labels, *self.fold, seed)

    def summarize(self) -> dict[str, Any]:
        """Classes, shape, images in each split, and statistics, once ``setup`` has run."""
        return {"classes": list(self.spec.classes), **super().summarize()}

    def label_text(self, label: Tensor) -> str:
        """The name of a class, whose label is a 0-d tensor."""
        return self.spec.classes[int(label)]

    def _previewed(self, split: Split) -> tuple[Tensor, list[str]]:
        """The first image of each class, then the second, and so on."""
        labels = split.labels
        order = torch.empty(len(labels), dtype=torch.long)
        for label in labels.unique():
            members = (labels == label).nonzero()[:, 0]
            order[members] = torch.arange(len(members)) * (int(labels.max()) + 1) + label
        chosen = order.argsort()[:PREVIEWED]
        return chosen, list(map(self.label_text, labels[chosen]))

    def check_batch(self, batch: Batch) -> None:
        super().check_batch(batch)
        labels = batch["labels"]
        require(labels.min() >= 0 and labels.max() < len(self.spec.classes), "a label is outside the classes of the spec")
