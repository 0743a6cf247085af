"""Retrieval metrics: ranks of the correct candidate, and NDCG.

torchmetrics keeps every score of an evaluation and loops over queries. All but NDCG follow here from counts of ranks, which are
integers: the same to the bit on any number of processes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

DEPTHS = (1, 5, 10)  # k of recall at k


def ranks(scores: Tensor, right: Tensor) -> Tensor:
    """Rank of the correct candidate by descending score, from 1, int64 [...]; ties by index.

    Args:
        scores: [..., candidates].
        right: index of the correct candidate, int64 [...]; negative ones give meaningless ranks.
    """
    right = right.clamp(min=0)[..., None]
    own = scores.gather(-1, right)
    indices = torch.arange(scores.shape[-1], device=scores.device)
    before = (scores > own) | ((scores == own) & (indices < right))
    return 1 + before.sum(-1)


def ndcg(scores: Tensor, relevance: Tensor) -> Tensor:
    """Normalized discounted cumulative gain as VisDial defines it, in [0, 1], [...]; 0 where nothing is relevant.

    The sum of relevance / log2(1 + rank) over the k highest scores, with k the number of relevant candidates, divided by that
    of the ideal order (Das et al. 2017, arXiv:1611.08669, and the challenge of 2018).

    Args:
        scores: [..., candidates].
        relevance: fraction of annotators for whom each candidate is correct, [..., candidates].
    """
    k = (relevance > 0).sum(-1, keepdim=True)
    rank = torch.arange(1, scores.shape[-1] + 1, device=scores.device)
    weight = (rank <= k) / torch.log2(1.0 + rank)
    order = scores.argsort(dim=-1, descending=True, stable=True)
    gained = (relevance.gather(-1, order) * weight).sum(-1)
    best = (relevance.sort(-1, descending=True).values * weight).sum(-1)
    return gained / best.clamp(min=torch.finfo(best.dtype).tiny)


class Ranks(Metric):
    """Recall at 1, 5 and 10, mean rank and mean reciprocal rank, over all queries.

    Args:
        candidates: maximum number of candidates of a query.
    """

    full_state_update = False

    def __init__(self, candidates: int) -> None:
        super().__init__()
        self.add_state("counts", torch.zeros(candidates, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, ranks: Tensor, counted: Tensor) -> None:
        """Update with ``ranks``, int64 [...], where the mask ``counted``, bool [...], is true."""
        self.counts.scatter_add_(0, ranks.flatten() - 1, counted.flatten().long())

    def compute(self) -> dict[str, float]:
        """``r1``, ``r5``, ``r10``, ``mean_rank`` and ``mrr``; empty without queries."""
        counts = self.counts.double().cpu()
        total = counts.sum()
        if not total:
            return {}
        rank = torch.arange(1, len(counts) + 1, dtype=torch.float64)
        metrics = {f"r{depth}": counts[:depth].sum() for depth in DEPTHS}
        metrics |= {"mean_rank": (counts * rank).sum(), "mrr": (counts / rank).sum()}
        return {name: float(value / total) for name, value in metrics.items()}
