"""Boxes that are erased: cutout and random erasing."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from zoo.datamodules.loading.loader import Batch
from zoo.registry.augmentations import Fraction, Pixels
from zoo.registry.entry import register_augmentation

AREAS, RATIOS = (0.02, 0.33), (0.3, 3.3)  # of an erased box: fraction of the image, and height by width
ATTEMPTS = 10  # to draw a box that fits


@register_augmentation("cutout")
def cutout(batch: Batch, generator: torch.Generator, size: Pixels = 8) -> Batch:
    """Zero out a square of size x size pixels, centered anywhere in the image and cut at its border (DeVries and Taylor 2017)."""
    images = batch["images"]
    n, _, height, width = images.shape
    top = torch.randint(0, height, (n, 1), generator=generator) - size // 2
    left = torch.randint(0, width, (n, 1), generator=generator) - size // 2
    hole = inside_boxes(top, left, top + size, left + size, height, width).to(images.device)
    return {**batch, "images": images.masked_fill(hole, 0)}


@register_augmentation("erasing")
def random_erasing(batch: Batch, generator: torch.Generator, probability: Fraction = 0.5) -> Batch:
    """Zero out a box of 2% to 33% of each image with a probability (Zhong et al. 2020, algorithm 1).

    The ratio of its sides is from 0.3 to 3.3, and it lies within the image. Where no box fits in ten attempts, nothing is erased.
    """
    images = batch["images"]
    n, _, height, width = images.shape
    chosen = torch.rand(n, 1, generator=generator) < probability
    area = height * width * _between(*AREAS, torch.rand(ATTEMPTS, n, generator=generator))
    ratio = _between(*map(math.log, RATIOS), torch.rand(ATTEMPTS, n, generator=generator)).exp()
    sides = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()]).round().long()
    fits = (sides[0] < height) & (sides[1] < width)
    first = fits.int().argmax(0)  # 0 if none does
    box_height, box_width = (each.gather(0, first[None]).T for each in sides)
    top, left = (
        (torch.rand(n, 1, generator=generator) * (side - box + 1)).long()
        for side, box in ((height, box_height), (width, box_width))
    )
    hole = inside_boxes(top, left, top + box_height, left + box_width, height, width)
    hole &= (chosen & fits.any(0)[:, None])[..., None, None]
    return {**batch, "images": images.masked_fill(hole.to(images.device), 0)}


def _between(low: float, high: float, share: Tensor) -> Tensor:
    return low + (high - low) * share


def inside_boxes(top: Tensor, left: Tensor, bottom: Tensor, right: Tensor, height: int, width: int) -> Tensor:
    """True inside each box, [N, 1, H, W]; the corners are [N, 1]."""
    y, x = torch.arange(height), torch.arange(width)
    return (((y >= top) & (y < bottom))[:, :, None] & ((x >= left) & (x < right))[:, None, :])[:, None]
