"""Label errors of a data set, found by confident learning."""

from __future__ import annotations

import torch
from torch import Tensor


def label_suspects(labels: Tensor, probabilities: Tensor) -> tuple[Tensor, Tensor]:
    """Find likely label errors, most suspicious first, and the predicted class of each.

    Confident learning (Northcutt et al. 2021, arXiv:1911.00068, section 3.1). The threshold of a class is its mean
    self-confidence: the mean predicted probability over samples with that label. A sample counts for the most probable of the
    classes that reach their threshold, and is an error if that is another class than its label, and more probable. Errors are
    ordered by the difference of the two probabilities ("max margin"), ties by index.

    A class without samples has no threshold and is never predicted. Probabilities should be out of sample: a network that has
    memorized its labels agrees with all of them.

    Args:
        labels: given labels, int64 [N].
        probabilities: predicted probabilities, [N, classes].

    Returns:
        Indices of samples, int64 [errors], and predicted classes, int64 [errors].

    Raises:
        ValueError: shapes do not match.
    """
    if labels.dim() != 1 or probabilities.dim() != 2 or len(labels) != len(probabilities):
        raise ValueError(f"labels [N] need probabilities [N, classes]: {list(labels.shape)} and {list(probabilities.shape)}")
    probabilities = probabilities.double()
    own = probabilities.gather(1, labels[:, None])[:, 0]
    counts = torch.bincount(labels, minlength=probabilities.shape[1])
    thresholds = torch.bincount(labels, own, minlength=probabilities.shape[1]) / counts  # nan for a class without samples
    confident = probabilities.where(probabilities >= thresholds, 0)
    probability, likeliest = confident.max(1)
    suspicious = ((likeliest != labels) & (probability > own)).nonzero()[:, 0]
    order = (probability - own)[suspicious].argsort(descending=True, stable=True)
    return suspicious[order], likeliest[suspicious[order]]
