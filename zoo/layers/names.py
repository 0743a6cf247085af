"""The names of layers that networks take as options; light, so that a wrong name is answered before torch is imported."""

from __future__ import annotations

from typing import Literal, get_args

Activation = Literal["sigmoid", "tanh", "relu", "leaky-relu", "elu", "gelu", "silu"]
Norm = Literal["none", "batch", "layer", "instance", "group"]

NAMES = {"Activation": Activation, "Norm": Norm}


def spelled_out(annotation: str) -> str:
    """An annotation with the names above written as the values that they stand for."""
    return f"Literal[{', '.join(map(repr, get_args(NAMES[annotation])))}]" if annotation in NAMES else annotation
