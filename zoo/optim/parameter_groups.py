"""Parameter groups of an optimizer: norms and biases without weight decay, and a learning rate for each stage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn

from zoo.config.recipe import Recipe


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
