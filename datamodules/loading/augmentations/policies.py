"""Policies: one operation, or a few in turn, drawn for each image from the same fourteen.

A batch is sorted by what was drawn, so that each operation changes all of its images at once. The tables of magnitudes are those
of ``torchvision.transforms.v2``, whose operations these are.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from zoo.datamodules.loading.augmentations import affine, color
from zoo.datamodules.loading.augmentations.pixels import change_bytes
from zoo.datamodules.loading.loader import Batch
from zoo.registry.augmentations import Few, Fraction, Magnitude
from zoo.registry.entry import register_augmentation

BINS = 31  # magnitudes of an operation, from the weakest to the strongest


def _warped(matrices: Callable[[Tensor, int, int], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda images, magnitudes: affine.warp(images, matrices(magnitudes, *images.shape[2:]))


def _enhanced(adjust: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda images, magnitudes: adjust(images, 1 + magnitudes)


# uint8 images [n, C, H, W] and magnitudes, float64 [n] on the CPU, to images
OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "identity": lambda images, magnitudes: images,
    "shear-x": _warped(affine.horizontal_shear),
    "shear-y": _warped(affine.vertical_shear),
    "translate-x": _warped(affine.horizontal_translation),
    "translate-y": _warped(affine.vertical_translation),
    "rotate": _warped(affine.rotation),
    "brightness": _enhanced(color.adjust_brightness),
    "saturation": _enhanced(color.adjust_saturation),
    "contrast": _enhanced(color.adjust_contrast),
    "sharpness": _enhanced(color.adjust_sharpness),
    "posterize": lambda images, magnitudes: color.posterize(images, magnitudes),
    "solarize": lambda images, magnitudes: color.solarize(images, 255 * magnitudes),
    "autocontrast": lambda images, magnitudes: color.autocontrast(images),
    "equalize": lambda images, magnitudes: color.equalize(images),
}
IDENTITY = 0  # its number
SIGNED = 10  # operations from the first that take a magnitude of either sign


@cache
def magnitude_table(shear: float, right: float, down: float, degrees: float, enhancement: float, dropped_bits: int) -> Tensor:
    """The magnitudes of each operation, float64 [operations, bins], from the strongest of each; 0 for those that take none."""
    strongest = [0, shear, shear, right, down, degrees, *[enhancement] * 4]
    bits = 8 - torch.linspace(0, dropped_bits, BINS).round()
    thresholds, none = torch.linspace(1, 0, BINS), torch.zeros(BINS)
    return torch.stack([*(torch.linspace(0, most, BINS) for most in strongest), bits, thresholds, none, none]).double()


def apply_operations(images: Tensor, numbers: Tensor, magnitudes: Tensor) -> Tensor:
    """Change uint8 images, [n, C, H, W], by the operations of these numbers with these magnitudes, [n] on the CPU each."""
    order = numbers.argsort(stable=True)
    counts = numbers.bincount(minlength=len(OPERATIONS)).tolist()
    grouped = images.index_select(0, order.to(images.device, non_blocking=True))
    groups = zip(OPERATIONS.values(), grouped.split(counts), magnitudes[order].split(counts), strict=True)
    changed = [operation(group, strengths) for operation, group, strengths in groups if len(group)]
    return torch.cat([images[:0], *changed]).index_select(0, order.argsort().to(images.device, non_blocking=True))


def _draw(table: Tensor, bins: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The number of an operation and its magnitude, from the table, for each of the bins, [n]."""
    numbers = torch.randint(len(OPERATIONS), bins.shape, generator=generator)
    signs = torch.randint(2, bins.shape, generator=generator) * 2 - 1
    magnitudes = table[numbers, bins]
    return numbers, torch.where(numbers < SIGNED, signs * magnitudes, magnitudes)


@register_augmentation("trivial")
def trivial_augment(batch: Batch, generator: torch.Generator) -> Batch:
    """Apply a random operation of random magnitude to each image (TrivialAugmentWide, Müller and Hutter 2021)."""
    table = magnitude_table(shear=0.99, right=32, down=32, degrees=135, enhancement=0.99, dropped_bits=6)
    bins = torch.randint(BINS, (len(batch["images"]),), generator=generator)
    return change_bytes(batch, lambda images: apply_operations(images, *_draw(table, bins, generator)))


@register_augmentation("rand")
def rand_augment(
    batch: Batch,
    generator: torch.Generator,
    operations: Few = 2,
    magnitude: Magnitude = 9,
    deviation: float = 0.0,
    probability: Fraction = 1.0,
) -> Batch:
    """Apply random operations in turn to each image, all of one magnitude from 1 to 30 (RandAugment, Cubuk et al. 2020).

    As in timm, magnitudes may be drawn from a normal distribution with this standard ``deviation``, and each operation applied
    with a ``probability``.
    """
    n, _, height, width = batch["images"].shape
    table = magnitude_table(0.3, right=150 / 331 * width, down=150 / 331 * height, degrees=30, enhancement=0.9, dropped_bits=4)
    bins = torch.full((n,), magnitude)

    def change(images: Tensor) -> Tensor:
        for _ in range(operations):
            drawn = torch.normal(bins.double(), deviation, generator=generator).round().long() if deviation else bins
            numbers, magnitudes = _draw(table, drawn.clamp(0, BINS - 1), generator)
            if probability < 1:
                numbers[torch.rand(n, generator=generator) >= probability] = IDENTITY
            images = apply_operations(images, numbers, magnitudes)
        return images

    return change_bytes(batch, change)
