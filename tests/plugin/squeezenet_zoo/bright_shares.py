"""Bright rectangles on dark ground, labeled with the share of the image that they cover: a data set that is made, not read."""

from __future__ import annotations

import torch

from zoo import ImageSpec, register_data
from zoo.datamodules.bases.images import ImageData
from zoo.datamodules.loading.splits import ImagesInMemory, Split

SIDE = 16


@register_data("bright-shares", task="coverage", tags=["offline"])
class BrightShares(ImageData):
    """Bright rectangles on dark ground: the share of the image that they cover.

    Args:
        count: images in all.
        augment: none, light, standard, strong, or a list.
    """

    def __init__(self, batch_size: int, seed: int, count: int = 240, augment: str = "light") -> None:
        super().__init__(batch_size, seed, root=None, size=0, augment=augment, validation=0.1)
        self.count = count

    def build_spec(self) -> ImageSpec:
        return ImageSpec(1, SIDE, SIDE, classes=())

    def load_splits(self) -> dict[str, Split]:
        generator = torch.Generator().manual_seed(0)
        corners = torch.randint(0, SIDE + 1, (self.count, 2, 2), generator=generator).sort(2).values
        place = torch.arange(SIDE)
        rows, columns = ((place >= corners[:, i, :1]) & (place < corners[:, i, 1:]) for i in (0, 1))
        bright = rows[:, :, None] & columns[:, None, :]
        everything = Split(ImagesInMemory((40 + 180 * bright).to(torch.uint8)[:, None]), bright.float().mean((1, 2)))
        train, test = torch.arange(self.count).split([self.count - self.count // 5, self.count // 5])
        return {"train": everything.subset(train), "test": everything.subset(test)}
