"""Losses of several labels an image held against torch and torchvision."""

from __future__ import annotations

import pytest
import torch
from timm.loss import BinaryCrossEntropy
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from zoo.config.recipe import Recipe
from zoo.core.errors import UserError
from zoo.optim.losses import binary_cross_entropy, build_loss, focal, huber, one_vs_all
from zoo.spec import IGNORE


def drawn() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(6, 4, generator=generator, requires_grad=True), torch.randint(0, 2, (6, 4), generator=generator)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_they_are_those_of_the_libraries(reduction: str) -> None:
    logits, labels = drawn()
    positives, smoothing = [2.0, 1.0, 0.5, 3.0], 0.2
    smooth = labels * (1 - smoothing) + smoothing / 2
    pairs = [
        (
            binary_cross_entropy(logits, labels.to(torch.int8), reduction, smoothing, positives),
            F.binary_cross_entropy_with_logits(logits, smooth, reduction="none", pos_weight=torch.tensor(positives)),
        ),
        (focal(logits, labels, reduction), sigmoid_focal_loss(logits, labels.float(), reduction="none")),
        (focal(logits, labels, reduction, -1.0, 3.0), sigmoid_focal_loss(logits, labels.float(), -1, 3, reduction="none")),
    ]
    for own, other in pairs:
        torch.testing.assert_close(own, other.mean() if reduction == "mean" else other.mean(1))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_one_vs_all_is_that_of_timm_for_classes_and_for_mixed_images(smoothing: float) -> None:
    logits, _ = drawn()
    classes, mixed = torch.arange(6) % 4, torch.rand(6, 4).softmax(1)
    theirs = BinaryCrossEntropy(smoothing)
    for targets in (classes, mixed):
        torch.testing.assert_close(one_vs_all(logits, targets, "mean", smoothing), theirs(logits, targets))
    assert one_vs_all(logits, classes, "none").shape == (6,)
    torch.testing.assert_close(one_vs_all(logits, classes, "none").mean(), one_vs_all(logits, classes, "mean"))


@pytest.mark.parametrize("loss", [binary_cross_entropy, focal])
@pytest.mark.parametrize("unknown", [IGNORE, torch.nan])
def test_unknown_labels_are_not_learned(loss, unknown: float) -> None:
    logits, labels = drawn()
    targets = labels.float()
    targets[0, 1:] = unknown
    of_first = loss(logits, targets, "none")[0]
    torch.testing.assert_close(of_first, loss(logits[:1, :1], labels[:1, :1], "mean"))
    (gradient,) = torch.autograd.grad(loss(logits, targets, "mean"), logits)
    assert gradient[0, 1:].tolist() == [0, 0, 0] and gradient[1:].abs().min() > 0


def test_weights_are_one_for_all_or_one_for_each_class() -> None:
    logits, labels = drawn()
    one, first, each = (binary_cross_entropy(logits, labels, "mean", 0.0, weights) for weights in (2.0, [2.0], [2.0] * 4))
    assert one == first == each != binary_cross_entropy(logits, labels, "mean")
    recipe = Recipe(loss="bce", loss_args={"pos_weight": 2})
    assert build_loss(recipe, "bce")(logits, labels, reduction="mean") == one
    with pytest.raises(UserError, match=r"pos_weight has 3 values: give one for all, or for each of 4 classes"):
        binary_cross_entropy(logits, labels, "mean", 0.0, [1.0, 2.0, 3.0])


@pytest.mark.parametrize(
    ("loss", "arguments", "words"),
    [
        (binary_cross_entropy, {"pos_weight": [-1.0]}, r"pos_weight=\[-1.0\]: must be at least 0"),
        (focal, {"alpha": 1.5}, "alpha=1.5: must be at most 1"),
        (focal, {"gamma": -1.0}, "gamma=-1.0: must be at least 0"),
        (huber, {"delta": 0.0}, "delta=0.0: must be more than 0"),
    ],
)
def test_an_argument_out_of_range_is_refused(loss, arguments: dict, words: str) -> None:
    with pytest.raises(UserError, match=f"recipe.loss_args.{words}"):
        loss(*drawn(), "mean", **arguments)
