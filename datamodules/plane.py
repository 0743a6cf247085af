"""Toy data in the plane: points whose classes a picture can show, made on the spot and the same on every machine.

A point is stored as an image of two channels and one pixel. Its bytes are its coordinates x and y in steps of 1/256 of the unit
square, so that everything made for images (splits, statistics, order, networks without convolutions) works for points unchanged,
and the whole plane has no more than 256 x 256 possible inputs: a classifier can be asked about every one of them.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor

from zoo.core.errors import UserError
from zoo.core.randomness import derive_seed
from zoo.datamodules.bases.images import ClassificationData
from zoo.datamodules.loading.splits import ImagesInMemory, Split
from zoo.registry.entry import register_data
from zoo.spec import ImageSpec

STEPS = 256  # of each coordinate
MOST_CLASSES = 10
FEWEST_OF_A_CLASS, MOST_SAMPLES = 4, 1_000_000


class PointsInThePlane(ClassificationData):
    """Points of as many classes, equally often. A subclass says where they lie before noise moves them (``place``).

    The points follow from the options and from the split alone, not from the run's seed: all runs share them. Noise is normal,
    of the same deviation in x and y; what it carries out of the square is put on its border.
    """

    def __init__(
        self, batch_size: int, seed: int, num_samples: int, num_classes: int, noise: float, validation: float | str
    ) -> None:
        super().__init__(batch_size, seed, root=None, size=0, augment="none", validation=validation)
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
        """Where points of these classes, int64 [n], lie without noise: [n, 2] in the square from -1 to 1, y upwards."""

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


@register_data("blobs", task="classification", tags=["embedded", "points"])
class Blobs(PointsInThePlane):
    """Points in the plane: each class a round cloud, the centers evenly on a circle. A linear classifier does as well as any.

    Args:
        num_samples: points for training and validation; as many again are the test.
        num_classes: how many clouds.
        noise: standard deviation of a cloud, as a share of the side of the square.
        validation: share of the training points held out for validation, or a fold of them, as in 2/5.
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
        super().__init__(batch_size, seed, num_samples, num_classes, noise, validation)

    def place(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        return _on_circle(0.5, math.pi / 2 + labels * (2 * math.pi / self.num_classes))


@register_data("rings", task="classification", tags=["embedded", "points"])
class Rings(PointsInThePlane):
    """Points in the plane: each class a ring around the ones before it. Every line leaves both classes on both sides.

    Args:
        num_samples: points for training and validation; as many again are the test.
        num_classes: how many rings.
        noise: standard deviation around a ring, as a share of the side of the square.
        validation: share of the training points held out for validation, or a fold of them, as in 2/5.
    """

    def __init__(
        self,
        batch_size: int,
        seed: int,
        num_samples: int = 1000,
        num_classes: int = 2,
        noise: float = 0.04,
        validation: float | str = 0.1,
    ) -> None:
        super().__init__(batch_size, seed, num_samples, num_classes, noise, validation)

    def place(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        angle = 2 * math.pi * torch.rand(len(labels), generator=generator)
        return _on_circle(0.8 * (labels + 1) / self.num_classes, angle)


@register_data("quadrants", task="classification", tags=["embedded", "points"])
class Quadrants(PointsInThePlane):
    """Points in the plane: class 0 where x and y have one sign, class 1 where they differ. No line does better than chance.

    Args:
        num_samples: points for training and validation; as many again are the test.
        noise: standard deviation of the shift after the class was given, as a share of the side of the square.
        validation: share of the training points held out for validation, or a fold of them, as in 2/5.
    """

    def __init__(
        self, batch_size: int, seed: int, num_samples: int = 1000, noise: float = 0.02, validation: float | str = 0.1
    ) -> None:
        super().__init__(batch_size, seed, num_samples, 2, noise, validation)

    def place(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        x, y = 0.9 * torch.rand(2, len(labels), generator=generator)
        right, same_sign = torch.randint(0, 2, (len(labels),), generator=generator) == 1, labels == 0
        return torch.stack([torch.where(right, x, -x), torch.where(right == same_sign, y, -y)], 1)


@register_data("spirals", task="classification", tags=["embedded", "points"])
class Spirals(PointsInThePlane):
    """Points in the plane: each class an arm that winds out of the middle. Only a bent boundary keeps them apart.

    Args:
        num_samples: points for training and validation; as many again are the test.
        num_classes: how many arms.
        noise: standard deviation around an arm, as a share of the side of the square.
        validation: share of the training points held out for validation, or a fold of them, as in 2/5.
    """

    winding = 4.0  # radians from the inner to the outer end

    def __init__(
        self,
        batch_size: int,
        seed: int,
        num_samples: int = 1000,
        num_classes: int = 3,
        noise: float = 0.03,
        validation: float | str = 0.1,
    ) -> None:
        super().__init__(batch_size, seed, num_samples, num_classes, noise, validation)

    def place(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        along = torch.rand(len(labels), generator=generator)
        return _on_circle(0.1 + 0.8 * along, labels * (2 * math.pi / self.num_classes) + self.winding * along)
