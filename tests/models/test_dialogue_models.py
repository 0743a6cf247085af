"""Models for visual dialogue: what each round may see, and both decoders, against slow loops."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from zoo.config.recipe import Recipe
from zoo.core.errors import UserError
from zoo.models.dialogue_models import DiscriminativeDialogue, GenerativeDialogue, LateFusion, QuestionGuidedPooling, history_of
from zoo.spec import END, PAD, SPECIAL_WORDS, START, DialogueSpec, ImageSpec
from zoo.tasks.dialogue import SHARED

WORDS = ("what", "color", "is", "it", "red", "blue", "green", "and", "one", "two")
SPEC = DialogueSpec(ImageSpec(3, 16, 16, classes=()), (*SPECIAL_WORDS, *WORDS), ("red", "blue", "two green"), 6, 4, 5)
SMALL = {"encoder_options": {"channels": [4, 8]}, "hidden_size": 8, "embed_dim": 6}
BOTH = pytest.mark.parametrize("model", [DiscriminativeDialogue, GenerativeDialogue])


def build(model: type[LateFusion], **options: Any) -> LateFusion:
    torch.manual_seed(0)
    return model(SPEC, Recipe(), **{**SMALL, **options}).eval()


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def changed(batch: dict[str, Tensor], name: str, where: Any) -> dict[str, Tensor]:
    """The batch with other words in one place, as many as there were."""
    column = batch[name].clone()
    words = column[where]
    column[where] = torch.where(words >= len(SPECIAL_WORDS), (words + 1 - 4) % len(WORDS) + 4, words)
    return {**batch, name: column}


def test_the_history_is_the_caption_and_what_was_said_before() -> None:
    batch = build(DiscriminativeDialogue).example_batch(5, seed=1)
    batch["captions"][3] = PAD  # no caption
    text, lengths = history_of(batch)
    for row in range(5):
        said = [word for word in batch["captions"][row].tolist() if word != PAD]
        for number in range(SPEC.rounds):
            assert text[row, : lengths[row, number]].tolist() == said
            for name in ("questions", "answers"):
                said += [word for word in batch[name][row, number].tolist() if word != PAD]


@BOTH
def test_no_round_sees_its_own_answer_or_what_follows(model: type[LateFusion]) -> None:
    task = build(model)
    batch = task.example_batch(3)
    before = task.encode(batch)
    for number in range(SPEC.rounds):
        after = task.encode(changed(batch, "answers", (slice(None), number)))
        assert torch.equal(before[:, : number + 1], after[:, : number + 1])
        assert number == SPEC.rounds - 1 or not torch.allclose(before[:, number + 1 :], after[:, number + 1 :])
        after = task.encode(changed(batch, "questions", (slice(None), number)))
        assert torch.equal(before[:, :number], after[:, :number])
        assert not torch.allclose(before[:, number], after[:, number])
    assert not torch.allclose(before[:, 0], task.encode(changed(batch, "captions", slice(None)))[:, 0])


@BOTH
def test_without_history_a_round_is_a_question_by_itself(model: type[LateFusion]) -> None:
    task = build(model, history=False)
    batch = task.example_batch(3)
    before = task.encode(batch)
    for name in ("captions", "answers"):
        assert torch.equal(before, task.encode(changed(batch, name, slice(None))))
    assert torch.equal(before[:, 1:], task.encode(changed(batch, "questions", (slice(None), 0)))[:, 1:])


@BOTH
def test_all_rounds_at_once_are_each_round_alone(model: type[LateFusion]) -> None:
    task = build(model)
    batch = task.example_batch(3)
    together = task.encode(batch)
    for number in range(SPEC.rounds):
        so_far = {name: batch[name][:, : number + 1] for name in ("questions", "answers")}
        alone = task.encode({**batch, **so_far})[:, -1]
        torch.testing.assert_close(together[:, number], alone)


@BOTH
def test_padding_behind_words_changes_nothing(model: type[LateFusion]) -> None:
    task = build(model)
    batch = task.example_batch(3)
    wider = {name: torch.nn.functional.pad(batch[name], (0, 4)) for name in ("captions", "questions", "answers", SHARED)}
    torch.testing.assert_close(task.predict_step({**batch, **wider}), task.predict_step(batch))


def test_question_guided_pooling_against_a_loop_over_questions_and_cells() -> None:
    torch.manual_seed(0)
    pooling = QuestionGuidedPooling(5, 7)
    map, query = torch.randn(2, 5, 3, 4), torch.randn(2, 6, 7)
    seen = pooling(map, query)
    for n in range(2):
        places = [(row, column) for row in range(3) for column in range(4)]
        cells = [torch.cat([map[n, :, row, column], torch.tensor([row - 1.0, column / 1.5 - 1])]) for row, column in places]
        for r in range(6):
            fit = torch.stack([pooling.attention.query(query[n, r]) @ pooling.attention.key(cell) / 7**0.5 for cell in cells])
            found = sum(weight * cell for weight, cell in zip(fit.softmax(0), cells, strict=True))
            given = pooling.given(torch.cat([found, query[n, r]]))
            pairs = [pooling.pair((pooling.cell(cell) + given).relu()).relu() for cell in cells]
            expected = torch.cat([pooling.attended(found).relu(), torch.stack(pairs).mean(0)])
            torch.testing.assert_close(seen[n, r], expected, rtol=1e-4, atol=1e-5)


def test_the_discriminative_score_is_the_product_with_an_lstm_of_the_candidate() -> None:
    task = build(DiscriminativeDialogue)
    batch = task.example_batch(3)
    encoding = task.encode(batch)
    scores = task.scores(encoding, batch)
    for n, r, k in ((0, 0, 0), (1, 3, 4), (2, 2, 1)):
        words = [word for word in batch[SHARED][batch["candidates"][n, r, k]].tolist() if word != PAD]
        _, (last, _) = task.head.lstm(task.embedding(torch.tensor([words])))
        torch.testing.assert_close(scores[n, r, k], encoding[n, r] @ last[0, 0])
    expected = torch.nn.functional.cross_entropy(scores.flatten(0, 1), batch["labels"].flatten())
    losses, counted = task.compute_losses(encoding, batch)
    torch.testing.assert_close(losses[counted].mean(), expected)


def test_the_generative_score_is_the_log_probability_of_writing_the_candidate() -> None:
    task = build(GenerativeDialogue)
    batch = task.example_batch(3)
    encoding = task.encode(batch)
    scores = task.scores(encoding, batch)
    for n, r, k in ((0, 0, 0), (1, 3, 4), (2, 2, 1)):
        words = [word for word in batch[SHARED][batch["candidates"][n, r, k]].tolist() if word != PAD]
        assert words[-1] == END
        state, given, total = (encoding[n, r][None, None], torch.zeros(1, 1, 8)), START, 0.0
        for word in words:
            output, state = task.decoder(task.embedding(torch.tensor([[given]])), state)
            total += task.head(output + encoding[n, r])[0, 0].log_softmax(0)[word]
            given = word
        torch.testing.assert_close(scores[n, r, k], total, rtol=1e-4, atol=1e-5)


def test_a_reply_is_the_best_known_answer_or_a_written_one() -> None:
    task = build(DiscriminativeDialogue)
    batch = task.part(task.example_batch(1), slice(0, 1))
    encoding = task.encode(batch)[0, -1]
    answers = {answer: [*SPEC.encode(answer.split()), END] for answer in SPEC.answers}
    scores = {a: encoding @ task.head.lstm(task.embedding(torch.tensor([row])))[1][0][0, 0] for a, row in answers.items()}
    assert " ".join(task.generate_answer(batch)) == max(scores, key=scores.get)
    task = build(GenerativeDialogue)
    task.head.bias[SPEC.encode(["green"])[0]] = 100.0
    assert task.generate_answer(batch) == ["green"] * SPEC.length
    task.head.bias[END] = 200.0
    assert task.generate_answer(batch) == []


def test_a_frozen_encoder_must_have_learned_something() -> None:
    with pytest.raises(UserError, match="set model.encoder_weights"):
        build(DiscriminativeDialogue, freeze_encoder=True)
    with pytest.raises(UserError, match="model.hidden_size=0"):
        build(DiscriminativeDialogue, hidden_size=0)
