"""The base of classification data in image files."""

from __future__ import annotations

from hashlib import blake2b
from typing import ClassVar

import torch

from zoo.core.errors import UserError, some
from zoo.datamodules.bases.classification import ClassificationData
from zoo.datamodules.bases.image_file_data import ImageFileData
from zoo.datamodules.files.image_tree import LONG, NAMED
from zoo.datamodules.loading.splits import Split
from zoo.spec import ImageSpec


class ClassifiedFiles(ImageFileData, ClassificationData):
    """Image files with one class each. A subclass implements ``list_files``."""

    labels_in_paths: ClassVar[bool] = False  # then a file with another label has another name

    def build_spec(self) -> ImageSpec:
        height, width = self._shape
        return ImageSpec(self._channels, height, width, classes=self.tree.classes, crop=self.crop)

    def text_digests(self, split: Split) -> list[bytes]:
        if self.labels_in_paths:
            return super().text_digests(split)
        of_class = [blake2b(name.encode(), digest_size=8).digest() for name in self.spec.classes]
        return [of_class[label] for label in split.labels.tolist()]

    def note_what_is_lacking(self) -> None:
        for name, split in self.splits.items():
            counts = torch.bincount(split.labels, minlength=len(self.spec.classes))
            if len(split) and not counts.all():
                lacking = [each for each, count in zip(self.spec.classes, counts.tolist(), strict=True) if not count]
                effect = "not learned" if name == "train" else f"not in the {LONG[name]} metrics"
                self._note(f"no {LONG[name]} image of {some(lacking, NAMED)}: {effect}")

    def require_readable(self, left: dict[str, set[int]]) -> None:
        for label, class_name in enumerate(self.tree.classes):
            if label not in left["train"]:
                raise UserError(
                    f"{self.source}: class {class_name!r} of train has no image that can be read: add some, or remove the class"
                )
