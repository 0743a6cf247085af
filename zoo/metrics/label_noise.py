"""Which labels of a data set look wrong to a classifier that was trained on it."""

from __future__ import annotations

import torch
from torch import Tensor


def label_suspects(labels: Tensor, probabilities: Tensor) -> tuple[Tensor, Tensor]:
    """The samples whose labels look wrong, the most suspicious first, and the class that each of them looks like.

    The rule is that of confident learning (Northcutt et al. 2021, arXiv:1911.00068, section 3.1). The threshold of a class is
    its mean self-confidence: the mean probability of the class over the samples that are labeled so. A sample counts for the
    likeliest of the classes whose probability reaches their threshold. It is suspicious where that class is another than its
    label, and more probable than it. The difference of the two probabilities gives the order ("max margin" there); equals stay
    in theirs.

    A class without samples has no threshold and is never what a sample looks like. The paper wants probabilities from networks
    that have not seen the sample: one that has learned its labels by heart agrees with all of them, and finds less.

    Args:
        labels: the classes that the samples are said to have, int64 [N].
        probabilities: of each class, [N, classes].

    Returns:
        Indices of samples, int64 [suspects], and classes, int64 [suspects].

    Raises:
        ValueError: the two do not fit each other.
    """
    if labels.dim() != 1 or probabilities.dim() != 2 or len(labels) != len(probabilities):
        raise ValueError(f"labels [N] need probabilities [N, classes]: {list(labels.shape)} and {list(probabilities.shape)}")
    probabilities = probabilities.double()
    own = probabilities.gather(1, labels[:, None])[:, 0]
    counts = torch.bincount(labels, minlength=probabilities.shape[1])
    thresholds = torch.bincount(labels, own, minlength=probabilities.shape[1]) / counts  # nan, which nothing reaches, without any
    confident = probabilities.where(probabilities >= thresholds, 0)
    probability, likeliest = confident.max(1)
    suspicious = ((likeliest != labels) & (probability > own)).nonzero()[:, 0]
    order = (probability - own)[suspicious].argsort(descending=True, stable=True)
    return suspicious[order], likeliest[suspicious[order]]
