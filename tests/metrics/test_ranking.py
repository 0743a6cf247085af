"""Ranks and the figures made of them, against values by hand, torchmetrics, scikit-learn and the published formula."""

from __future__ import annotations

import math
import random

import pytest
import torch
from sklearn.metrics import ndcg_score
from torchmetrics.functional.retrieval import retrieval_hit_rate, retrieval_reciprocal_rank

from zoo.metrics.ranking import Ranks, ndcg, ranks


def test_ranks_by_hand() -> None:
    scores = torch.tensor([[[0.1, 0.9, 0.5], [3.0, 2.0, 1.0]], [[1.0, 1.0, 1.0], [-1.0, 5.0, -1.0]]])
    right = torch.tensor([[2, 0], [1, 2]])
    assert ranks(scores, right).tolist() == [[2, 1], [2, 3]]


def test_a_model_that_knows_nothing_is_not_praised_for_equal_scores() -> None:
    assert ranks(torch.zeros(1, 100), torch.tensor([99])).item() == 100


def test_figures_by_hand() -> None:
    metric = Ranks(12)
    metric.update(torch.tensor([[1, 3], [6, 12]]), torch.tensor([[True, True], [True, True]]))
    metric.update(torch.tensor([1, 7, 2]), torch.tensor([True, False, True]))
    counted = [1, 3, 6, 12, 1, 2]
    assert metric.compute() == pytest.approx(
        {"r1": 2 / 6, "r5": 4 / 6, "r10": 5 / 6, "mean_rank": sum(counted) / 6, "mrr": sum(1 / r for r in counted) / 6}
    )


def test_where_nothing_counts_there_are_no_figures() -> None:
    metric = Ranks(5)
    metric.update(torch.tensor([1, 2]), torch.tensor([False, False]))
    assert metric.compute() == {}


def test_figures_agree_with_torchmetrics() -> None:
    generator = torch.Generator().manual_seed(0)
    # torchmetrics takes a score that is not above zero for a document that was not found
    scores, right = torch.randn(200, 30, generator=generator).exp(), torch.randint(0, 30, (200,), generator=generator)
    metric = Ranks(30)
    for part in (slice(0, 70), slice(70, 200)):
        metric.update(ranks(scores[part], right[part]), torch.ones_like(right[part], dtype=torch.bool))
    figures = metric.compute()
    targets = torch.nn.functional.one_hot(right, 30)
    for depth in (1, 5, 10):
        expected = torch.stack([retrieval_hit_rate(s, t, top_k=depth) for s, t in zip(scores, targets, strict=True)]).mean()
        assert figures[f"r{depth}"] == pytest.approx(float(expected), abs=1e-6)
    expected = torch.stack([retrieval_reciprocal_rank(s, t) for s, t in zip(scores, targets, strict=True)]).mean()
    assert figures["mrr"] == pytest.approx(float(expected), abs=1e-6)


def graded(count: int, seed: int) -> torch.Tensor:
    """Relevances as several people give them: mostly zero, else some fifths."""
    chance = random.Random(seed)
    return torch.tensor([[chance.choice([0, 0, 0, 0.2, 0.4, 0.6, 1.0]) for _ in range(100)] for _ in range(count)])


def published_ndcg(scores: list[float], relevance: list[float]) -> float:
    """As the challenge's page has it: both sums run over the first k ranks, k the number of candidates of any relevance."""
    k = sum(value > 0 for value in relevance)
    order = sorted(range(len(scores)), key=lambda candidate: -scores[candidate])
    gain = sum(relevance[candidate] / math.log2(rank + 1) for rank, candidate in enumerate(order[:k], 1))
    best = sum(value / math.log2(rank + 1) for rank, value in enumerate(sorted(relevance, reverse=True)[:k], 1))
    return gain / best


def test_ndcg_is_the_published_formula_and_that_of_scikit_learn() -> None:
    relevance = graded(40, seed=3)
    scores = torch.randn(40, 100, generator=torch.Generator().manual_seed(1))
    values = ndcg(scores, relevance)
    for value, own, given in zip(values.tolist(), scores, relevance, strict=True):
        assert value == pytest.approx(published_ndcg(own.tolist(), given.tolist()), abs=1e-6)
        k = int((given > 0).sum())
        assert value == pytest.approx(ndcg_score(given[None].numpy(), own[None].numpy(), k=k), abs=1e-6)


def test_ndcg_by_hand() -> None:
    relevance = torch.tensor([[0.0, 1.0, 0.5, 0.0], [0.0, 0.0, 0.0, 0.0]])
    scores = torch.tensor([[4.0, 3.0, 2.0, 1.0], [4.0, 3.0, 2.0, 1.0]])
    # k = 2: the first two are the irrelevant one and the one of 1, which comes second
    assert ndcg(scores, relevance).tolist() == pytest.approx([(1 / math.log2(3)) / (1 + 0.5 / math.log2(3)), 0.0])
    assert ndcg(relevance, relevance)[0].item() == pytest.approx(1)
