"""Crops and flips of a batch, with random parameters for each image."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from zoo.datamodules.loading.loader import Batch
from zoo.registry.augmentations import Fraction, Pixels
from zoo.registry.entry import register_augmentation


@register_augmentation("crop", tags=["moves"])
def padded_crop(batch: Batch, generator: torch.Generator, padding: Pixels = 4) -> Batch:
    """Shift each image by up to ``padding`` pixels, filling with zeros (He et al. 2015, section 4.2).

    The crop is a copy of rows from any offset of the padded batch, seen as one overlapping matrix: several times faster
    than indexing by pixel.
    """
    images = batch["images"]
    n, channels, height, width = images.shape
    padded = F.pad(images, (padding,) * 4).reshape(-1)
    row, plane = width + 2 * padding, (height + 2 * padding) * (width + 2 * padding)
    down, right = torch.randint(0, 2 * padding + 1, (2, n), generator=generator)
    starts = torch.arange(n * channels).view(n, channels, 1) * plane + torch.arange(height) * row
    starts = (starts + (down * row + right).view(n, 1, 1)).view(-1).to(images.device, non_blocking=True)
    rows = padded.as_strided((padded.numel() - width + 1, width), (1, 1))
    return {**batch, "images": rows.index_select(0, starts).view(images.shape)}


@register_augmentation("hflip", tags=["mirrors-x"])
def flip_left_right(batch: Batch, generator: torch.Generator) -> Batch:
    """Flip each image left to right with probability 0.5."""
    return _flip(batch, generator, -1)


@register_augmentation("vflip", tags=["mirrors-y"])
def flip_upside_down(batch: Batch, generator: torch.Generator) -> Batch:
    """Flip each image upside down with probability 0.5."""
    return _flip(batch, generator, -2)


def _flip(batch: Batch, generator: torch.Generator, axis: int) -> Batch:
    images = batch["images"]
    chosen = (torch.rand(len(images), generator=generator) < 0.5).nonzero()[:, 0].to(images.device, non_blocking=True)
    return {**batch, "images": images.index_copy(0, chosen, images.index_select(0, chosen).flip(axis))}


@register_augmentation("resized-crop", tags=["moves"])
def resized_crop(batch: Batch, generator: torch.Generator, min_scale: Fraction = 0.35) -> Batch:
    """Crop a random box and resize it to the image size (Szegedy et al. 2015).

    Its area is a fraction in [min_scale, 1] of the image's, its aspect ratio in [3/4, 4/3] of the image's own.
    """
    images = batch["images"]
    n, _, height, width = images.shape
    area = torch.rand(n, generator=generator) * (1 - min_scale) + min_scale
    # a box of nearly the whole area fits in the image only if it has nearly its shape
    widest = torch.clamp(-area.log(), max=math.log(4 / 3))
    ratio = torch.exp((torch.rand(n, generator=generator) * 2 - 1) * widest)
    across, down = torch.sqrt(area * ratio), torch.sqrt(area / ratio)  # fractions of width and height
    x = (torch.rand(n, generator=generator) * 2 - 1) * (1 - across)  # center, in [-1, 1] coordinates
    y = (torch.rand(n, generator=generator) * 2 - 1) * (1 - down)
    zero = torch.zeros(n)
    theta = torch.stack([torch.stack([across, zero, x], 1), torch.stack([zero, down, y], 1)], 1)
    grid = F.affine_grid(theta.to(images.device), list(images.shape), align_corners=False)
    cut = F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return {**batch, "images": cut.round_().to(images.dtype)}
