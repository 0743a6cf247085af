"""Augmentation of whole batches on their device, with random parameters for each image.

A description is a comma-separated list, applied in order, each with an optional strength::

    crop:4,hflip,jitter:0.4,cutout:8,mixup:0.2

Parameters come from a CPU generator, so that a seed gives the same images on every device.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.core.errors import UserError
from zoo.registry.augmentations import Fraction, Pixels, parse_augmentation
from zoo.registry.entry import register_augmentation
from zoo.registry.registry import current_registry

Batch = dict[str, Tensor]
Transform = Callable[[Batch, torch.Generator], Batch]


@register_augmentation("crop")
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


@register_augmentation("hflip")
def flip_left_right(batch: Batch, generator: torch.Generator) -> Batch:
    """Flip each image left to right with probability 0.5."""
    return _flip(batch, generator, -1)


@register_augmentation("vflip")
def flip_upside_down(batch: Batch, generator: torch.Generator) -> Batch:
    """Flip each image upside down with probability 0.5."""
    return _flip(batch, generator, -2)


def _flip(batch: Batch, generator: torch.Generator, axis: int) -> Batch:
    images = batch["images"]
    chosen = (torch.rand(len(images), generator=generator) < 0.5).nonzero()[:, 0].to(images.device, non_blocking=True)
    return {**batch, "images": images.index_copy(0, chosen, images.index_select(0, chosen).flip(axis))}


@register_augmentation("resized-crop")
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


@register_augmentation("jitter")
def jitter(batch: Batch, generator: torch.Generator, strength: float = 0.4) -> Batch:
    """Change brightness, contrast and, in color, saturation by random factors in [1 - strength, 1 + strength]."""
    images = batch["images"].float()
    n, channels = images.shape[:2]
    factors = 1 + strength * (torch.rand(3, n, 1, 1, 1, generator=generator) * 2 - 1)
    brightness, contrast, saturation = factors.clamp_(min=0).to(images.device)
    images = (images * brightness).clamp_(0, 255)
    images = torch.lerp(_gray(images).mean((1, 2, 3), keepdim=True), images, contrast).clamp_(0, 255)
    if channels == 3:
        images = torch.lerp(_gray(images), images, saturation).clamp_(0, 255)
    return {**batch, "images": images.round_().to(batch["images"].dtype)}


def _gray(images: Tensor) -> Tensor:
    """Luma of ITU-R BT.601, [N, 1, H, W]; images of one channel are their own."""
    if images.shape[1] != 3:
        return images.mean(1, keepdim=True)
    return (images * images.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)


@register_augmentation("cutout")
def cutout(batch: Batch, generator: torch.Generator, size: Pixels = 8) -> Batch:
    """Zero out a square of size x size pixels, centered anywhere in the image and cut at its border (DeVries and Taylor 2017)."""
    images = batch["images"]
    n, _, height, width = images.shape
    top = torch.randint(0, height, (n, 1), generator=generator) - size // 2
    left = torch.randint(0, width, (n, 1), generator=generator) - size // 2
    hole = _box(top, left, top + size, left + size, height, width).to(images.device)
    return {**batch, "images": images.masked_fill(hole, 0)}


def _box(top: Tensor, left: Tensor, bottom: Tensor, right: Tensor, height: int, width: int) -> Tensor:
    """True inside each box, [N, 1, H, W]; the corners are [N, 1]."""
    y, x = torch.arange(height), torch.arange(width)
    return (((y >= top) & (y < bottom))[:, :, None] & ((x >= left) & (x < right))[:, None, :])[:, None]


@register_augmentation("mixup")
def mixup(batch: Batch, generator: torch.Generator, classes: int, alpha: float = 0.2) -> Batch:
    """Average each image and its label with those of another one (Zhang et al. 2017, eq. 1). Images become float."""
    n = len(batch["images"])
    weight, partner = _beta(alpha, n, generator), torch.randperm(n, generator=generator)
    images = batch["images"].float()
    partner = partner.to(images.device)
    own = weight.to(images.device)
    mixed = torch.lerp(images.index_select(0, partner), images, own.view(n, 1, 1, 1))
    return {**batch, "images": mixed, **_mixed_targets(batch, partner, own, classes)}


@register_augmentation("cutmix")
def cutmix(batch: Batch, generator: torch.Generator, classes: int, alpha: float = 1.0) -> Batch:
    """Paste a box of another image and mix the labels by area (Yun et al. 2019, eq. 1 and 2)."""
    images = batch["images"]
    n, _, height, width = images.shape
    partner = torch.randperm(n, generator=generator)
    cut = torch.sqrt(1 - _beta(alpha, n, generator))[:, None]
    y = torch.randint(0, height, (n, 1), generator=generator)
    x = torch.randint(0, width, (n, 1), generator=generator)
    half_height, half_width = (cut * height / 2).round().long(), (cut * width / 2).round().long()
    box = _box(y - half_height, x - half_width, y + half_height, x + half_width, height, width)
    own = 1 - box.float().mean((1, 2, 3))  # the area that is really left, after cutting at the border
    partner, box, own = partner.to(images.device), box.to(images.device), own.to(images.device)
    mixed = torch.where(box, images.index_select(0, partner), images)
    return {**batch, "images": mixed, **_mixed_targets(batch, partner, own, classes)}


def _beta(alpha: float, n: int, generator: torch.Generator) -> Tensor:
    """n draws of Beta(alpha, alpha), as the fraction of one of two Gamma draws; torch.distributions takes no generator."""
    first, second = torch._standard_gamma(torch.full((2, n), alpha, dtype=torch.float64), generator=generator)
    return (first / (first + second).clamp(min=1e-300)).float()


def _mixed_targets(batch: Batch, partner: Tensor, own: Tensor, classes: int) -> Batch:
    """Soft targets [N, classes]; ``labels`` stay the unmixed ones, with which accuracy compares."""
    soft = batch.get("targets")
    if soft is None:
        soft = F.one_hot(batch["labels"], classes).float()
    return {"targets": torch.lerp(soft.index_select(0, partner), soft, own[:, None])}


class Augmentation:
    """Applies the transforms of a description, in order, to a batch on its device.

    Args:
        description: as above; the empty one and ``none`` change nothing.
        classes: their number, for the soft targets of mixup and cutmix.
        side: the shorter side of the images, which no argument in pixels may exceed; None for any.

    Attributes:
        mixing: the items that mix labels.

    Raises:
        UserError: an unknown transform, or a strength that is not a positive number or too large.
    """

    def __init__(self, description: str, classes: int, side: int | None = None) -> None:
        self.transforms: list[Transform] = []
        self.mixing: list[str] = []
        for entry, strength in parse_augmentation(current_registry(), description):
            function = entry.load()
            in_pixels = strength is not None and entry.options[0].type == "Pixels"
            if in_pixels and side is not None and strength > max(side, entry.options[0].default):
                raise UserError(f"augmentation '{entry.name}:{strength}': the images have {side} pixels, which is the most")
            more = {option.name: strength for option in entry.options}
            if "classes" in inspect.signature(function).parameters:
                self.mixing.append(entry.name)
                more["classes"] = classes
            self.transforms.append(partial(function, **more))

    def __call__(self, batch: Batch, seed: int) -> Batch:
        """Transform ``images``, uint8 [N, C, H, W]; mixing adds ``targets``, [N, classes], and leaves ``labels`` as they are."""
        if not self.transforms:
            return batch
        generator = torch.Generator().manual_seed(seed)
        for transform in self.transforms:
            batch = transform(batch, generator)
        return batch
