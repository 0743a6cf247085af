"""Colored stripes, upright or level: a data set that is made, not read."""

from __future__ import annotations

import torch

from zoo import ImageSpec, register_data
from zoo.datamodules.bases.classification import ClassificationData
from zoo.datamodules.loading.splits import ImagesInMemory, Split


@register_data("stripes", task="classification", tags=["offline"])
class Stripes(ClassificationData):
    """Stripes of random color and width: upright or level.

    Args:
        count: images in all.
        augment: none, standard, strong, or a list.
    """

    def __init__(self, batch_size: int, seed: int, count: int = 240, augment: str = "standard") -> None:
        super().__init__(batch_size, seed, root=None, size=0, augment=augment, validation=0.1)
        self.count = count

    def build_spec(self) -> ImageSpec:
        return ImageSpec(3, 32, 32, classes=("level", "upright"))

    def load_splits(self) -> dict[str, Split]:
        generator = torch.Generator().manual_seed(0)
        period = torch.randint(2, 6, (self.count, 1, 1, 1), generator=generator)
        upright = torch.arange(self.count) % 2
        rows = torch.arange(32).view(1, 1, 32, 1).expand(self.count, 1, 32, 32)
        bands = (torch.where(upright.bool().view(-1, 1, 1, 1), rows.transpose(2, 3), rows) // period) % 2
        colors = torch.randint(60, 256, (self.count, 3, 1, 1), generator=generator)
        everything = Split(ImagesInMemory((bands * colors).to(torch.uint8)), upright)
        last = torch.arange(self.count) >= 0.8 * self.count
        return {"train": everything.subset((~last).nonzero()[:, 0]), "test": everything.subset(last.nonzero()[:, 0])}
