"""Answers to questions: VQA's accuracy, figures for each kind, and what counts where something is missing."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import zoo
from zoo.config.recipe import Recipe
from zoo.spec import IGNORE, SPECIAL_WORDS, UNKNOWN_ANSWER, QuestionSpec
from zoo.tasks.question_answering import QuestionAnswerer, accuracies

SPEC = QuestionSpec(
    zoo.ImageSpec(3, 16, 16, classes=()), (*SPECIAL_WORDS, "what", "is", "it"), ("yes", "no", "red"), 5, ("one", "other kind")
)


def official(picked: int, answers: list[int]) -> float:
    """As in the official evaluation: each person is left out once, and three of the others that agree are enough."""
    scores = []
    for person in range(len(answers)):
        others = answers[:person] + answers[person + 1 :]
        scores.append(min(1.0, sum(answer == picked for answer in others) / 3))
    return sum(scores) / len(scores)


def test_the_accuracy_of_several_people_is_the_official_one() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (5, 8, 10), generator=generator)
    labels[labels == 3] = UNKNOWN_ANSWER
    picked = torch.randint(0, 3, (5, 8), generator=generator)
    expected = [
        [official(int(p), said) for p, said in zip(*row, strict=True)] for row in zip(picked, labels.tolist(), strict=True)
    ]
    torch.testing.assert_close(accuracies(picked, labels), torch.tensor(expected))
    by_agreement = [accuracies(torch.tensor([[0]]), torch.tensor([[[0] * n + [1] * (10 - n)]])).item() for n in range(6)]
    assert by_agreement == pytest.approx([0, 0.3, 0.6, 0.9, 1, 1])


def test_people_who_did_not_answer_are_left_out() -> None:
    said = torch.tensor([[[0, 0, 1, IGNORE, IGNORE]]])
    assert accuracies(torch.tensor([[0]]), said).item() == pytest.approx(official(0, [0, 0, 1]))


class Fixed(QuestionAnswerer):
    """Says what it is told to."""

    def forward(self, images: torch.Tensor, questions: torch.Tensor) -> torch.Tensor:
        return self.logits


def batch(labels: list, kinds: list) -> dict[str, torch.Tensor]:
    return {"images": torch.zeros(1), "questions": torch.zeros(1), "labels": torch.tensor(labels), "kinds": torch.tensor(kinds)}


def test_figures_count_questions_by_kind_and_unknown_answers_as_wrong() -> None:
    task = Fixed(SPEC, Recipe())
    task.logits = torch.tensor([[[9.0, 0, 0], [0, 9, 0], [0, 0, 9]], [[9, 0, 0], [9, 0, 0], [9, 0, 0]]])
    task.evaluation_step("val", batch([[0, 0, 2], [UNKNOWN_ANSWER, 0, IGNORE]], [[0, 0, 1], [1, 1, IGNORE]]))
    task.logits = torch.tensor([[[9.0, 0, 0]] * 3])
    task.evaluation_step("val", batch([[0, IGNORE, IGNORE]], [[0, IGNORE, IGNORE]]))
    figures = task.compute_metrics("val")
    assert figures["accuracy"] == pytest.approx(4 / 6)  # of six questions, one has an answer that nobody can give
    assert figures["accuracy_one"] == pytest.approx(2 / 3)
    assert figures["accuracy_other kind"] == pytest.approx(2 / 3)
    right, wrong = (
        F.cross_entropy(torch.tensor([[9.0, 0, 0]]), torch.tensor([0])),
        9 + F.cross_entropy(torch.tensor([[9.0, 0, 0]]), torch.tensor([0])),
    )
    assert figures["loss"] == pytest.approx(float(4 * right + wrong) / 5)  # of five with an answer that can be given
    assert task.directions["accuracy_one"] == "max"


def test_a_process_that_repeats_a_batch_adds_nothing() -> None:
    task = Fixed(SPEC, Recipe())
    task.logits = torch.randn(1, 3, 3)
    task.evaluation_step("test", batch([[0, 1, 2]], [[0, 1, 0]]))
    task.evaluation_step("test", batch([[IGNORE] * 3], [[0, 1, 0]]))
    alone = Fixed(SPEC, Recipe())
    alone.logits = task.logits
    alone.evaluation_step("test", batch([[0, 1, 2]], [[0, 1, 0]]))
    assert task.compute_metrics("test") == alone.compute_metrics("test")


def test_the_loss_is_the_mean_over_people_whose_answer_is_known() -> None:
    task = Fixed(SPEC, Recipe())
    logits = torch.randn(1, 2, 3)
    labels = torch.tensor([[[0, 1, UNKNOWN_ANSWER], [UNKNOWN_ANSWER, IGNORE, IGNORE]]])
    losses, known = task.losses(logits, labels)
    log_probabilities = logits.log_softmax(-1)
    assert losses[0, 0].item() == pytest.approx(-(log_probabilities[0, 0, 0] + log_probabilities[0, 0, 1]).item() / 2, rel=1e-5)
    assert known.tolist() == [[True, False]]
    one, _ = task.losses(logits, labels[..., 0].clamp(min=0))
    torch.testing.assert_close(one.flatten(), F.cross_entropy(logits[0], torch.tensor([0, 0]), reduction="none"))
