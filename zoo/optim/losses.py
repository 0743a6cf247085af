"""Losses for classes, for several labels an image, and for numbers."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.config.options import check_options
from zoo.config.recipe import Recipe
from zoo.core.errors import UserError
from zoo.optim.class_weights import weighted
from zoo.registry.entry import register_loss
from zoo.registry.registry import current_registry


@register_loss("cross-entropy", task="classification", tags=["soft-targets"])
def cross_entropy(
    logits: Tensor, targets: Tensor, reduction: str, label_smoothing: float = 0.0, weight: Tensor | None = None
) -> Tensor:
    """Cross-entropy of the softmax, with ``recipe.label_smoothing`` and ``recipe.class_weights``."""
    return F.cross_entropy(logits, targets, weight, reduction=reduction, label_smoothing=label_smoothing)


@register_loss("hinge", task="classification")
def hinge(logits: Tensor, targets: Tensor, reduction: str, margin: float = 1.0) -> Tensor:
    """Multiclass hinge loss: the sum over wrong classes j of max(0, score_j - score_label + margin) (Weston and Watkins 1999).

    torch's own loss divides by the number of classes.
    """
    _require(margin >= 0, f"margin={margin}: must be at least 0")
    losses = F.multi_margin_loss(logits, targets.clamp(min=0), margin=margin, reduction="none") * logits.shape[1]
    return losses.mean() if reduction == "mean" else losses


@register_loss("bce-one-vs-all", task="classification", tags=["soft-targets"])
def one_vs_all(logits: Tensor, targets: Tensor, reduction: str, label_smoothing: float = 0.0) -> Tensor:
    """Binary cross-entropy of each class against all others, averaged over the classes (Wightman et al. 2021, section 2.2).

    ``recipe.label_smoothing`` is spread over all classes, as with ``cross-entropy``; targets of mixed images are not smoothed.
    """
    classes = logits.shape[1]
    if not targets.is_floating_point():
        hard = F.one_hot(targets.clamp(min=0), classes).to(logits.dtype)
        targets = hard * (1 - label_smoothing) + label_smoothing / classes
    losses = F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="none").mean(1)
    return losses.mean() if reduction == "mean" else losses


@register_loss("bce", task="multilabel", tags=["soft-targets"])
def binary_cross_entropy(
    logits: Tensor,
    targets: Tensor,
    reduction: str,
    label_smoothing: float = 0.0,
    pos_weight: float | list[float] = 1.0,
) -> Tensor:
    """Binary cross-entropy of each class, averaged over the classes whose label is known, with ``recipe.label_smoothing``.

    Args:
        pos_weight: weight of the positives, or a list of those of each class; above 1 raises recall.
    """
    known = targets >= 0
    smooth = targets.where(known, 0).to(logits.dtype) * (1 - label_smoothing) + label_smoothing / 2
    weights = _weights(pos_weight, logits)
    losses = F.binary_cross_entropy_with_logits(logits, smooth, reduction="none", pos_weight=weights)
    return _mean_over(known, losses, reduction)


@register_loss("focal", task="multilabel", tags=["soft-targets"])
def focal(logits: Tensor, targets: Tensor, reduction: str, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Focal loss (Lin et al. 2017, equation 5), averaged over the classes whose label is known.

    Args:
        alpha: weight of positives, and 1 - alpha that of negatives; negative for no weights.
        gamma: exponent that lowers the loss of easy labels.
    """
    _require(alpha <= 1, f"alpha={alpha}: must be at most 1")
    _require(gamma >= 0, f"gamma={gamma}: must be at least 0")
    known = targets >= 0
    positive = targets.where(known, 0).to(logits.dtype)
    losses = F.binary_cross_entropy_with_logits(logits, positive, reduction="none")
    probability = logits.sigmoid()
    of_label = probability * positive + (1 - probability) * (1 - positive)
    losses = losses * (1 - of_label) ** gamma
    if alpha >= 0:
        losses = losses * (alpha * positive + (1 - alpha) * (1 - positive))
    return _mean_over(known, losses, reduction)


def _weights(given: float | list[float], logits: Tensor) -> Tensor | None:
    if given == 1:
        return None
    weights, classes = given if isinstance(given, list) else [given], logits.shape[1]
    advice = f"give one for all, or for each of {classes} classes"
    _require(len(weights) in (1, classes), f"pos_weight has {len(weights)} values: {advice}")
    _require(min(weights) >= 0, f"pos_weight={given}: must be at least 0")
    return torch.tensor(weights, dtype=logits.dtype, device=logits.device)


@register_loss("mse", task="regression")
def mean_squared_error(logits: Tensor, targets: Tensor, reduction: str) -> Tensor:
    """Squared error of standardized numbers, averaged over those that are known."""
    return _of_numbers(F.mse_loss, logits, targets, reduction)


@register_loss("l1", task="regression")
def mean_absolute_error(logits: Tensor, targets: Tensor, reduction: str) -> Tensor:
    """Absolute error of standardized numbers, averaged over those that are known: less sensitive to outliers."""
    return _of_numbers(F.l1_loss, logits, targets, reduction)


@register_loss("huber", task="regression")
def huber(logits: Tensor, targets: Tensor, reduction: str, delta: float = 1.0) -> Tensor:
    """Huber loss (1964) of standardized numbers: squared up to ``delta``, and linear beyond."""
    _require(delta > 0, f"delta={delta}: must be more than 0")
    return _of_numbers(partial(F.huber_loss, delta=delta), logits, targets, reduction)


def _of_numbers(loss: Callable[..., Tensor], logits: Tensor, targets: Tensor, reduction: str) -> Tensor:
    known = ~targets.isnan()
    return _mean_over(known, loss(logits, targets.where(known, 0), reduction="none"), reduction)


def _mean_over(known: Tensor, losses: Tensor, reduction: str) -> Tensor:
    """The mean over the known labels of each sample, [N], or with the reduction ``mean`` over the samples, too."""
    means = losses.where(known, 0).sum(1) / known.sum(1).clamp(min=1)
    return means.mean() if reduction == "mean" else means


def _require(is_fine: bool, fault: str) -> None:
    if not is_fine:
        raise UserError(f"recipe.loss_args.{fault}")


def build_loss(recipe: Recipe, default: str) -> Callable[..., Tensor]:
    """Build the loss that a recipe names, or the task's default, as a function ``(logits, targets, reduction)``.

    With class weights in the recipe it also takes ``weight``, [classes].

    Raises:
        UserError: the recipe has label smoothing, and the loss takes none.
    """
    entry = current_registry().find("loss", recipe.loss or default)
    function = entry.load()
    parameters = inspect.signature(function).parameters
    if recipe.label_smoothing and "label_smoothing" not in parameters:
        raise UserError(f"recipe.label_smoothing={recipe.label_smoothing}: recipe.loss={entry.name} takes none")
    if recipe.class_weights and "weight" not in parameters:
        function = weighted(function)
    return partial(function, **check_options(entry, recipe.loss_args))
