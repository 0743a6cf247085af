"""Splits of samples: a random or a stratified fraction, or one of several stratified folds; of files, by their names."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

from zoo.core.errors import UserError
from zoo.core.printing import composed


def positions(names: Sequence[str], seed: int) -> Tensor:
    """A number in [0, 1) for each name, float64 [names], uniform and a function of name and seed alone.

    A name in composed and in decomposed Unicode is the same one.
    """
    digests = (blake2b(f"{seed}/{composed(name)}".encode(errors="surrogateescape"), digest_size=8) for name in names)
    return torch.tensor([(int.from_bytes(digest.digest(), "big") >> 11) / 2**53 for digest in digests], dtype=torch.float64)


def split_by_name(names: Sequence[str], share: float | str, seed: int, root: object, option: str = "") -> tuple[Tensor, Tensor]:
    """Indices of the images that are held out, and of the rest, both ascending: names that come or go move no other.

    Args:
        share: fraction, or fold, as in 2/5; 0 for none.
        seed: decides, together with the name.
        root, option: where the images are, and what gave the share, for messages.

    Raises:
        UserError: none would be held out, or none left.
    """
    fold = parse_fold(share)
    where = positions(names, seed)
    chosen = (where * fold[1]).long() == fold[0] - 1 if fold else where < float(share)
    if (chosen.any() and not chosen.all()) or (not fold and float(share) == 0):
        return chosen.nonzero()[:, 0], (~chosen).nonzero()[:, 0]
    fate = "left for training" if chosen.any() else f"held out for {'validation' if option == 'data.validation' else 'testing'}"
    low, high = (math.floor(float(bound) * 100 + 1) / 100 for bound in (where.min(), where.max()))
    way = f"{option}={low:g} holds one out" if option and low < high else "more are needed, some twenty of each class at first"
    raise UserError(f"{root}: none of {len(names):,} images is {fate}{option and f' by {option}={share}'}: {way}")


def split_at_random(count: int, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of a random fraction of ``count`` samples, one at least, and of the rest, both ascending."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return tuple(part.sort().values for part in order.tensor_split([max(1, round(share * count))]))


def split_by_class(labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of a random fraction of each class, and of the rest, both ascending.

    The same seed gives the same split on every machine. A fraction above zero takes at least one sample of each
    class that has two, and leaves at least one.
    """
    generator = torch.Generator().manual_seed(seed)
    taken = []
    for label in labels.unique():
        members = (labels == label).nonzero()[:, 0]
        count = min(max(round(share * len(members)), 1), len(members) - 1) if share > 0 else 0
        taken.append(members[torch.randperm(len(members), generator=generator)[:count]])
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    chosen[torch.cat(taken)] = True
    return chosen.nonzero()[:, 0], (~chosen).nonzero()[:, 0]


def fold_by_class(labels: Tensor, fold: int, folds: int, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of fold number ``fold``, from 1, and of the rest, both ascending.

    The folds of one seed are disjoint and cover everything; each class is spread over them as evenly as its number allows:
    they are those of scikit-learn's ``StratifiedKFold(folds, shuffle=True, random_state=seed)``.
    """
    generator = np.random.RandomState(seed % 2**32)  # whose stream is the same in all releases of numpy
    _, first, inverse = np.unique(labels.numpy(), return_index=True, return_inverse=True)
    numbers = np.argsort(np.argsort(first))[inverse]  # classes in the order of their first samples
    ordered = np.sort(numbers)
    fold_of = np.empty(len(labels), dtype=int)
    for number in range(len(first)):
        counts = [np.count_nonzero(ordered[start::folds] == number) for start in range(folds)]
        fold_of[numbers == number] = generator.permutation(np.arange(folds).repeat(counts))
    held_out = torch.from_numpy(fold_of == fold - 1)
    return held_out.nonzero()[:, 0], (~held_out).nonzero()[:, 0]


def parse_fold(validation: float | str) -> tuple[int, int] | None:
    """(i, k) of ``i/k``, or None for a fraction."""
    text = str(validation)
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found:
        try:
            float(text)
        except ValueError:
            raise UserError(f"data.validation={text}: must be a fraction, as in 0.1, or a fold, as in 2/5") from None
        return None
    fold, folds = map(int, found.groups())
    if folds < 2 or not 1 <= fold <= folds:
        raise UserError(f"data.validation={text}: must be a fold from 1/{folds} to {folds}/{folds}, of at least two")
    return fold, folds
