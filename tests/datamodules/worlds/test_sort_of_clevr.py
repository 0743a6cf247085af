"""Sort-of-CLEVR, held against the paper's description by a slow evaluation of words and a drawing pixel by pixel."""

from __future__ import annotations

import re
from collections import Counter, defaultdict

import pytest
import torch

from zoo.datamodules.worlds.sort_of_clevr import ANSWERS, LONGEST, WORDS, ask_questions, draw_scenes, render

COLORS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "orange": (255, 156, 0), "gray": (128, 128, 128),
           "yellow": (255, 255, 0)}  # fmt: skip


@pytest.fixture(scope="module")
def tested():
    scenes = draw_scenes(0, "test", 200)
    return scenes, ask_questions(scenes, 0, "test")


def objects(scenes, place: int) -> dict[str, tuple[int, int, str]]:
    """Color to x, y and shape."""
    shapes = ["rectangle" if shape == 0 else "circle" for shape in scenes.shapes[place].tolist()]
    return {c: (x, y, s) for c, (x, y), s in zip(COLORS, scenes.centers[place].tolist(), shapes, strict=True)}


def answer(words: str, scene: dict[str, tuple[int, int, str]]) -> tuple[str, str, int, int]:
    """The answer, the color that is asked about, and the places of kind and subtype in the code."""
    color = re.search(rf"({'|'.join(COLORS)}) object", words)[1]
    x, y, shape = scene[color]
    if words == f"what is the shape of the {color} object":
        return shape, color, 0, 0
    if words == f"is the {color} object on the left":
        return "yes" if x < 37.5 else "no", color, 0, 1
    if words == f"is the {color} object on the top":
        return "yes" if y < 37.5 else "no", color, 0, 2
    away = {other: (x - a) ** 2 + (y - b) ** 2 for other, (a, b, _) in scene.items() if other != color}
    if words == f"what is the shape of the object closest to the {color} object":
        nearest = [other for other in away if away[other] == min(away.values())]
        assert len(nearest) == 1
        return scene[nearest[0]][2], color, 1, 0
    if words == f"what is the shape of the object furthest from the {color} object":
        furthest = [other for other in away if away[other] == max(away.values())]
        assert len(furthest) == 1
        return scene[furthest[0]][2], color, 1, 1
    assert words == f"how many objects have the shape of the {color} object"
    return str(sum(other == shape for _, _, other in scene.values())), color, 1, 2


def coded(questions):
    return torch.stack([questions.color, questions.kind, questions.subtype], -1)


def test_every_answer_and_code_is_that_of_a_slow_evaluation_of_the_words(tested):
    scenes, questions = tested
    codes, words = coded(questions), questions.words()
    assert codes.shape == (200, 20, 3)
    for place in range(200):
        scene = objects(scenes, place)
        assert len(set(words[place])) == 20
        for number, question in enumerate(words[place]):
            expected, color, kind, subtype = answer(question, scene)
            assert ANSWERS[questions.answer[place, number]] == expected
            assert kind == (number >= 10)  # ten of each kind
            assert codes[place, number].tolist() == [list(COLORS).index(color), kind, subtype]
    assert sorted({word for picture in words for question in picture for word in question.split(" ")}) == WORDS
    assert max(len(question.split()) for picture in words for question in picture) == LONGEST


def test_pictures_are_as_drawn_pixel_by_pixel(tested):
    scenes, _ = tested
    drawn = render(scenes)
    assert drawn.shape == (200, 3, 75, 75) and drawn.dtype == torch.uint8
    for place in range(5):
        scene = objects(scenes, place)
        for row in range(75):
            for column in range(75):
                expected = (255, 255, 255)
                for color, (x, y, shape) in scene.items():
                    across, down = abs(column - x), abs(row - y)
                    if max(across, down) <= 5 and (shape == "rectangle" or across**2 + down**2 <= 30):
                        assert expected == (255, 255, 255), "objects must not overlap"
                        expected = COLORS[color]
                assert tuple(drawn[place, :, row, column].tolist()) == expected


def test_the_splits_are_those_of_the_paper_share_no_picture_and_follow_from_the_seed(tested):
    scenes, questions = tested
    again = draw_scenes(0, "test", 200)
    assert torch.equal(again.centers, scenes.centers) and torch.equal(again.shapes, scenes.shapes)
    assert torch.equal(coded(ask_questions(again, 0, "test")), coded(questions))
    assert not torch.equal(draw_scenes(1, "test", 200).centers, scenes.centers)
    assert not torch.equal(coded(ask_questions(again, 1, "test")), coded(questions))
    train = draw_scenes(0, "train", 9800)
    assert (len(train), len(scenes)) == (9800, 200)
    contents = [set(map(tuple, part.centers.flatten(1).tolist())) for part in (train, scenes)]
    assert len(contents[0] | contents[1]) == 10_000


def test_answers_are_as_frequent_as_chance_has_them():
    questions = ask_questions(scenes := draw_scenes(0, "train", 9800), 0, "train")
    counts = defaultdict(Counter)
    for kind, subtype, given in torch.stack([questions.kind, questions.subtype, questions.answer], -1).flatten(0, 1).tolist():
        counts[kind, subtype][ANSWERS[given]] += 1
    for sort, answers in counts.items():
        assert answers.total() == pytest.approx(9800 * 10 / 3, rel=0.03)
        if sort == (1, 2):  # the number of others of the same shape is binomial: 1, 5, 10, 10, 5, 1 of 32
            shares = [answers[str(number)] / answers.total() for number in range(1, 7)]
            assert shares == pytest.approx([n / 32 for n in (1, 5, 10, 10, 5, 1)], abs=0.01)
        else:
            assert max(answers.values()) < 0.53 * answers.total()
    asked = Counter(questions.color.flatten().tolist())
    assert max(asked.values()) < 1.03 * min(asked.values()) and len(scenes) == 9800
