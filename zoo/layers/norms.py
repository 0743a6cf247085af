"""Normalization layers by name, for vectors and feature maps."""

from __future__ import annotations

import math
from functools import partial

from torch import nn

from zoo.core.errors import UserError
from zoo.registry.annotations import Norm

CHANNELS_PER_GROUP = 16  # Wu and He 2018, table 3; or the largest power of two that divides the channels


def norm_2d(name: Norm, channels: int) -> nn.Module:
    """Return a normalization of feature maps, [N, channels, H, W], with scale and shift for each channel.

    ``batch``: over samples and positions (Ioffe and Szegedy 2015); ``layer``: channels and positions (Ba et al. 2016);
    ``instance``: positions of each channel (Ulyanov et al. 2016); ``group``: 16 channels and positions (Wu and He 2018).
    """
    norms = {
        "none": nn.Identity,
        "batch": nn.BatchNorm2d,
        "layer": partial(nn.GroupNorm, 1),
        "instance": partial(nn.InstanceNorm2d, affine=True),
        "group": _group_norm,
    }
    return norms[name](channels)


def norm_1d(name: Norm, features: int) -> nn.Module:
    """Return a normalization of vectors, [N, features].

    Raises:
        UserError: ``instance``, which needs more than one position.
    """
    if name == "instance":
        raise UserError(f"model.norm={name}: only for feature maps; use batch, layer, group or none")
    norms = {"none": nn.Identity, "batch": nn.BatchNorm1d, "layer": nn.LayerNorm, "group": _group_norm}
    return norms[name](features)


def _group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(channels // math.gcd(channels, CHANNELS_PER_GROUP), channels)
