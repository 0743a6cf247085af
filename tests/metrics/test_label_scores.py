"""Metrics of several labels an image held against scikit-learn and torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score, precision_recall_curve, precision_recall_fscore_support
from torch import Tensor
from torchmetrics.classification import MultilabelAveragePrecision

from zoo.metrics.label_scores import LabelCounts, LabelScores, average_precision, best_thresholds
from zoo.spec import IGNORE


def drawn(n: int = 400, classes: int = 4, levels: int = 0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Scores, the higher the likelier they are positive, on ``levels`` values if any are given, and labels."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(n, classes, generator=generator)
    labels = (torch.rand(n, classes, generator=generator) < scores).to(torch.int8)
    return (scores * levels).round() / levels if levels else scores, labels


@pytest.mark.parametrize("levels", [0, 10, 1])
def test_average_precision_is_that_of_others(levels: int) -> None:
    scores, labels = drawn(levels=levels)
    found = average_precision(scores, labels)
    assert found.tolist() == pytest.approx(average_precision_score(labels.numpy(), scores.numpy(), average=None), abs=1e-12)
    assert float(found.mean()) == pytest.approx(float(MultilabelAveragePrecision(4)(scores, labels.long())), abs=1e-6)


@pytest.mark.parametrize("levels", [0, 10])
def test_no_threshold_has_a_higher_f1(levels: int) -> None:
    scores, labels = drawn(levels=levels)
    own = LabelCounts.of(scores, labels, best_thresholds(scores, labels)).f1
    for column in range(4):
        precision, recall, _ = precision_recall_curve(labels[:, column], scores[:, column])
        assert float(own[column]) == pytest.approx(np.nanmax(2 * precision * recall / (precision + recall)), abs=1e-9)


def test_a_threshold_lies_between_two_scores() -> None:
    scores, labels = torch.tensor([[0.9], [0.6], [0.2]]), torch.tensor([[1], [1], [0]])
    assert best_thresholds(scores, labels).tolist() == pytest.approx([0.4])
    near = torch.tensor([[0.5], [torch.nextafter(torch.tensor(0.5), torch.tensor(1.0))]])
    assert (near >= best_thresholds(near, torch.tensor([[0], [1]]))).tolist() == [[False], [True]]


def test_counts_give_precision_recall_and_f1() -> None:
    scores, labels = drawn()
    labels[:, 3] = 0
    predicted = (scores >= torch.tensor([0.2, 0.5, 0.7, 1.1])).numpy()
    counts = LabelCounts.of(scores, labels, torch.tensor([0.2, 0.5, 0.7, 1.1]))
    precision, recall, f1, _ = precision_recall_fscore_support(labels.numpy(), predicted, zero_division=0)
    for own, other in ((counts.precision, precision), (counts.recall, recall), (counts.f1, f1)):
        assert own.tolist() == pytest.approx(other)
    assert counts.f1_micro == pytest.approx(f1_score(labels.numpy(), predicted, average="micro"))
    assert counts.f1_macro == pytest.approx(f1_score(labels.numpy(), predicted, average="macro", zero_division=0))


def test_unknown_labels_do_not_count() -> None:
    scores, labels = drawn()
    known = torch.rand(labels.shape, generator=torch.Generator().manual_seed(1)) < 0.7
    labels[~known] = IGNORE
    found, thresholds = average_precision(scores, labels), best_thresholds(scores, labels)
    counts = LabelCounts.of(scores, labels, thresholds)
    for column in range(4):
        part = known[:, column]
        own, other = scores[part, column], labels[part, column]
        assert float(found[column]) == pytest.approx(average_precision_score(other, own))
        assert float(counts.f1[column]) == pytest.approx(f1_score(other, own >= thresholds[column]))


def test_a_class_without_positives_has_no_average_precision() -> None:
    scores, labels = drawn(classes=2)
    labels[:, 1] = 0
    assert average_precision(scores, labels).isnan().tolist() == [False, True]
    assert best_thresholds(scores, labels)[1] == 0.5


def test_batches_and_their_order_do_not_matter() -> None:
    scores, labels = drawn(levels=20)
    metric = LabelScores()
    for part in torch.arange(len(scores)).flip(0).split(77):
        metric.update(scores[part], labels[part])
    gathered = metric.compute()
    assert torch.equal(average_precision(*gathered), average_precision(scores, labels))
    assert torch.equal(best_thresholds(*gathered), best_thresholds(scores, labels))
