"""Rotation, shear and translation with a matrix for each image, sampled at the nearest pixel, zeros outside.

Angles turn, and shears lean, as those of ``torchvision.transforms.v2.functional`` do.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from zoo.datamodules.loading.augmentations.pixels import uniform
from zoo.datamodules.loading.loader import Batch
from zoo.registry.augmentations import Degrees, Fraction
from zoo.registry.entry import register_augmentation

# ------------------------------------------------------------------ by given parameters


def warp(images: Tensor, matrices: Tensor) -> Tensor:
    """Sample each image at the nearest pixel to where its matrix maps each pixel of the result.

    All is computed by element: a product of matrices would round to TF32 on many GPUs, which moves pixels.

    Args:
        images: [n, C, H, W].
        matrices: from pixels of the result to those of the image, with the origin in the center, [n, 2, 3].
    """
    height, width = images.shape[2:]
    matrices = matrices.float().to(images.device, non_blocking=True)[..., None, None]
    x = torch.arange(width, device=images.device) - (width - 1) / 2
    y = torch.arange(height, device=images.device)[:, None] - (height - 1) / 2
    column, row = (matrices[:, i, 0] * x + matrices[:, i, 1] * y + matrices[:, i, 2] for i in (0, 1))
    column, row = column.add_((width - 1) / 2).round_(), row.add_((height - 1) / 2).round_()
    nearest_column, nearest_row = column.clamp(0, width - 1), row.clamp(0, height - 1)
    inside = (nearest_column == column) & (nearest_row == row)
    index = nearest_row.long().mul_(width).add_(nearest_column.long()).flatten(1)[:, None]
    moved = images.flatten(2).gather(2, index.expand(-1, images.shape[1], -1)).view(images.shape)
    return moved.mul_(inside[:, None])


def rotation(degrees: Tensor, height: int, width: int) -> Tensor:
    """Matrices that rotate counterclockwise about the center, [n, 2, 3]."""
    sine, cosine = degrees.deg2rad().sin(), degrees.deg2rad().cos()
    return _matrices(cosine, -sine, 0, sine, cosine, 0)


def horizontal_shear(slope: Tensor, height: int, width: int) -> Tensor:
    """Matrices that move each row to the left by ``slope`` times its distance from the top, [n, 2, 3]."""
    return _matrices(1, slope, slope * height / 2, 0, 1, 0)


def vertical_shear(slope: Tensor, height: int, width: int) -> Tensor:
    """Matrices that move each column up by ``slope`` times its distance from the left, [n, 2, 3]."""
    return _matrices(1, 0, 0, slope, 1, slope * width / 2)


def horizontal_translation(pixels: Tensor, height: int, width: int) -> Tensor:
    """Matrices that move to the right by whole pixels, [n, 2, 3]."""
    return _matrices(1, 0, -pixels.trunc(), 0, 1, 0)


def vertical_translation(pixels: Tensor, height: int, width: int) -> Tensor:
    """Matrices that move down by whole pixels, [n, 2, 3]."""
    return _matrices(1, 0, 0, 0, 1, -pixels.trunc())


def composed(degrees: Tensor, right: Tensor, down: Tensor, scale: Tensor, shear: Tensor) -> Tensor:
    """Matrices that shear along x, scale, rotate clockwise about the center, and move by pixels, [n, 2, 3].

    Args:
        shear: in degrees, as the rotation.
    """
    sine, cosine, slope = degrees.deg2rad().sin(), degrees.deg2rad().cos(), shear.deg2rad().tan()
    # the inverse of rotation times shear, whose determinant is 1
    a, b, c, d = (each / scale for each in (cosine - sine * slope, sine + cosine * slope, -sine, cosine))
    return _matrices(a, b, -a * right - b * down, c, d, -c * right - d * down)


def _matrices(*entries: Tensor | float) -> Tensor:
    return torch.stack(torch.broadcast_tensors(*(torch.as_tensor(each, dtype=torch.float64) for each in entries)), -1).view(
        -1, 2, 3
    )


# ------------------------------------------------------------------ by random parameters


@register_augmentation("rotate")
def rotate(batch: Batch, generator: torch.Generator, degrees: Degrees = 15) -> Batch:
    """Rotate each image about its center by an angle in [-degrees, degrees]."""
    return _warp(batch, rotation, uniform(len(batch["images"]), degrees, generator))


@register_augmentation("shear-x")
def shear_x(batch: Batch, generator: torch.Generator, slope: float = 0.3) -> Batch:
    """Shear each image horizontally by a slope in [-slope, slope]."""
    return _warp(batch, horizontal_shear, uniform(len(batch["images"]), slope, generator))


@register_augmentation("shear-y")
def shear_y(batch: Batch, generator: torch.Generator, slope: float = 0.3) -> Batch:
    """Shear each image vertically by a slope in [-slope, slope]."""
    return _warp(batch, vertical_shear, uniform(len(batch["images"]), slope, generator))


@register_augmentation("translate-x")
def translate_x(batch: Batch, generator: torch.Generator, fraction: Fraction = 0.1) -> Batch:
    """Move each image left or right by up to a fraction of its width."""
    n, _, _, width = batch["images"].shape
    return _warp(batch, horizontal_translation, uniform(n, fraction * width, generator).round())


@register_augmentation("translate-y")
def translate_y(batch: Batch, generator: torch.Generator, fraction: Fraction = 0.1) -> Batch:
    """Move each image up or down by up to a fraction of its height."""
    n, _, height, _ = batch["images"].shape
    return _warp(batch, vertical_translation, uniform(n, fraction * height, generator).round())


@register_augmentation("affine", tags=["moves"])
def affine(
    batch: Batch,
    generator: torch.Generator,
    degrees: Degrees = 15,
    fraction: Fraction = 0.1,
    scale: Fraction = 0.1,
    shear: Degrees = 5,
) -> Batch:
    """Rotate, move, scale and shear each image.

    The angle is in [-degrees, degrees], the shift up to ``fraction`` of each side, the scale in [1 - scale, 1 + scale], and the
    horizontal shear in [-shear, shear] degrees.
    """
    n, _, height, width = batch["images"].shape
    angle = uniform(n, degrees, generator)
    right, down = (uniform(n, fraction * side, generator).round() for side in (width, height))
    factor = 1 + uniform(n, scale, generator)
    matrices = composed(angle, right, down, factor, uniform(n, shear, generator))
    return {**batch, "images": warp(batch["images"], matrices)}


def _warp(batch: Batch, matrices: Callable[[Tensor, int, int], Tensor], magnitudes: Tensor) -> Batch:
    images = batch["images"]
    return {**batch, "images": warp(images, matrices(magnitudes, *images.shape[2:]))}
