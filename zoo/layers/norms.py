"""Normalization layers by name, over vectors and over feature maps."""

from __future__ import annotations

import math

from torch import nn

from zoo.core.errors import UserError
from zoo.registry.annotations import Norm

CHANNELS_A_GROUP = 16  # Wu and He 2018, table 3; where 16 does not divide the channels, the largest power of two that does


def norm_2d(name: Norm, channels: int) -> nn.Module:
    """A normalization of feature maps, [N, channels, H, W], with a scale and a shift for each channel.

    ``batch`` over samples and places (Ioffe and Szegedy 2015); ``layer`` over all channels and places of a sample (Ba et al.
    2016); ``instance`` over the places of each channel (Ulyanov et al. 2016); ``group`` over 16 channels and all places
    (Wu and He 2018).
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
    """A normalization of vectors, [N, features].

    Raises:
        UserError: ``instance``, which would normalize each number by itself.
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
    raise UserError(f"model.norm={name}: is for feature maps; vectors can take batch, layer, group or none")


def _groups(channels: int) -> int:
    return channels // math.gcd(channels, CHANNELS_A_GROUP)
