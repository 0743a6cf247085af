"""The base of image-text data: captions, questions, dialogues."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from typing import Any

import torch
from torch import Tensor

from zoo.core.errors import UserError
from zoo.core.randomness import derive_seed
from zoo.datamodules.bases.images import ImageData
from zoo.datamodules.bases.options import require_fraction
from zoo.datamodules.loading.augment import Augmentation
from zoo.spec import PAD, ImageTextSpec


class ImageTextData(ImageData):
    """Images, each with text.

    A subclass implements ``build_spec``, which may read texts for the vocabulary but no image, and ``load_splits``, which encodes
    words as indices into ``self.spec.vocabulary``. No preset of ``augment`` flips images, since words tell left from right.

    Args:
        root, size, augment: as in ``ImageData``; no augmentation may mix images.
        validation: fraction of the training images held out for validation, if the data has no validation split.
    """

    light = "none"
    standard = "crop:4"
    strong = "crop:4,jitter"

    def __init__(
        self,
        batch_size: int,
        seed: int,
        root: str = "",
        size: int = 0,
        augment: str = "none",
        validation: float = 0.1,
    ) -> None:
        require_fraction(validation=validation)
        super().__init__(batch_size, seed, root, size, augment, validation)
        if mixing := Augmentation(self.augment, classes=1).mixing:
            raise UserError(f"data.augment={mixing[0]}: mixes the labels of images, which is impossible for text: leave it out")

    def hold_out(self, split: Sized) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "val"))
        order = torch.randperm(len(split), generator=generator)
        count = max(1, round(self.validation * len(split)))
        return order[:count].sort().values, order[count:].sort().values

    def require_compatible(self, spec: ImageTextSpec, name: str) -> None:
        """Encode words as the vocabulary of ``spec`` does, for a model that was trained with it.

        Raises:
            UserError: images of another shape, or what ``load_splits`` finds that does not fit the spec.
        """
        if self.image_spec.shape != spec.image.shape:
            raise UserError(f"{name} has images of {self.image_spec.shape}, the model takes {spec.image.shape}")
        if spec != self.spec:
            self.splits, self._spec = {}, spec
            self.setup()

    def preview_texts(self, count: int) -> list[list[str]]:
        """The texts of each of the first ``count`` training images, as sentences."""
        split = self.splits["train"]
        batch = split.batch(torch.empty(0), torch.arange(min(count, len(split))))
        columns = [
            batch[name].flatten(1, -2) if batch[name].dim() > 2 else batch[name][:, None]
            for name, values in self.spec.columns.items()
            if values == len(self.spec.vocabulary)
        ]
        sentences = ([words for column in columns for words in column[row].tolist()] for row in range(len(columns[0])))
        return [[" ".join(said) for words in of_picture if (said := self.spec.decode(words))] for of_picture in sentences]

    def summarize(self) -> dict[str, Any]:
        """Size of the vocabulary, and what ``ImageData`` tells, once ``setup`` has run."""
        return {"vocabulary": len(self.spec.vocabulary), **super().summarize()}


def padded(rows: Sequence[Sequence[int]], length: int) -> Tensor:
    """Token indices, int64 [rows, length]: each row padded with ``PAD``, or truncated."""
    table = torch.full((len(rows), length), PAD)
    for number, row in enumerate(rows):
        table[number, : len(row)] = torch.tensor(row[:length])
    return table
