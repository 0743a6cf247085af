"""Channel statistics of a data set, and resizing."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.datamodules.loading.splits import Images


def channel_statistics(images: Images, part: int = 1024) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of pixels scaled to [0, 1].

    Computed from exact integer counts of the 256 values, ``part`` images at a time, so they depend neither on order nor on
    rounding.
    """
    counts: Tensor | int = 0
    for pixels in images.batches(iter(torch.arange(len(images)).split(part))):
        channels = pixels.transpose(0, 1).flatten(1)
        counts = counts + torch.stack([torch.bincount(channel, minlength=256) for channel in channels])
    values = torch.arange(256, dtype=torch.float64) / 255
    total = counts.sum(1)
    mean = (counts * values).sum(1) / total
    variance = (counts * (values - mean[:, None]) ** 2).sum(1) / total
    # a constant channel would be divided by nothing but the error of rounding
    std = torch.where((counts > 0).sum(1) > 1, variance.sqrt(), torch.ones_like(variance))
    return tuple(mean.tolist()), tuple(std.tolist())


def resize(pixels: Tensor, size: int) -> Tensor:
    """Resize uint8 [N, C, H, W] to size x size, bilinear and antialiased."""
    parts = [
        F.interpolate(part.float(), (size, size), mode="bilinear", antialias=True, align_corners=False).round_().clamp_(0, 255)
        for part in pixels.split(256)
    ]
    return torch.cat([part.to(torch.uint8) for part in parts])
