"""Arrows whose position, size and direction are known: numbers to predict from an image."""

from __future__ import annotations

from typing import Any

import torch

from zoo.core.memory import require_memory
from zoo.datamodules.bases.options import require_at_least
from zoo.datamodules.bases.regression import RegressionData
from zoo.datamodules.loading.splits import ImagesInMemory, Split
from zoo.datamodules.worlds import arrows
from zoo.registry.entry import register_data
from zoo.spec import RegressionSpec

SMALLEST_SIZE = 16  # pixels, below which no direction can be seen
MOST_HELD_OUT = 1000  # images for validation, and as many for testing
TARGETS = ("x", "y", "size", "sine", "cosine")


@register_data("shapes-numbers", task="regression", tags=["offline", "color"], tiny={"num_images": 200})
class ShapesNumbers(RegressionData):
    """An arrow on a dark ground: its position, its size, and the sine and cosine of its direction.

    Position (x to the right, y downwards) and size, from the center to the tip, are fractions of the image. The direction is an
    angle from the x axis towards the y axis, given by two numbers, since an angle itself jumps from 360 degrees to 0.

    Args:
        num_images: number of training images; validation and testing have as many, up to 1,000 each.
        size: height and width in pixels.
        augment: none, light, standard, strong, or a list of transforms that keep the numbers as they are, as in jitter.
    """

    def __init__(self, batch_size: int, seed: int, num_images: int = 6000, size: int = 32, **options: Any) -> None:
        super().__init__(batch_size, seed, size=size, **options)
        require_at_least(1, num_images=num_images)
        require_at_least(SMALLEST_SIZE, size=size)
        self.num_images, self.held_out = num_images, min(MOST_HELD_OUT, num_images)
        images = num_images + 2 * self.held_out
        require_memory(f"data.num_images={num_images}, data.size={size}", images * 3 * size**2, f"{images:,} images")

    def build_spec(self) -> RegressionSpec:
        return RegressionSpec(3, self.size, self.size, targets=TARGETS)

    def load_splits(self) -> dict[str, Split]:
        return {
            name: self._draw(name, self.num_images if name == "train" else self.held_out) for name in ("train", "val", "test")
        }

    def _draw(self, name: str, count: int) -> Split:
        drawn = arrows.draw_arrows(name, count)
        labels = torch.stack([drawn.x, drawn.y, drawn.length, drawn.angle.sin(), drawn.angle.cos()], 1)
        return Split(ImagesInMemory(arrows.render(drawn, self.size, name)), labels)
