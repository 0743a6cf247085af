"""Activation functions by name, and the gain with which weights keep the scale of what flows through them."""

from __future__ import annotations

from torch import nn

from zoo.registry.annotations import Activation

NEGATIVE_SLOPE = 0.01  # of leaky-relu (Maas et al. 2013)


def activation(name: Activation) -> nn.Module:
    """The activation function of that name, element by element."""
    match name:
        case "sigmoid":
            return nn.Sigmoid()
        case "tanh":
            return nn.Tanh()
        case "relu":
            return nn.ReLU(inplace=True)
        case "leaky-relu":
            return nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True)
        case "elu":
            return nn.ELU()  # Clevert et al. 2015
        case "gelu":
            return nn.GELU()  # Hendrycks and Gimpel 2016
        case "silu":
            return nn.SiLU()  # Elfwing et al. 2017
    raise ValueError(name)


def gain(name: Activation) -> float:
    """By how much weights must be larger than before a linear layer to keep the scale.

    torch's values where it has one; for elu, gelu and silu 1 / sqrt(E[f(z)^2]) for normal z, which is sqrt(2) for relu
    (He et al. 2015, section 2.2).
    """
    known = {"elu": 1.24520, "gelu": 1.53353, "silu": 1.67653}
    return known.get(name) or nn.init.calculate_gain(name.replace("-", "_"), NEGATIVE_SLOPE)
