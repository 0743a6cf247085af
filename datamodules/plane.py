"""Synthetic points in the plane, whose classes can be drawn, the same on every machine.

A point is stored as an image of two channels and one pixel. Its bytes are its coordinates x and y in steps of 1/256 of the unit
square, so that everything made for images (splits, statistics, order, networks without convolutions) works for points unchanged,
and the whole plane has no more than 256 x 256 possible inputs: a classifier can be evaluated on all of them.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor

from zoo.core.errors import UserError
from zoo.core.randomness import derive_seed
from zoo.datamodules.bases.classification import ClassificationData
from zoo.datamodules.loading.splits import ImagesInMemory, Split
from zoo.registry.entry import register_data
from zoo.spec import ImageSpec

STEPS = 256  # of each coordinate
MOST_CLASSES = 10
FEWEST_OF_A_CLASS, MOST_SAMPLES = 4, 1_000_000


class PointsInThePlane(ClassificationData):
    """Points of as many classes, equally often. A subclass implements ``place``, where they lie before noise moves them.

    The points follow from the options and from the split alone, not from the run's seed: all runs share them. Noise is normal,
    of the same deviation in x and y; points that it carries out of the square are clamped to its border.

    Args:
        num_samples: points for training and validation; there are as many for testing.
        num_classes: number of classes, from 2 to 10.
        noise: standard deviation of the noise; the square has side 1.
        validation: fraction of the training points held out for validation, or one of k folds, as in 2/5.
    """

    def __init__(
        self,
        batch_size: int,
        seed: int,
        num_samples: int = 1000,
        num_classes: int = 3,
        noise: float = 0.1,
        validation: float | str = 0.1,
    ) -> None:
        super().__init__(batch_size, seed, augment="none", validation=validation)
        if not 2 <= num_classes <= MOST_CLASSES:
            raise UserError(f"data.num_classes={num_classes}: must be from 2 to {MOST_CLASSES}")
        if not FEWEST_OF_A_CLASS * num_classes <= num_samples <= MOST_SAMPLES:
            fewest = FEWEST_OF_A_CLASS * num_classes
            raise UserError(
                f"data.num_samples={num_samples}: must be from {fewest}, {FEWEST_OF_A_CLASS} a class, to {MOST_SAMPLES:,}"
            )
        if not 0 <= noise <= 1:
            raise UserError(f"data.noise={noise}: must be from 0 to 1, the side of the square")
        self.num_samples, self.num_classes, self.noise = num_samples, num_classes, noise

    @abstractmethod
    def place(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Noise-free coordinates of points of these classes, int64 [n]: [n, 2] in the square from -1 to 1, y upwards."""

    def build_spec(self) -> ImageSpec:
        return ImageSpec(2, 1, 1, classes=tuple(map(str, range(self.num_classes))))

    def load_splits(self) -> dict[str, Split]:
        return {name: self._draw(name) for name in ("train", "test")}

    def _draw(self, split: str) -> Split:
        generator = torch.Generator().manual_seed(derive_seed(0, type(self).__name__, split))
        labels = torch.arange(self.num_samples) % self.num_classes
        places = (self.place(labels, generator) + 1) / 2
        places = places + self.noise * torch.randn(self.num_samples, 2, generator=generator)
        coordinates = (places * STEPS).floor().clamp(0, STEPS - 1).to(torch.uint8)
        return Split(ImagesInMemory(coordinates.view(-1, 2, 1, 1)), labels)


def _on_circle(radius: Tensor | float, angle: Tensor) -> Tensor:
    return torch.stack([radius * angle.cos(), radius * angle.sin()], 1)


@register_data("blobs", task="classification", tags=["offline", "points"])
class Blobs(PointsInThePlane):
    """Gaussian clouds in the plane: linearly separable up to their overlap. Their centers lie evenly on a circle."""

    def place(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        return _on_circle(0.5, math.pi / 2 + labels * (2 * math.pi / self.num_classes))


@register_data("rings", task="classification", tags=["offline", "points"], num_classes=2, noise=0.04)
class Rings(PointsInThePlane):
    """Concentric rings in the plane: no line separates them. Each class is a ring around the ones before it."""

    def place(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        angle = 2 * math.pi * torch.rand(len(labels), generator=generator)
        return _on_circle(0.8 * (labels + 1) / self.num_classes, angle)


@register_data("quadrants", task="classification", tags=["offline", "points"])
class Quadrants(PointsInThePlane):
    """Exclusive or in the plane: no line beats chance. Class 0 is where x and y have the same sign."""

    def __init__(
        self, batch_size: int, seed: int, num_samples: int = 1000, noise: float = 0.02, validation: float | str = 0.1
    ) -> None:
        super().__init__(batch_size, seed, num_samples, 2, noise, validation)

    def place(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        x, y = 0.9 * torch.rand(2, len(labels), generator=generator)
        right, same_sign = torch.randint(0, 2, (len(labels),), generator=generator) == 1, labels == 0
        return torch.stack([torch.where(right, x, -x), torch.where(right == same_sign, y, -y)], 1)


@register_data("spirals", task="classification", tags=["offline", "points"], noise=0.03)
class Spirals(PointsInThePlane):
    """Spirals in the plane: need a curved boundary. Each class is an arm that winds out of the middle."""

    winding = 4.0  # radians from the inner to the outer end

    def place(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        along = torch.rand(len(labels), generator=generator)
        return _on_circle(0.1 + 0.8 * along, labels * (2 * math.pi / self.num_classes) + self.winding * along)
