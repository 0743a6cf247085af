"""Figures of single classes, held against scikit-learn and, for the calibration error, against bins made by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from zoo.metrics.calibration import CalibrationError
from zoo.metrics.class_metrics import ClassMetrics
from zoo.spec import IGNORE

NAMES = ("ant", "bee", "cat", "dog", "eel")


def samples(n: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores that are often right, of five classes: no image is of the fourth, and nothing is taken for the last."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0, 1, 2, 4])[torch.randint(0, 4, (n,), generator=generator)]
    logits = torch.randn(n, 5, generator=generator)
    logits[torch.arange(n), labels] += 1.5
    logits[:, 4] = -9
    return logits, labels


def calibration_error(logits: torch.Tensor, labels: torch.Tensor, bins: int = 15) -> float:
    """Guo et al. 2017, equation 3, a bin at a time, each with its upper edge."""
    probabilities = logits.softmax(1).double().numpy()
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels.numpy()
    total = 0.0
    for lower in np.arange(bins) / bins:
        inside = (confidence > lower) & (confidence <= lower + 1 / bins)
        if inside.any():
            total += inside.sum() / len(labels) * abs(right[inside].mean() - confidence[inside].mean())
    return total


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
def test_figures_of_classes_equal_scikit_learns() -> None:
    logits, labels = samples()
    figures = ClassMetrics(5, IGNORE)
    for part in range(0, 400, 90):
        figures.update(logits[part : part + 90], labels[part : part + 90])
    error, findings = figures.compute_and_reset(NAMES)
    said = logits.argmax(1).numpy()
    assert findings["confusion"] == confusion_matrix(labels, said, labels=range(5)).tolist()
    expected = np.array(precision_recall_fscore_support(labels, said, labels=range(5), zero_division=0))
    found = [[one[key] for one in findings["classes"].values()] for key in ("precision", "recall", "f1", "images")]
    assert list(findings["classes"]) == list(NAMES)
    assert np.allclose(found, expected, atol=1e-6) and 0 in expected[0] and 0 in expected[3]
    assert error == pytest.approx(calibration_error(logits, labels), abs=1e-5) and error > 0.02


def test_rows_to_ignore_do_not_count_even_where_they_fill_a_batch() -> None:
    logits, labels = samples()
    plain, ignoring = ClassMetrics(5, IGNORE), ClassMetrics(5, IGNORE)
    plain.update(logits, labels)
    repeated = torch.full_like(labels[:50], IGNORE)
    ignoring.update(torch.cat([logits[:100], logits[:50]]), torch.cat([labels[:100], repeated]))
    ignoring.update(logits[:50], repeated)
    ignoring.update(logits[100:], labels[100:])
    (error, found), (other_error, other) = plain.compute_and_reset(NAMES), ignoring.compute_and_reset(NAMES)
    assert found == other and error == pytest.approx(other_error, abs=1e-6)


def test_after_it_was_read_all_starts_anew() -> None:
    logits, labels = samples()
    figures = ClassMetrics(5, IGNORE)
    figures.update(logits, labels)
    first = figures.compute_and_reset(NAMES)
    figures.update(logits[:80], labels[:80])
    _, second = figures.compute_and_reset(NAMES)
    assert sum(map(sum, second["confusion"])) == 80
    figures.update(logits, labels)
    assert figures.compute_and_reset(NAMES) == first


def test_scores_that_look_like_probabilities_are_not_taken_for_some() -> None:
    logits, labels = torch.tensor([[0.9, 0.1], [0.2, 0.6]]), torch.tensor([0, 1])
    figures = ClassMetrics(2, IGNORE)
    figures.update(logits, labels)
    assert figures.compute_and_reset(NAMES[:2])[0] == pytest.approx(calibration_error(logits, labels), abs=1e-6)


def test_a_probability_of_exactly_one_belongs_to_the_last_bin() -> None:
    logits = torch.tensor([[40.0, 0, 0]] * 50 + [[3.7, 0, 0]] * 50)
    labels = torch.tensor([0] * 40 + [1] * 10 + [0] * 50)
    assert logits[0].softmax(0)[0] == 1
    figures = ClassMetrics(3, IGNORE)
    figures.update(logits, labels)
    # one bin: mean confidence (1 + 0.95288) / 2, accuracy 90 / 100
    assert figures.compute_and_reset(NAMES[:3])[0] == pytest.approx(0.0764, abs=5e-5)
    metric = CalibrationError(bins=4)
    metric.update(torch.tensor([[0.5, 0.5, 0.0], [0.75, 0.25, 0.0], [0.76, 0.12, 0.12]]), torch.tensor([0, 1, 0]))
    assert metric.counts.tolist() == [0, 1, 1, 1], "an edge is in the bin below it"
    assert float(metric.compute()) == pytest.approx((0.5 + 0.75 + 0.24) / 3)
