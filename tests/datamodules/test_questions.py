"""Data sets of questions that are drawn: what a batch says is what the world says."""

from __future__ import annotations

import pytest
import torch

from zoo.core.errors import UserError
from zoo.datamodules.shapes import ShapesQuestions
from zoo.datamodules.sort_of_clevr import SortOfCLEVR
from zoo.datamodules.worlds import questions as shape_questions
from zoo.datamodules.worlds import shapes, sort_of_clevr
from zoo.spec import IGNORE


def read(data, split: str, row: int) -> list[tuple[str, str, str]]:
    """The questions, answers and kinds of a sample, in words."""
    part, spec = data.splits[split], data.spec
    columns = part.columns["questions"][row].tolist(), part.labels[row].tolist(), part.columns["kinds"][row].tolist()
    return [(" ".join(spec.decode(words)), spec.answers[a], spec.kinds[k]) for words, a, k in zip(*columns, strict=True)]


def opened(data):
    data.prepare_data()
    data.setup()
    return data


def test_shapes_questions_are_those_of_the_world() -> None:
    data = opened(ShapesQuestions(4, 0, num_images=6, questions_per_image=5))
    scenes = shapes.draw_scenes(0, "train", range(6))
    for row, (things, key) in enumerate(zip(scenes.things(), scenes.key.tolist(), strict=True)):
        asked = shape_questions.ask_questions(things, key, 5)
        assert read(data, "train", row) == [tuple(question) for question in asked]
    assert torch.equal(data.splits["train"].images.pixels, shapes.render(scenes, 64))
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 6, "val": 6, "test": 6}
    first = data.preview_texts(torch.arange(2))[0][0]
    question, answer, _ = read(data, "train", 0)[0]
    assert first == f"{question}? {answer}"
    other_seed = opened(ShapesQuestions(4, 7, num_images=6, questions_per_image=5))
    assert torch.equal(other_seed.splits["test"].labels, data.splits["test"].labels), "all runs share the test questions"


def test_sort_of_clevr_asks_in_words_what_the_world_asks() -> None:
    data = opened(SortOfCLEVR(4, 0, num_images=300, validation=0.1))
    pictures = sort_of_clevr.draw_scenes(0, "test", 200)
    asked = sort_of_clevr.ask_questions(pictures, 0, "test")
    for row in (0, 57, 199):
        expected = zip(asked.words()[row], asked.answer[row].tolist(), asked.kind[row].tolist(), strict=True)
        assert read(data, "test", row) == [(w, sort_of_clevr.ANSWERS[a], sort_of_clevr.KINDS[k]) for w, a, k in expected]
    facts = data.summarize()
    assert (facts["train_images"], facts["val_images"], facts["test_images"]) == (270, 30, 200)
    assert facts["test_questions"] == 4000 and facts["test_outside"] == 0
    assert IGNORE not in data.splits["train"].labels


@pytest.mark.parametrize(
    "options",
    [{"num_images": 0}, {"questions_per_image": 25}, {"questions_per_image": 0}, {"size": 16}, {"augment": "mixup:0.2"}],
)
def test_values_that_cannot_be_are_refused(options: dict) -> None:
    with pytest.raises(UserError, match=f"data.{next(iter(options))}="):
        ShapesQuestions(4, 0, **options)
