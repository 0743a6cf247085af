"""Handwritten digits that scikit-learn carries inside: real, small, and there without a network."""

from __future__ import annotations

import torch

from zoo.core.randomness import derive_seed
from zoo.datamodules.bases.images import ClassificationData
from zoo.datamodules.loading.held_out import split_by_class
from zoo.datamodules.loading.splits import ImagesInMemory, Split
from zoo.registry.entry import register_data
from zoo.spec import ImageSpec


@register_data("digits", task="classification", tags=["embedded", "gray"])
class Digits(ClassificationData):
    """1,797 handwritten digits of 8x8 pixels in 16 shades, from the UCI repository (Alpaydin and Kaynak 1998).

    The data comes without splits: a fifth of each class is the test set, by a seed of its own, so that all runs share it.

    Args:
        size: scale images to this many pixels a side; 0 keeps 8x8.
        augment: none, light, standard, strong, or a list as in crop:1,cutout:2.
        validation: share of the training images held out for validation, or a fold of them, as in 2/5.
    """

    light = "none"
    standard = "crop:1"
    strong = "crop:1,cutout:2"

    def __init__(
        self,
        batch_size: int,
        seed: int,
        size: int = 0,
        augment: str = "standard",
        validation: float | str = 0.1,
    ) -> None:
        super().__init__(batch_size, seed, root=None, size=size, augment=augment, validation=validation)

    def build_spec(self) -> ImageSpec:
        return ImageSpec(1, 8, 8, classes=tuple("0123456789"))

    def load_splits(self) -> dict[str, Split]:
        from sklearn.datasets import load_digits  # a second to import

        bunch = load_digits()
        pixels = torch.from_numpy(bunch.images).mul(255 / 16).round().to(torch.uint8)[:, None]
        everything = Split(ImagesInMemory(pixels), torch.from_numpy(bunch.target).long())
        test, train = split_by_class(everything.labels, 0.2, derive_seed(0, "digits", "test"))
        return {"train": everything.subset(train), "test": everything.subset(test)}
