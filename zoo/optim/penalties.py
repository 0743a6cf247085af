"""Weight penalties in the loss: L1, L2, and both together, the elastic net."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from zoo.config.recipe import Recipe
from zoo.optim.parameter_groups import is_regularized


def penalty(parameters: Iterable[nn.Parameter], recipe: Recipe) -> Tensor | None:
    """Compute l1 * sum |w| + l2 / 2 * sum w^2 over all weights (Zou and Hastie 2005), a 0-d tensor; None without a penalty.

    The gradient of the L2 part is l2 * w. With ``sgd`` it equals ``weight_decay``; adaptive optimizers rescale it, which the
    decoupled decay of ``adamw`` avoids (Loshchilov and Hutter 2017).
    """
    if not (recipe.l1 or recipe.l2):
        return None
    weights = [parameter for parameter in parameters if parameter.requires_grad and is_regularized(parameter, recipe)]
    with torch.autocast(weights[0].device.type, enabled=False):  # half precision is not for a sum over millions of weights
        sizes = sum(weight.abs().sum() for weight in weights) if recipe.l1 else 0
        squares = sum(weight.square().sum() for weight in weights) if recipe.l2 else 0
        return recipe.l1 * sizes + recipe.l2 / 2 * squares
