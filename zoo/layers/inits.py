"""Weight initialization by name, with an optional parameter: ``kaiming:out``, ``small-normal:0.02``.

=====================  ===========================================================================================
``torch``              torch's default: uniform, up to 1 / sqrt(fan in)
``small-normal:0.01``  normal with a small standard deviation: activations vanish with depth
``large-normal:1``     normal with a large one: tanh and sigmoid saturate, ReLU activations explode
``xavier``             normal, gain * sqrt(2 / (fan in + fan out)) (Glorot and Bengio 2010, eq. 12)
``kaiming:in``         normal, gain / sqrt(fan), of the inputs (``in``) or the outputs (``out``) (He et al. 2015, eq. 10, 14)
=====================  ===========================================================================================
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import nn

from zoo.core.errors import UserError, unknown
from zoo.layers.activations import gain
from zoo.registry.annotations import Activation

PARAMETERS = {"torch": None, "small-normal": "0.01", "large-normal": "1", "xavier": None, "kaiming": "in"}  # and defaults


def initialize(layers: Iterable[nn.Module], description: str, activation: Activation) -> None:
    """Initialize the weights of all linear and convolutional layers in ``layers``, and zero their biases.

    For layers in front of an activation. A head keeps torch's default: with small logits the loss starts at ln(classes).

    Raises:
        UserError: unknown name, or an invalid parameter.
    """
    name, _, given = description.partition(":")
    if name not in PARAMETERS:
        raise unknown("initialization (model.init)", name, PARAMETERS)
    default = PARAMETERS[name]
    if given and default is None:
        raise UserError(f"model.init={description}: {name} takes no parameter")
    parameter = given or default
    for module in (module for layer in layers for module in layer.modules()):
        if not isinstance(module, (nn.Linear, nn.Conv2d)) or name == "torch":
            continue
        match name:
            case "small-normal" | "large-normal":
                nn.init.normal_(module.weight, std=_positive(parameter, description))
            case "xavier":
                nn.init.xavier_normal_(module.weight, gain(activation))
            case "kaiming":
                nn.init.normal_(module.weight, std=gain(activation) / math.sqrt(_fan(module, parameter, description)))
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def reset_head(head: nn.Module) -> None:
    """Reset a linear head to torch's initialization: uniform, up to 1 / sqrt(fan in).

    Libraries initialize heads for ImageNet. EfficientNets scale by the number of classes: with ten of them the first loss is
    three times that of a uniform guess. Vision transformers start at zero: no gradient reaches the body in the first step.
    """
    if isinstance(head, nn.Linear):
        head.reset_parameters()


def _positive(text: str, description: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        name = description.partition(":")[0]
        raise UserError(f"model.init={description}: the standard deviation must be a number above 0, as in {name}:0.01")
    return value


def _fan(module: nn.Linear | nn.Conv2d, which: str, description: str) -> int:
    """Fan in (``in``) or fan out (``out``) of a layer."""
    if which not in ("in", "out"):
        raise UserError(f"model.init={description}: kaiming takes in or out, as in kaiming:out")
    weight = module.weight  # [outputs, inputs, ...]
    return weight[0].numel() if which == "in" else weight[:, 0].numel()
