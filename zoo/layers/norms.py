"""Normalization layers by name, for vectors and feature maps."""

from __future__ import annotations

import math

from torch import nn

from zoo.core.errors import UserError
from zoo.registry.annotations import Norm

CHANNELS_PER_GROUP = 16  # Wu and He 2018, table 3; or the largest power of two that divides the channels


def norm_2d(name: Norm, channels: int) -> nn.Module:
    """Return a normalization of feature maps, [N, channels, H, W], with scale and shift for each channel.

    ``batch``: over samples and positions (Ioffe and Szegedy 2015); ``layer``: channels and positions (Ba et al. 2016);
    ``instance``: positions of each channel (Ulyanov et al. 2016); ``group``: 16 channels and positions (Wu and He 2018).
    """
    match name:
        case "none":
            return nn.Identity()
        case "batch":
            return nn.BatchNorm2d(channels)
        case "layer":
            return nn.GroupNorm(1, channels)
        case "instance":
            return nn.InstanceNorm2d(channels, affine=True)
        case "group":
            return nn.GroupNorm(_groups(channels), channels)
    raise ValueError(name)


def norm_1d(name: Norm, features: int) -> nn.Module:
    """Return a normalization of vectors, [N, features].

    Raises:
        UserError: ``instance``, which needs more than one position.
    """
    match name:
        case "none":
            return nn.Identity()
        case "batch":
            return nn.BatchNorm1d(features)
        case "layer":
            return nn.LayerNorm(features)
        case "group":
            return nn.GroupNorm(_groups(features), features)
    raise UserError(f"model.norm={name}: only for feature maps; use batch, layer, group or none")


def _groups(channels: int) -> int:
    return channels // math.gcd(channels, CHANNELS_PER_GROUP)
