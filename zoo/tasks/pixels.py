"""Pixels and how networks take them."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.spec import ImageSpec


def to_pixels(images: Tensor) -> Tensor:
    """Images of somebody else, uint8 or floating-point and scaled to [0, 1], as values from 0 to 255."""
    return images * 255 if images.is_floating_point() else images


def in_color(images: Tensor) -> Tensor:
    """Gray images, [N, 1, H, W], as three equal channels, for networks with RGB inputs; other images unchanged."""
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images


def normalization(spec: ImageSpec) -> dict[str, Tensor]:
    """Scale and offset, [1, C, 1, 1] each, that normalize pixels from 0 to 255."""
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (spec.mean, spec.std))
    return {"input_scale": 1 / (255 * std), "input_shift": -mean / std}
