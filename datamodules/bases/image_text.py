"""The base of data sets of pictures with words: captions, questions, dialogues."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.core.errors import UserError
from zoo.core.randomness import derive_seed
from zoo.datamodules.bases.images import ImageData
from zoo.datamodules.loading.augment import Augmentation
from zoo.datamodules.loading.splits import Split
from zoo.spec import PAD, ImageTextSpec


class ImageTextData(ImageData):
    """Pictures, each with what is said of it.

    A subclass implements ``build_spec``, which may read texts for the vocabulary but no image, and ``load_splits``, which encodes
    words as indices into ``self.spec.vocabulary``. No preset of ``augment`` flips images, since words tell left from right.
    """

    light = "none"
    standard = "crop:4"
    strong = "crop:4,jitter"

    def __init__(self, batch_size: int, seed: int, *, root: str | None, size: int, augment: str, validation: float) -> None:
        if not 0 < validation < 1:
            raise UserError(f"data.validation={validation}: must be above 0 and less than 1")
        super().__init__(batch_size, seed, root=root, size=size, augment=augment, validation=validation)
        if mixing := Augmentation(self.augment, classes=1).mixing:
            raise UserError(f"data.augment={mixing[0]}: mixes the classes of pictures, and words cannot be mixed: leave it out")

    def hold_out(self, split: Split) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "val"))
        order = torch.randperm(len(split), generator=generator)
        count = max(1, round(self.validation * len(split)))
        return order[:count].sort().values, order[count:].sort().values

    def require_compatible(self, spec: ImageTextSpec, name: str) -> None:
        """Be data for a model that was trained with ``spec``: words have the places that the model knows.

        Raises:
            UserError: pictures of another shape, or what ``load_splits`` finds that the model cannot say.
        """
        if self.image_spec.shape != spec.image.shape:
            raise UserError(f"{name} has images of {self.image_spec.shape}, the model takes {spec.image.shape}")
        if spec != self.spec:
            self.splits, self._spec = {}, spec
            self.setup()

    def preview_texts(self, count: int) -> list[list[str]]:
        """What is said of each of the first ``count`` training pictures, to be read by people: a list of sentences."""
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
        """What is there, once ``setup`` has run."""
        return {"vocabulary": len(self.spec.vocabulary), **super().summarize()}


def padded(rows: Sequence[Sequence[int]], length: int) -> Tensor:
    """Places of words, int64 [rows, length], each row filled up with ``PAD``, and cut if it is longer."""
    table = torch.full((len(rows), length), PAD)
    for number, row in enumerate(rows):
        table[number, : len(row)] = torch.tensor(row[:length])
    return table
