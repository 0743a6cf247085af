"""Handwritten digits that come with the package: real, small, and there without a network.

``digits.npz`` holds the test set of "Optical Recognition of Handwritten Digits" (E. Alpaydin and C. Kaynak, 1998, UCI Machine
Learning Repository, https://doi.org/10.24432/C50P49, CC BY 4.0) as scikit-learn orders it: images, uint8 [1797, 8, 8] from 0 to
16, and labels.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Literal

import numpy as np
import torch

from zoo.core.randomness import derive_seed
from zoo.datamodules.bases.classification import ClassificationData
from zoo.datamodules.loading.held_out import split_by_class
from zoo.datamodules.loading.splits import ImagesInMemory, Split
from zoo.registry.entry import register_data
from zoo.spec import ImageSpec


@register_data("digits", task="classification", tags=["offline", "gray"])
class Digits(ClassificationData):
    """1,797 handwritten digits, 8x8 gray, included: from the UCI repository (Alpaydin and Kaynak 1998).

    The data comes without splits: a fifth of each class is the test set, drawn with a fixed seed, so that all runs share it.

    Args:
        size: height and width in pixels to which images are resized; 0 keeps 8x8.
        augment: none, light, standard, strong, or a list of transforms, as in crop:1,cutout:2.
        validation: fraction of the training images held out for validation, or one of k folds, as in 2/5.
        sampling: natural, each training image once an epoch, or balanced, each class equally often in as many steps.
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
        sampling: Literal["natural", "balanced"] = "natural",
    ) -> None:
        super().__init__(batch_size, seed, sampling, size=size, augment=augment, validation=validation)

    def build_spec(self) -> ImageSpec:
        return ImageSpec(1, 8, 8, classes=tuple("0123456789"))

    def load_splits(self) -> dict[str, Split]:
        with files("zoo.datamodules").joinpath("digits.npz").open("rb") as file:
            arrays = np.load(file)
            pixels = torch.from_numpy(arrays["images"]).double().mul(255 / 16).round().to(torch.uint8)[:, None]
            everything = Split(ImagesInMemory(pixels), torch.from_numpy(arrays["labels"]).long())
        test, train = split_by_class(everything.labels, 0.2, derive_seed(0, "digits", "test"))
        return {"train": everything.subset(train), "test": everything.subset(test)}
