"""Optimizers, and parameter groups that exempt norms and biases from weight decay."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import nn
from torch.optim import Optimizer

from zoo.config.options import check_options
from zoo.config.recipe import Recipe
from zoo.core.errors import UserError, one_line
from zoo.registry.entry import register_optimizer
from zoo.registry.registry import current_registry


@register_optimizer("sgd")
def sgd(params: list[dict], lr: float, momentum: float = 0.9, nesterov: bool = True, dampening: float = 0.0) -> Optimizer:
    """Stochastic gradient descent; weight decay is an L2 penalty."""
    return torch.optim.SGD(params, lr, momentum, dampening, nesterov=nesterov and momentum > 0, fused=True)


@register_optimizer("rmsprop")
def rmsprop(
    params: list[dict], lr: float, momentum: float = 0.9, alpha: float = 0.99, eps: float = 1e-8, centered: bool = False
) -> Optimizer:
    """RMSprop; weight decay is an L2 penalty."""
    return torch.optim.RMSprop(params, lr, alpha, eps, momentum=momentum, centered=centered)


@register_optimizer("adam")
def adam(
    params: list[dict], lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, amsgrad: bool = False
) -> Optimizer:
    """Adam (Kingma and Ba 2014); weight decay is an L2 penalty."""
    return torch.optim.Adam(params, lr, betas, eps, amsgrad=amsgrad, fused=True)


@register_optimizer("adamw")
def adamw(
    params: list[dict], lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, amsgrad: bool = False
) -> Optimizer:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2017)."""
    return torch.optim.AdamW(params, lr, betas, eps, amsgrad=amsgrad, fused=True)


def build_optimizer(groups: list[dict], recipe: Recipe, lr: float) -> Optimizer:
    """Build the recipe's optimizer for ``decay_groups`` or ``stage_groups``; ``lr`` is for groups without their own.

    Raises:
        UserError: an argument out of range, or weight decay for an optimizer that has none.
    """
    entry = current_registry().find("optimizer", recipe.optimizer)
    try:
        optimizer = entry.load()(groups, lr=lr, **check_options(entry, recipe.optimizer_args))
    except ValueError as error:
        raise UserError(f"recipe.optimizer={recipe.optimizer}: {one_line(error)}") from error
    if recipe.weight_decay and "weight_decay" not in optimizer.defaults:
        raise UserError(f"recipe.weight_decay={recipe.weight_decay}: {recipe.optimizer} has no weight decay")
    return optimizer


def is_regularized(parameter: nn.Parameter, recipe: Recipe) -> bool:
    """Whether weight decay and penalties apply to a parameter. Norms and biases have fewer than two dimensions."""
    return parameter.ndim > 1 or recipe.decay_norms_and_biases


def decay_groups(parameters: Iterable[nn.Parameter], recipe: Recipe) -> list[dict]:
    """Split parameters into a group with the recipe's weight decay and one without, for norms and biases."""
    decayed, exempt = [], []
    for parameter in parameters:
        (decayed if is_regularized(parameter, recipe) else exempt).append(parameter)
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": exempt, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def stage_groups(stages: Mapping[str, nn.Module], recipe: Recipe, lr: float) -> list[dict]:
    """Apply ``decay_groups`` to each stage, with layer-wise learning rates (Howard and Ruder 2018, section 3.2).

    The head, which is the last stage, has ``lr``, and each stage before it ``layer_decay`` times the rate of the next.
    """
    groups, seen = [], set()
    for place, (name, stage) in enumerate(stages.items(), 1):
        own = [parameter for parameter in stage.parameters() if parameter not in seen]  # two stages may share a matrix
        seen.update(own)
        rate = lr * recipe.layer_decay ** (len(stages) - place)
        groups += [{**group, "name": name, "lr": rate} for group in decay_groups(own, recipe)]
    return groups


def scaled_lr(recipe: Recipe, global_batch: int) -> float:
    """Scale the learning rate linearly with the global batch size if the recipe has a base (Goyal et al. 2017)."""
    return recipe.lr * global_batch / recipe.lr_base_batch_size if recipe.lr_base_batch_size else recipe.lr
