"""Losses for classification."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial

from torch import Tensor
from torch.nn import functional as F

from zoo.config.options import check_options
from zoo.config.recipe import Recipe
from zoo.core.errors import UserError
from zoo.registry.entry import register_loss
from zoo.registry.registry import current_registry


@register_loss("cross-entropy", task="classification", tags=["soft-targets"])
def cross_entropy(logits: Tensor, targets: Tensor, reduction: str, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of the softmax, with ``recipe.label_smoothing``."""
    return F.cross_entropy(logits, targets, reduction=reduction, label_smoothing=label_smoothing)


@register_loss("hinge", task="classification")
def hinge(logits: Tensor, targets: Tensor, reduction: str, margin: float = 1.0) -> Tensor:
    """Multiclass hinge loss: the sum over wrong classes j of max(0, score_j - score_label + margin) (Weston and Watkins 1999).

    torch's own loss divides by the number of classes.
    """
    losses = F.multi_margin_loss(logits, targets.clamp(min=0), margin=margin, reduction="none") * logits.shape[1]
    return losses.mean() if reduction == "mean" else losses


def build_loss(recipe: Recipe, default: str) -> Callable[..., Tensor]:
    """Build the loss that a recipe names, or the task's default, as a function ``(logits, targets, reduction)``.

    Raises:
        UserError: the recipe has label smoothing, and the loss takes none.
    """
    entry = current_registry().find("loss", recipe.loss or default)
    function = entry.load()
    if recipe.label_smoothing and "label_smoothing" not in inspect.signature(function).parameters:
        raise UserError(f"recipe.label_smoothing={recipe.label_smoothing}: recipe.loss={entry.name} takes none")
    return partial(function, **check_options(entry, recipe.loss_args))
