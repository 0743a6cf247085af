"""Activation functions by name, and their gains for initialization."""

from __future__ import annotations

from functools import partial

from torch import nn

from zoo.registry.annotations import Activation

NEGATIVE_SLOPE = 0.01  # of leaky-relu (Maas et al. 2013)


ACTIVATIONS = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": partial(nn.ReLU, inplace=True),
    "leaky-relu": partial(nn.LeakyReLU, NEGATIVE_SLOPE, inplace=True),
    "elu": nn.ELU,  # Clevert et al. 2015
    "gelu": nn.GELU,  # Hendrycks and Gimpel 2016
    "silu": nn.SiLU,  # Elfwing et al. 2017
}


def activation(name: Activation) -> nn.Module:
    """Return the activation function of this name as a module."""
    return ACTIVATIONS[name]()


def gain(name: Activation) -> float:
    """Gain of the initial weights in front of an activation.

    ``torch.nn.init.calculate_gain`` where it has one; for elu, gelu and silu 1 / sqrt(E[f(z)^2]) for standard normal z, which is
    sqrt(2) for relu (He et al. 2015, section 2.2).
    """
    known = {"elu": 1.24520, "gelu": 1.53353, "silu": 1.67653}
    return known.get(name) or nn.init.calculate_gain(name.replace("-", "_"), NEGATIVE_SLOPE)
