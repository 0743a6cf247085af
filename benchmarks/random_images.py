"""Random pixels in CIFAR-10's shape and number: what a benchmark needs of a data set, without a download."""

from __future__ import annotations

import torch

from zoo import ImageSpec, register_data
from zoo.datamodules.bases.classification import ClassificationData
from zoo.datamodules.loading.splits import ImagesInMemory, Split


@register_data("random-images", task="classification")
class RandomImages(ClassificationData):
    """Random pixels, 3x32x32, in ten classes.

    Args:
        count: training images.
        augment: none, standard, strong, or a list.
    """

    def __init__(self, batch_size: int, seed: int, count: int = 50_000, augment: str = "standard") -> None:
        super().__init__(batch_size, seed, root=None, size=0, augment=augment, validation=0.002)
        self.count = count

    def build_spec(self) -> ImageSpec:
        return ImageSpec(3, 32, 32, classes=tuple("0123456789"))

    def load_splits(self) -> dict[str, Split]:
        return {name: _random(count) for name, count in (("train", self.count), ("test", 100))}


def _random(count: int) -> Split:
    generator = torch.Generator().manual_seed(count)
    pixels = torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return Split(ImagesInMemory(pixels), torch.arange(count) % 10)
