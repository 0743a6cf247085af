"""Class weights, held against scikit-learn and torch."""

from __future__ import annotations

import lightning as L
import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import zoo
from zoo.core.errors import UserError
from zoo.optim.class_weights import class_weights, weighted
from zoo.spec import IGNORE, ImageSpec

COUNTS = torch.tensor([200, 100, 50, 25, 12])
GIVEN = (0.5, 1.0, 3.0, 2.0)


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    labels = np.repeat(np.arange(5), COUNTS.numpy())
    expected = compute_class_weight("balanced", classes=np.arange(5), y=labels)
    assert class_weights(COUNTS, "balanced").tolist() == pytest.approx(expected.tolist())


@pytest.mark.parametrize("kind", ["balanced", "inverse-sqrt"])
def test_weights_have_a_mean_of_one_over_the_samples_and_a_class_without_any_has_none(kind: str) -> None:
    counts = torch.tensor([90, 0, 10])
    weights = class_weights(counts, kind)
    assert weights[1] == 0 and float((weights * counts).sum() / counts.sum()) == pytest.approx(1)
    assert float(weights[2] / weights[0]) == pytest.approx({"balanced": 9, "inverse-sqrt": 3}[kind])


def task_with(**recipe: object) -> L.LightningModule:
    return zoo.create_model(
        "softmax", ImageSpec(1, 4, 4, classes=tuple("abcd")), zoo.Recipe(**{"class_weights": GIVEN, **recipe})
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("soft", [False, True])
def test_the_training_loss_is_torchs_weighted_cross_entropy_and_that_of_evaluation_has_no_weights(
    smoothing: float, soft: bool
) -> None:
    task, logits, labels = task_with(label_smoothing=smoothing), torch.randn(9, 4), torch.arange(9) % 4
    targets = torch.rand(9, 4).softmax(1) if soft else labels
    expected = nn.CrossEntropyLoss(torch.tensor(GIVEN), label_smoothing=smoothing)(logits, targets)
    assert float(task.loss(logits, targets)) == pytest.approx(float(expected))
    assert torch.equal(task.test_losses(logits, labels), F.cross_entropy(logits, labels, reduction="none"))


def test_any_other_loss_is_a_weighted_mean_over_samples() -> None:
    task, logits, labels = task_with(loss="hinge"), torch.randn(9, 4), torch.arange(9) % 4
    weights = torch.tensor(GIVEN)[labels]
    losses = F.multi_margin_loss(logits, labels, reduction="none") * 4
    expected = float((weights * losses).sum() / weights.sum())
    assert float(task.loss(logits, labels)) == pytest.approx(expected)
    more = torch.cat([logits, logits[:2]]), torch.cat([labels, labels.new_full((2,), IGNORE)])
    assert float(task.loss(*more)) == pytest.approx(expected), "what is to be ignored has no weight"
    probabilities = torch.rand(9, 4).softmax(1)
    soft = (probabilities @ torch.tensor(GIVEN) * losses).sum() / (probabilities @ torch.tensor(GIVEN)).sum()
    found = weighted(lambda logits, targets, reduction: losses)(logits, probabilities, "mean", torch.tensor(GIVEN))
    assert float(found) == pytest.approx(float(soft))


def test_wrong_weights_are_refused_in_one_line() -> None:
    with pytest.raises(UserError, match="has 3 numbers, and the data 4 classes: give one for each"):
        task_with(class_weights=(1, 2, 3))
    for wrong in ("balance", (), (1, 0), (1, "x"), (1, float("inf")), 2):
        with pytest.raises(ValueError, match="balanced, inverse-sqrt, or a list with a positive number for each class"):
            zoo.Recipe(class_weights=wrong)
    with pytest.raises(UserError, match=r"recipe.class_weights is for classification, and this is language-modeling: omit it"):
        zoo.create_model("char-rnn", zoo.create_data("pydoc", batch_size=2).spec, zoo.Recipe(class_weights="balanced"))


def test_loaders_that_do_not_count_classes_need_a_list() -> None:
    loader = DataLoader(TensorDataset(torch.rand(8, 1, 4, 4), torch.arange(8) % 4), batch_size=4)
    trainer = L.Trainer(max_steps=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    with pytest.raises(UserError, match="recipe.class_weights=balanced needs a data set of the zoo.*give a list of weights"):
        trainer.fit(task_with(class_weights="balanced"), loader)
