"""The base of data sets of pictures with words: captions, questions, dialogues."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from datamodules.base import PictureData, Split
from zoo.errors import UserError
from zoo.randomness import derive_seed
from zoo.spec import PAD, WordedSpec


class WordedPictures(PictureData):
    """Pictures, each with what is said of it.

    A subclass says what there is (``describe``, whose vocabulary may need the texts, but no picture) and reads it (``read``),
    with words as their places in ``self.spec.vocabulary``. Its ``size`` and ``augment`` are those of ``PictureData``; nothing
    mirrors a picture, since words tell left from right.
    """

    light = "none"
    standard = "crop:4"
    strong = "crop:4,jitter"

    def __init__(self, batch_size: int, seed: int, *, root: str | None, size: int, augment: str, validation: float) -> None:
        if not 0 < validation < 1:
            raise UserError(f"data.validation={validation}: must be above 0 and less than 1")
        super().__init__(batch_size, seed, root=root, size=size, augment=augment, validation=validation)

    def hold_out(self, split: Split) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "val"))
        order = torch.randperm(len(split), generator=generator)
        count = max(1, round(self.validation * len(split)))
        return order[:count].sort().values, order[count:].sort().values

    def adopt(self, spec: WordedSpec, name: str) -> None:
        """Be data for a model that was trained with ``spec``: words have the places that the model knows.

        Raises:
            UserError: pictures of another shape, or what ``read`` finds that the model cannot say.
        """
        if self.image_spec.shape != spec.image.shape:
            raise UserError(f"{name} has images of {self.image_spec.shape}, the model takes {spec.image.shape}")
        if spec != self.spec:
            self.splits, self._spec = {}, spec
            self.setup()

    @abstractmethod
    def told(self, count: int) -> list[list[str]]:
        """What is said of each of the first ``count`` training pictures, to be read by people: a list of lines."""

    def facts(self) -> dict[str, Any]:
        """What is there, once ``setup`` has run."""
        return {"vocabulary": len(self.spec.vocabulary), **super().facts()}


def padded(rows: Sequence[Sequence[int]], length: int) -> Tensor:
    """Places of words, int64 [rows, length], each row filled up with ``PAD``, and cut if it is longer."""
    table = torch.full((len(rows), length), PAD)
    for number, row in enumerate(rows):
        table[number, : len(row)] = torch.tensor(row[:length])
    return table
