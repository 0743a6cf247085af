"""How well the right one of several candidates is ranked.

torchmetrics has such figures too, but it keeps every score of an evaluation and goes through them one query at a time. All but
NDCG follow from how often each rank came, which are whole numbers: they are the same, to the bit, on any number of processes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

DEPTHS = (1, 5, 10)  # of recall


def ranks(scores: Tensor, right: Tensor) -> Tensor:
    """The place of the right candidate when the highest score comes first, from 1, int64 [...].

    Of equal scores the one that stands first counts as higher.

    Args:
        scores: [..., candidates].
        right: the index of the right candidate, int64 [...]; what the rank is where it is negative does not matter.
    """
    right = right.clamp(min=0)[..., None]
    own = scores.gather(-1, right)
    places = torch.arange(scores.shape[-1], device=scores.device)
    before = (scores > own) | ((scores == own) & (places < right))
    return 1 + before.sum(-1)


def ndcg(scores: Tensor, relevance: Tensor) -> Tensor:
    """Normalized discounted cumulative gain as VisDial defines it, in [0, 1], [...]; 0 where nothing is relevant.

    With k the number of candidates of any relevance, the sum of relevance / log2(1 + rank) over the k highest scores, over the
    same for the best order (Das et al. 2017, arXiv:1611.08669; the definition came with the challenge of 2018).

    Args:
        scores: [..., candidates].
        relevance: share of people to whom each candidate is a right answer, [..., candidates].
    """
    k = (relevance > 0).sum(-1, keepdim=True)
    rank = torch.arange(1, scores.shape[-1] + 1, device=scores.device)
    weight = (rank <= k) / torch.log2(1.0 + rank)
    order = scores.argsort(dim=-1, descending=True, stable=True)
    gained = (relevance.gather(-1, order) * weight).sum(-1)
    best = (relevance.sort(-1, descending=True).values * weight).sum(-1)
    return gained / best.clamp(min=torch.finfo(best.dtype).tiny)


class Ranks(Metric):
    """Recall among the first 1, 5 and 10, the mean rank, and the mean of its reciprocal, over all queries that count.

    Args:
        candidates: in each query, at most.
    """

    full_state_update = False

    def __init__(self, candidates: int) -> None:
        super().__init__()
        self.add_state("counts", torch.zeros(candidates, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, ranks: Tensor, counted: Tensor) -> None:
        """Take in ``ranks``, int64 [...], where ``counted``, bool [...], says so."""
        self.counts.scatter_add_(0, ranks.flatten() - 1, counted.flatten().long())

    def compute(self) -> dict[str, float]:
        """``r1``, ``r5``, ``r10``, ``mean_rank`` and ``mrr``; nothing where no query counted."""
        counts = self.counts.double().cpu()
        total = counts.sum()
        if not total:
            return {}
        rank = torch.arange(1, len(counts) + 1, dtype=torch.float64)
        figures = {f"r{depth}": counts[:depth].sum() for depth in DEPTHS}
        figures |= {"mean_rank": (counts * rank).sum(), "mrr": (counts / rank).sum()}
        return {name: float(value / total) for name, value in figures.items()}
