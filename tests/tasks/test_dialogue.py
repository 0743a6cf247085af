"""The figures of visual dialogue, worked by hand from scores that are given."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from zoo.config.recipe import Recipe
from zoo.spec import END, IGNORE, PAD, SPECIAL_WORDS, DialogueSpec, ImageSpec, spec_from_primitives, spec_to_primitives
from zoo.tasks.dialogue import SHARED, VisualDialogue

SPEC = DialogueSpec(ImageSpec(1, 2, 2, classes=()), (*SPECIAL_WORDS, "yes", "no", "it"), ("yes", "no"), 4, 2, 3)


class Given(VisualDialogue):
    """Says what the batch tells it to; the loss of a written word is 1, and of the second word 2."""

    def encode(self, batch: dict[str, Tensor]) -> Tensor:
        return batch["images"]

    def scores(self, encoding: Tensor, batch: dict[str, Tensor]) -> Tensor:
        return batch["given"]

    def compute_losses(self, encoding: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return torch.tensor([1.0, 2.0]).expand(batch["answers"].shape), batch["answers"] != PAD


def batch_of(given: list, labels: list, **more: Tensor) -> dict[str, Tensor]:
    right = torch.tensor(labels)
    answers = torch.tensor([4, END]).expand(*right.shape, -1)
    images = torch.zeros(len(right), 1, 2, 2)
    return {"images": images, "given": torch.tensor(given), "labels": right, "answers": answers, **more}


FIRST = batch_of([[[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]], [[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]]], [[0, 2], [1, IGNORE]])  # ranks 1, 3, 2


def test_figures_over_rounds_that_are_there() -> None:
    task = Given(SPEC, Recipe())
    task.evaluation_step("val", FIRST)
    task.evaluation_step("val", batch_of([[[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]], [[IGNORE, IGNORE]]))  # a spare batch
    figures = task.compute_metrics("val")
    assert figures == pytest.approx(
        {"loss": 1.5, "r1": 1 / 3, "r5": 1, "r10": 1, "mean_rank": 2, "mrr": (1 + 1 / 3 + 1 / 2) / 3}
    ), "no figures of history or relevance where the data tells nothing of them"
    task.evaluation_step("val", batch_of([[[3.0, 2.0, 1.0]]], [[0]]))
    assert task.compute_metrics("val")["r1"] == 1, "they start anew"


def test_rounds_that_need_the_history_are_told_apart() -> None:
    task = Given(SPEC, Recipe())
    task.evaluation_step("test", {**FIRST, "needs_history": torch.tensor([[False, True], [True, True]])})
    figures = task.compute_metrics("test")
    assert figures["r1_history"] == 0 and figures["mrr_history"] == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert figures["r1"] == pytest.approx(1 / 3)


def test_ndcg_counts_rounds_with_dense_annotations_alone() -> None:
    task = Given(SPEC, Recipe())
    relevance = torch.zeros(2, 2, 3)
    relevance[0, 1] = torch.tensor([0.0, 0.5, 1.0])  # scores 3, 2, 1: the order is the worst
    task.evaluation_step("val", {**FIRST, "relevance": relevance})
    gained, best = 0.5 / math.log2(3), 1 + 0.5 / math.log2(3)
    assert task.compute_metrics("val")["ndcg"] == pytest.approx(gained / best)


def test_every_figure_has_a_direction() -> None:
    task = Given(SPEC, Recipe())
    relevance = torch.ones(2, 2, 3)
    task.evaluation_step("val", {**FIRST, "relevance": relevance, "needs_history": torch.ones(2, 2, dtype=torch.bool)})
    assert task.compute_metrics("val").keys() == task.directions.keys()


def test_an_example_is_a_batch_as_data_gives_it() -> None:
    batch = Given(SPEC, Recipe()).example_batch(7)
    rows = torch.arange(7)[:, None], torch.arange(2)
    right = batch["candidates"][*rows, batch["labels"]]
    assert torch.equal(batch[SHARED][right], batch["answers"])
    for name in ("captions", "answers", SHARED):
        assert ((batch[name] == END).sum(-1) == 1).all(), name
    assert batch["candidates"].sort(-1).values.diff(dim=-1).min() > 0, "a candidate stands in a round once"


def test_a_spec_survives_a_checkpoint() -> None:
    assert spec_from_primitives(spec_to_primitives(SPEC)) == SPEC
