"""Networks that answer questions, held against slow loops and formulas."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

import zoo
from zoo.config.recipe import Recipe
from zoo.core.errors import UserError
from zoo.layers.sentence_encoder import SentenceEncoder
from zoo.models.question_answerers import AttentionLayer, QuestionEncoder, Relations
from zoo.spec import PAD, SPECIAL_WORDS, QuestionSpec

NAMES = ("vqa-lstm", "vqa-attention", "vqa-relation")
WORDS = (*SPECIAL_WORDS, *["what", "is", "the", "shape", "of", "red", "blue", "object"])
SPEC = QuestionSpec(zoo.ImageSpec(3, 32, 48, classes=()), WORDS, ("yes", "no", "red"), 7)
SMALL = {"encoder_options": {"channels": [4, 4, 4], "norm": "batch", "downsampling": "stride"}, "hidden_size": 8, "embed_dim": 6}


def create(name: str, **options) -> torch.nn.Module:
    torch.manual_seed(0)
    return zoo.create_model(name, SPEC, Recipe(), **{**SMALL, **options}).eval()


def test_relations_are_a_sum_over_pairs_of_one_network() -> None:
    torch.manual_seed(0)
    relations = Relations(5, 3, 4, [8, 7, 6]).double()
    objects, questions = torch.randn(2, 4, 5).double(), torch.randn(2, 3, 3).double()

    def g(one: torch.Tensor, other: torch.Tensor, question: torch.Tensor) -> torch.Tensor:
        weights = relations.weigh(question)
        one, other = (torch.relu(relations.object(each) * weights) for each in (one, other))
        (a, _, c, d), (_, b, e, f) = (relations.parts(each).chunk(4) for each in (one, other))
        both = a + b + c * f + d * e
        return torch.relu(relations.rest[1](torch.relu(relations.rest[0](torch.relu(both)))))

    expected = torch.zeros(2, 3, 6).double()
    for n in range(2):
        for q in range(3):
            for one, other in combinations(range(4), 2):
                expected[n, q] += g(objects[n, one], objects[n, other], questions[n, q])
    torch.testing.assert_close(relations(objects, questions), expected)


def test_a_sentence_is_the_most_that_each_unit_says_at_any_of_its_words() -> None:
    torch.manual_seed(0)
    encoder = SentenceEncoder(9, 4, 5)
    words = torch.tensor([[[5, 6, 7, PAD], [8, PAD, PAD, PAD]], [[4, 4, 4, 4], [PAD, PAD, PAD, PAD]]])
    found = encoder(words)
    for row, column, length in ((0, 0, 3), (0, 1, 1), (1, 0, 4)):
        states, _ = encoder.recurrent(encoder.embedding(words[row, column, :length])[None])
        torch.testing.assert_close(found[row, column], states[0].amax(0))
    assert not found[1, 1].any(), "a question without a word says nothing"


def test_rows_without_a_question_do_not_count_in_the_statistics_of_questions() -> None:
    torch.manual_seed(0)
    question = QuestionEncoder(9, 4, 5).train()
    words = torch.tensor([[[5, 6, 7], [8, 4, PAD]], [[4, 7, PAD], [PAD, PAD, PAD]]])
    sentences = question.sentence(words)
    asked = torch.stack([sentences[0, 0], sentences[0, 1], sentences[1, 0], sentences[1, 0]])
    expected = (asked - asked.mean(0)) / (asked.var(0, correction=0) + question.norm.eps).sqrt()
    torch.testing.assert_close(question(words).flatten(0, 1), expected)


def test_a_look_adds_the_mean_of_the_cells_by_their_weights() -> None:
    torch.manual_seed(0)
    layer = AttentionLayer(5)
    cells, query = torch.randn(2, 4, 5), torch.randn(2, 3, 5)
    refined, weights = layer(cells, query)
    for n in range(2):
        for q in range(3):
            hidden = [
                torch.tanh(layer.cells.weight @ cell + layer.query.weight @ query[n, q] + layer.query.bias) for cell in cells[n]
            ]
            expected = torch.stack([layer.score.weight[0] @ each for each in hidden]).softmax(0)
            torch.testing.assert_close(weights[n, q], expected)
            torch.testing.assert_close(refined[n, q], query[n, q] + expected @ cells[n])


@pytest.mark.parametrize("name", NAMES)
def test_questions_on_a_picture_do_not_mix(name: str) -> None:
    task = create(name)
    batch = task.example_batch(2)
    together = task.predict_step(batch)
    assert together.shape == (2, 3, 3) and torch.allclose(together.sum(-1), torch.ones(2, 3))
    for place in range(3):
        alone = task.predict_step({**batch, "questions": batch["questions"][:, place : place + 1]})
        torch.testing.assert_close(alone[:, 0], together[:, place])
    other = batch["questions"].clone()
    other[:, 0] = torch.tensor([4, 5, 6, 7, 8, 9, 11])
    assert not torch.allclose(task.predict_step({**batch, "questions": other})[:, 0], together[:, 0]), (
        "the question does not matter"
    )
    assert not torch.allclose(task.predict_step({**batch, "images": 255 - batch["images"]}), together), (
        "the picture does not matter"
    )


def test_joining_by_a_layer_and_pooling() -> None:
    outputs = [create("vqa-lstm", fusion=fusion, pool=pool).predict_step(create("vqa-lstm").example_batch(2))
               for fusion in ("product", "mlp") for pool in ("flatten", "avg")]  # fmt: skip
    assert all(output.shape == (2, 3, 3) for output in outputs)


@pytest.mark.parametrize(
    ("name", "options", "named"),
    [
        ("vqa-relation", {"relation_dims": []}, "model.relation_dims=[]"),
        ("vqa-relation", {"encoder_options": {"channels": [4] * 5}}, "there are no pairs"),
        ("vqa-relation", {"answer_dims": [8, 0]}, "model.answer_dims=[8, 0]"),
        ("vqa-relation", {"film_dim": 0}, "model.film_dim=0"),
        ("vqa-attention", {"num_layers": 0}, "model.num_layers=0"),
        ("vqa-lstm", {"embed_dim": 0}, "model.embed_dim=0"),
        ("vqa-lstm", {"encoder": "resnet2", "encoder_options": {}}, "model.encoder=resnet2: not an image network"),
        ("vqa-lstm", {"freeze_encoder": True}, "model.encoder_weights"),
    ],
)
def test_values_that_cannot_be_are_refused(name: str, options: dict, named: str) -> None:
    with pytest.raises(UserError, match=named.replace("[", r"\[").replace("]", r"\]")):
        create(name, **options)
