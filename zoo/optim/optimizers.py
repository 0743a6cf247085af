"""The optimizer a recipe asks for: torch's own, with weight decay where it belongs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import nn

from zoo.config.recipe import Recipe


def build_optimizer(groups: list[dict], recipe: Recipe, lr: float) -> torch.optim.Optimizer:
    """An optimizer over ``decay_groups`` or ``stage_groups``; ``lr`` is for those that have no rate of their own.

    ``sgd``, ``rmsprop`` and ``adam`` add the decay to the gradient (L2); ``adamw`` decays the weights themselves
    (Loshchilov and Hutter 2017). Fused kernels are used where torch has them: one call for all parameters.
    """
    match recipe.optimizer:
        case "sgd":
            nesterov = recipe.nesterov and recipe.momentum > 0
            return torch.optim.SGD(groups, lr, recipe.momentum, nesterov=nesterov, fused=True)
        case "rmsprop":
            return torch.optim.RMSprop(groups, lr, momentum=recipe.momentum)
        case "adam":
            return torch.optim.Adam(groups, lr, (recipe.beta1, recipe.beta2), fused=True)
        case "adamw":
            return torch.optim.AdamW(groups, lr, (recipe.beta1, recipe.beta2), fused=True)
    raise ValueError(recipe.optimizer)


def is_regularized(parameter: nn.Parameter, recipe: Recipe) -> bool:
    """Whether decay and penalties apply to it. Norms and biases are what has fewer than two dimensions."""
    return parameter.ndim > 1 or recipe.decay_norms_and_biases


def decay_groups(parameters: Iterable[nn.Parameter], recipe: Recipe) -> list[dict]:
    """Two groups with their ``weight_decay``: what decays, and norms and biases, which do not unless the recipe says so."""
    decayed, spared = [], []
    for parameter in parameters:
        (decayed if is_regularized(parameter, recipe) else spared).append(parameter)
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": spared, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def stage_groups(stages: Mapping[str, nn.Module], recipe: Recipe, lr: float) -> list[dict]:
    """The groups of ``decay_groups`` for each stage, with a rate of their own: ``lr`` for the head, which is the last, and for
    each stage before it ``layer_decay`` times that of its follower (Howard and Ruder 2018, section 3.2).
    """
    groups, seen = [], set()
    for place, (name, stage) in enumerate(stages.items(), 1):
        own = [parameter for parameter in stage.parameters() if parameter not in seen]  # two stages may share a matrix
        seen.update(own)
        rate = lr * recipe.layer_decay ** (len(stages) - place)
        groups += [{**group, "name": name, "lr": rate} for group in decay_groups(own, recipe)]
    return groups


def scaled_lr(recipe: Recipe, global_batch: int) -> float:
    """The recipe's learning rate, scaled linearly with the global batch if it asks for that (Goyal et al. 2017)."""
    return recipe.lr * global_batch / recipe.lr_base_batch_size if recipe.lr_base_batch_size else recipe.lr
