"""The base of image-text data: captions, questions, dialogues."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.core.errors import UserError
from zoo.core.violation import require
from zoo.datamodules.bases.images import ImageData
from zoo.datamodules.bases.options import require_fraction
from zoo.datamodules.loading.augmentations.augmentation import Augmentation
from zoo.datamodules.loading.loader import Batch
from zoo.datamodules.loading.splits import Split
from zoo.spec import IGNORE, PAD, UNKNOWN_ANSWER, ImageTextSpec

DIGESTED = 1024  # samples at a time


class ImageTextData(ImageData):
    """Images, each with text.

    A subclass implements ``build_spec``, which may read texts for the vocabulary but no image, and ``load_splits``, which encodes
    words as indices into ``self.spec.vocabulary``. No preset of ``augment`` flips images, since texts name left and right.

    Args:
        augment: as in ``ImageData``; no augmentation may mix images.
        validation: fraction of the training images held out for validation, if the data has no validation split.
    """

    light = "none"
    standard = "crop:4"
    strong = "crop:4,jitter"

    def __init__(self, batch_size: int, seed: int, augment: str = "none", validation: float = 0.1, **options: Any) -> None:
        require_fraction(validation=validation)
        super().__init__(batch_size, seed, augment=augment, validation=validation, **options)
        if mixing := Augmentation(self.transforms_of(self.augment, self.size), classes=1).mixing:
            raise UserError(f"data.augment={mixing[0]}: mixes the labels of images, which is impossible for text: remove it")

    def require_compatible(self, spec: ImageTextSpec, name: str) -> None:
        """Encode words as the vocabulary of ``spec`` does, for a model that was trained with it.

        Raises:
            UserError: images of another shape, or what ``load_splits`` finds that does not fit the spec.
        """
        super().require_compatible(spec, name)
        if spec != self.spec:
            self.splits, self._spec = {}, spec
            self.setup()

    def text_digests(self, split: Split) -> list[bytes]:
        """Of the words and the answers of each sample, without padding: what is learned from it."""
        columns = [split.labels, *(column for name, column in sorted(split.columns.items()) if name in self.spec.columns)]
        digests = []
        for first in range(0, len(split), DIGESTED):
            rows = torch.cat([column[first : first + DIGESTED].flatten(1) for column in columns], 1).numpy()
            kept = (rows != PAD) & (rows != IGNORE)
            digests += [blake2b(row[there].tobytes(), digest_size=8).digest() for row, there in zip(rows, kept, strict=True)]
        return digests

    def check_batch(self, batch: Batch) -> None:
        super().check_batch(batch)
        missing = sorted(set(self.spec.columns) - set(batch))
        require(not missing, f"a batch lacks {', '.join(missing)}, which the spec names")
        for name, values in self.spec.columns.items():
            column = batch[name]
            require(len(column) == len(batch["images"]), f"{name} has {len(column)} rows for {len(batch['images'])} images")
            there = column[(column != IGNORE) & (column != UNKNOWN_ANSWER)]
            require(len(there), f"{name} is empty for all images of a batch")
            require(there.min() >= 0 and there.max() < values, f"{name} has values that are not from 0 to {values - 1}")

    def summarize(self) -> dict[str, Any]:
        """Size of the vocabulary, and the summary of ``ImageData``, after ``setup``."""
        return {"vocabulary": len(self.spec.vocabulary), **super().summarize()}


def padded(rows: Sequence[Sequence[int]], length: int) -> Tensor:
    """Token indices, int64 [rows, length]: each row padded with ``PAD``, or truncated."""
    kept = [row[:length] for row in rows]
    lengths = np.fromiter(map(len, kept), np.int64, len(kept))
    table = np.full((len(kept), length), PAD, np.int64)
    table[np.arange(length) < lengths[:, None]] = np.fromiter(chain.from_iterable(kept), np.int64, lengths.sum())
    return torch.from_numpy(table)
