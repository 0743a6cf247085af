"""Class weights: how much the samples of each class count in the training loss."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from zoo.config.recipe import CLASS_WEIGHTS
from zoo.core.errors import UserError
from zoo.spec import IGNORE


def class_weights(counts: Tensor, kind: str) -> Tensor:
    """The weight of each class, float64 [classes], with a mean over the samples of 1.

    ``balanced`` is inversely proportional to the number of samples, n / (k n_c) for n samples of k classes, as in scikit-learn's
    ``compute_class_weight``; ``inverse-sqrt`` to its square root. A class without samples has the weight 0 and is not counted.

    Args:
        counts: samples of each class, int64 [classes].
    """
    counts = counts.double()
    weights = counts.pow(-CLASS_WEIGHTS[kind]).where(counts > 0, 0)
    return weights * counts.sum() / (weights * counts).sum()


def fixed_class_weights(given: tuple[float, ...], classes: tuple[str, ...]) -> Tensor:
    """The weights of a list, float64 [classes].

    Raises:
        UserError: it has another length.
    """
    if len(given) != len(classes):
        raise UserError(f"recipe.class_weights has {len(given)} numbers, and the data {len(classes)} classes: give one for each")
    return torch.tensor(given, dtype=torch.float64)


def weighted(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A loss that also takes ``weight``, [classes]: its mean is that over samples, each with the weight of its class.

    Those of a sample with probabilities as targets are averaged. This is what ``torch.nn.functional.cross_entropy`` does for
    labels without smoothing.
    """

    @wraps(loss)
    def mean(logits: Tensor, targets: Tensor, reduction: str, weight: Tensor | None = None, **options: Any) -> Tensor:
        if weight is None:
            return loss(logits, targets, reduction=reduction, **options)
        losses = loss(logits, targets, reduction="none", **options)
        is_soft = targets.is_floating_point()
        of_samples = targets @ weight if is_soft else weight[targets.clamp(min=0)] * (targets != IGNORE)
        return (of_samples * losses).sum() / of_samples.sum()

    return mean
