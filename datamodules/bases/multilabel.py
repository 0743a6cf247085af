"""The base of multi-label data: images with any number of classes each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from zoo.core.violation import require
from zoo.datamodules.bases.images import ImageData
from zoo.datamodules.loading.class_names import match_classes
from zoo.datamodules.loading.loader import Batch
from zoo.spec import IGNORE, MultiLabelSpec


class MultiLabelData(ImageData):
    """Images with any number of classes each. A subclass implements ``build_spec`` and ``load_splits``.

    A batch has ``images``, uint8 [N, C, H, W], and ``labels``, int8 [N, classes]: 1, 0, or ``IGNORE`` where that is unknown;
    mixup and cutmix add ``targets``, float [N, classes], nan where they are unknown.
    """

    task = "multilabel"

    @property
    def class_count(self) -> int:
        return len(self.spec.classes)

    def require_compatible(self, spec: MultiLabelSpec, name: str) -> None:
        super().require_compatible(spec, name)
        if self.spec.classes != spec.classes:
            self._relabel(spec.classes, name)

    def _relabel(self, classes: tuple[str, ...], name: str) -> None:
        """Give each image the labels that its classes have among those of a network; others are unknown."""
        places = torch.tensor(match_classes(classes, self.spec.classes, name))
        for split, each in self.splits.items():
            labels = torch.full((len(each), len(classes)), IGNORE, dtype=torch.int8)
            labels[:, places] = each.labels
            self.splits[split] = replace(each, labels=labels)
        self._spec = replace(self.spec, classes=classes, thresholds=())

    def label_text(self, row: Tensor) -> str:
        """The names of the classes in a row of labels."""
        return ", ".join(self.spec.classes[place] for place in (row == 1).nonzero()[:, 0].tolist()) or "none"

    def summarize(self) -> dict[str, Any]:
        """Training images of each class, shape, images in each split, and statistics, once ``setup`` has run."""
        counts = (self.splits["train"].labels == 1).sum(0).tolist()
        return {"classes": dict(zip(self.spec.classes, counts, strict=True)), **super().summarize()}

    def preview_texts(self, chosen: Tensor) -> list[list[str]]:
        return [[self.label_text(row)] for row in self.splits["train"].labels[chosen]]

    def check_batch(self, batch: Batch) -> None:
        super().check_batch(batch)
        labels, classes = batch["labels"], len(self.spec.classes)
        require(labels.shape[1:] == (classes,), f"labels have shape {tuple(labels.shape)}, and there are {classes} classes")
        require(((labels == 0) | (labels == 1) | (labels == IGNORE)).all(), "a label is neither 0 nor 1, nor unknown")
