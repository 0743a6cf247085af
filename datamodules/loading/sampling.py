"""Balanced sampling: each class equally often, as a function of (seed, epoch)."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.core.randomness import derive_seed


def balanced_indices(labels: Tensor, seed: int, epoch: int) -> Tensor:
    """Indices of as many samples as there are, int64 [N], with each class that occurs equally often, up to one.

    A class's samples come in random permutations, one after the other, which go on from epoch to epoch: none is drawn once more
    before all others of its class are.

    Args:
        labels: class of each sample, int64 [N].
    """
    classes, sizes = labels.unique(return_counts=True)
    members = labels.argsort(stable=True).split(sizes.tolist())
    # slot after slot is of class after class, from epoch to epoch
    bounds = [epoch * len(labels), (epoch + 1) * len(labels)]
    drawn = []
    for place, (label, indices) in enumerate(zip(classes.tolist(), members, strict=True)):
        first, last = (-((place - slot) // len(classes)) for slot in bounds)  # of the class's own draws
        drawn.append(_draws(indices, first, last, derive_seed(seed, "class", label)))
    return torch.cat(drawn)


def _draws(members: Tensor, first: int, last: int, seed: int) -> Tensor:
    """Draws ``first`` to ``last`` of a class with these members, which come in one permutation after the other."""
    cycles = range(first // len(members), -(-last // len(members)))
    orders = [members[_permutation(len(members), derive_seed(seed, cycle))] for cycle in cycles]
    return torch.cat([members[:0], *orders])[first - cycles.start * len(members) :][: last - first]


def _permutation(n: int, seed: int) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))
