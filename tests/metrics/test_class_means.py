"""Metrics that count classes equally, held against scikit-learn."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, f1_score

from zoo.metrics.class_means import BalancedAccuracy, MacroF1
from zoo.spec import IGNORE


def predictions(classes: int, n: int, labeled: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels of the first ``labeled`` classes, every fifth of which does not count."""
    generator = torch.Generator().manual_seed(classes)
    logits, labels = torch.randn(n, classes, generator=generator), torch.randint(0, labeled, (n,), generator=generator)
    labels[::5] = IGNORE
    return logits, labels


@pytest.mark.filterwarnings("ignore:y_pred contains classes")
@pytest.mark.parametrize(("classes", "n", "labeled"), [(5, 60, 5), (4, 9, 2), (30, 20, 20)])
def test_they_equal_scikit_learns_in_any_batches_on_any_number_of_processes(classes: int, n: int, labeled: int) -> None:
    logits, labels = predictions(classes, n, labeled)
    guesses, counted = logits.argmax(1), labels != IGNORE
    expected = {
        BalancedAccuracy: balanced_accuracy_score(labels[counted], guesses[counted]),
        MacroF1: f1_score(labels[counted], guesses[counted], average="macro"),
    }
    for metric, value in expected.items():
        first, second = metric(classes, IGNORE), metric(classes, IGNORE)
        for step, batch in enumerate(torch.arange(n).split(7)):
            (first, second)[step % 2].update(logits[batch], labels[batch])
        first.merge_state(second)  # as the sums of two processes
        assert float(first.compute()) == pytest.approx(value, abs=1e-9)


def test_the_standard_error_is_that_of_a_mean_of_proportions() -> None:
    metric = BalancedAccuracy(3, IGNORE)
    labels = torch.tensor([0] * 8 + [1] * 2)
    guesses = torch.tensor([0] * 6 + [1] * 2 + [1, 0])
    metric.update(torch.nn.functional.one_hot(guesses, 3).float(), labels)
    assert float(metric.compute()) == pytest.approx((0.75 + 0.5) / 2)
    assert metric.standard_error == pytest.approx(math.sqrt(0.75 * 0.25 / 8 + 0.5 * 0.5 / 2) / 2)


def test_without_samples_there_is_no_value() -> None:
    for metric in (BalancedAccuracy(3, IGNORE), MacroF1(3, IGNORE)):
        metric.update(torch.randn(4, 3), torch.full((4,), IGNORE))
        assert math.isnan(float(metric.compute()))
