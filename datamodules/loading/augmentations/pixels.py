"""What several augmentations share: images as bytes, random subsets of a batch, uniform draws."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from zoo.datamodules.loading.loader import Batch


def change_bytes(batch: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    """Apply a function of uint8 images to a batch. Floating-point images, which come from mixing, are rounded for it."""
    images = batch["images"]
    pixels = images if images.dtype == torch.uint8 else images.round().clamp_(0, 255).to(torch.uint8)
    return {**batch, "images": change(pixels).to(images.dtype)}


def change_some(images: Tensor, probability: float, generator: torch.Generator, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply a function to each of the images with a probability."""
    chosen = (torch.rand(len(images), generator=generator) < probability).nonzero()[:, 0].to(images.device, non_blocking=True)
    return images.index_copy(0, chosen, change(images.index_select(0, chosen)))


def uniform(n: int, most: float, generator: torch.Generator) -> Tensor:
    """n draws from [-most, most), float64."""
    return (torch.rand(n, generator=generator, dtype=torch.float64) * 2 - 1) * most


def for_each(values: Tensor, images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """A number for each image, [n] on the CPU, in the shape in which it broadcasts over images, [n, 1, 1, 1] on their device."""
    return values.to(dtype).view(-1, 1, 1, 1).to(images.device, non_blocking=True)
