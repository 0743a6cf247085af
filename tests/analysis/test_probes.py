"""Probes of frozen features, held against scikit-learn."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

import zoo as zoo_package
from zoo.analysis import probes
from zoo.analysis.probes import PENALTIES, _scaling, choose_penalty, fit_logistic, knn_votes

CLASSES, SIZE = 4, 12


def samples(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Overlapping clouds, one a class, far from the origin and of many scales."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % CLASSES
    centers = torch.randn(CLASSES, SIZE, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(n, SIZE, generator=generator) * torch.logspace(-1, 0.3, SIZE)
    return 5 + centers[labels] + noise, labels


def test_neighbors_vote_as_in_scikit_learn() -> None:
    (features, labels), (queries, _) = samples(300, 1), samples(90, 2)
    reference = KNeighborsClassifier(20, metric="cosine", weights=lambda distance: np.exp(-distance / 0.07))
    expected = reference.fit(features.double().numpy(), labels).predict_proba(queries.double().numpy())
    votes = knn_votes(features, labels, queries, 20, CLASSES)
    assert np.allclose(votes / votes.sum(1, keepdim=True), expected, atol=1e-5)
    alone = torch.cat([knn_votes(features, labels, query[None], 20, CLASSES) for query in queries[:5]])
    assert torch.allclose(alone, votes[:5])


@pytest.mark.parametrize("penalty", [1e-1, 1e-3, 1e-5])
def test_the_linear_classifier_is_that_of_scikit_learn(penalty: float) -> None:
    (features, labels), (queries, _) = samples(300, 1), samples(90, 2)
    scaled = _scaling(features)
    known, new = scaled(features), scaled(queries)
    assert torch.allclose(known.mean(0), torch.zeros(SIZE, dtype=torch.float64), atol=1e-9)
    assert float(known.square().sum(1).mean()) == pytest.approx(1)
    reference = LogisticRegression(C=1 / (len(labels) * penalty), tol=1e-10, max_iter=10_000).fit(known.numpy(), labels)
    weight, bias = fit_logistic(known, labels, CLASSES, penalty, tolerance=1e-9)
    assert np.allclose((new @ weight.T + bias).softmax(1), reference.predict_proba(new.numpy()), atol=1e-4)


def test_the_penalty_is_the_strongest_of_the_best_on_held_out_samples() -> None:
    (features, labels), (held_out, true) = samples(60, 1), samples(80, 2)
    scaled = _scaling(features)
    known, new = scaled(features), scaled(held_out)
    noisy = torch.where(torch.rand(60, generator=torch.Generator().manual_seed(0)) < 0.3, labels.roll(1), labels)
    accuracies = []
    for penalty in PENALTIES:
        reference = LogisticRegression(C=1 / (60 * penalty), max_iter=10_000).fit(known.numpy(), noisy)
        accuracies.append(reference.score(new.numpy(), true))
    chosen = choose_penalty(known, noisy, new, true, CLASSES)
    assert accuracies[PENALTIES.index(chosen)] == max(accuracies) > min(accuracies) + 0.1


def test_a_run_is_probed_on_its_own_data(zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "PENALTIES", (1e-2, 1e-3))
    quick = ["--epochs", "1", "--set", "trainer.limit_train_batches=8", "--set", "model.hidden_sizes=[32]"]
    assert zoo("train", "mlp", *quick, "--name", "first").code == 0
    found = json.loads(zoo("probe", "first", "--json").out)
    assert found["features"] == 32 and found["images"].keys() == {"train", "val", "test"} and found["neighbors"] == 20
    run = zoo_package.load("first")
    data = zoo_package.create_data("digits", batch_size=64)
    data.prepare_data(), data.setup()
    features = {split: run.embed(data.splits[split].images.pixels)[1].numpy() for split in ("train", "val", "test")}
    labels = {split: data.splits[split].labels.numpy() for split in features}
    known, true = (np.concatenate([part["train"], part["val"]]) for part in (features, labels))
    linear = LogisticRegression(C=1 / (len(true) * found["penalty"]), max_iter=10_000)
    center, scale = known.mean(0), np.sqrt(np.square(known - known.mean(0)).sum(1).mean())
    accuracy = linear.fit((known - center) / scale, true).score((features["test"] - center) / scale, labels["test"])
    neighbors = KNeighborsClassifier(20, metric="cosine", weights=lambda distance: np.exp(-distance / 0.07)).fit(known, true)
    assert found["linear"] == pytest.approx(accuracy, abs=0.003) and found["linear"] > 0.8
    assert found["knn"] == pytest.approx(neighbors.score(features["test"], labels["test"]), abs=0.003)

    assert json.loads(zoo("probe", "first", "-k", "9999", "--json").out)["neighbors"] == len(known)
    assert zoo("probe", "first", "-k", "0").is_one_line_error("--neighbors 0")
    assert zoo("probe", "first", "--set", "data.validation=0").is_one_line_error(
        "digits has no val images", "data.validation=0.1"
    )
    assert zoo("probe", "first", "--data", "pydoc").is_one_line_error("pydoc is for language-modeling")
    assert zoo("probe", "efficientnet-lite0").is_one_line_error("was not trained here", "--data")
