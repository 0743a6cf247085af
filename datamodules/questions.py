"""Pictures with questions and their answers: the base of such data sets, and the two worlds that are drawn from a seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from zoo.datamodules.splits import Images, ImagesInMemory, Split
from zoo.datamodules.worded import WordedPictures, padded
from zoo.datamodules.worlds import questions as shape_questions
from zoo.datamodules.worlds import shapes, sort_of_clevr
from zoo.errors import UserError
from zoo.registry import register_data
from zoo.spec import IGNORE, OUTSIDE, SPECIAL_WORDS, ImageSpec, QuestionSpec

HELD_OUT = 1000  # pictures of the world of shapes for validation, and as many for testing
MOST_QUESTIONS = 24  # on a picture of it, since of a single shape not much can be asked


class Question(NamedTuple):
    """A question in words, the answer of each person who was asked (one, mostly), and what kind of question it is."""

    words: list[str]
    answers: Sequence[str]
    kind: str = ""


class QuestionedPictures(WordedPictures):
    """Pictures, each with questions. A subclass gives its ``describe``, and in ``read`` makes splits by ``split``."""

    task = "question-answering"
    spec: QuestionSpec

    def split(self, images: Images, pictures: Sequence[Sequence[Question]]) -> Split:
        """The images with the questions on each, as columns of numbers; ``pictures`` has those of each image."""
        spec = self.spec
        most, people = max(map(len, pictures)), max(len(question.answers) for asked in pictures for question in asked)
        answers = {answer: place for place, answer in enumerate(spec.answers)}
        kinds = {kind: place for place, kind in enumerate(spec.kinds)}
        questions = torch.zeros(len(pictures), most, spec.length, dtype=torch.int64)
        labels = torch.full((len(pictures), most, people), IGNORE)
        kind_column = torch.full((len(pictures), most), IGNORE)
        for row, asked in enumerate(pictures):
            if not asked:
                continue
            questions[row, : len(asked)] = padded([spec.encode(question.words) for question in asked], spec.length)
            kind_column[row, : len(asked)] = torch.tensor([kinds.get(question.kind, IGNORE) for question in asked])
            said = [[answers.get(answer, OUTSIDE) for answer in question.answers] for question in asked]
            labels[row, : len(asked)] = torch.tensor([line + [IGNORE] * (people - len(line)) for line in said])
        beside = {"questions": questions, **({"kinds": kind_column} if kinds else {})}
        return Split(images, labels[..., 0] if people == 1 else labels, beside)

    def told(self, count: int) -> list[list[str]]:
        """The questions on each of the first training pictures, with their answers."""
        split = self.splits["train"]
        labels = split.labels if split.labels.dim() == 3 else split.labels[..., None]
        told = []
        for questions, answers in zip(split.beside["questions"][:count].tolist(), labels[:count].tolist(), strict=True):
            asked = [(" ".join(self.spec.decode(words)), said) for words, said in zip(questions, answers, strict=True)]
            told.append([f"{words}? {self._said(said)}" for words, said in asked if words])
        return told

    def _said(self, answers: list[int]) -> str:
        """The answers of all people, each once."""
        return "/".join(self.spec.answers[answer] for answer in dict.fromkeys(answers) if answer >= 0) or "-"

    def facts(self) -> dict[str, Any]:
        """What is there, once ``setup`` has run: also how many questions have no answer that a model can give."""
        asked, outside = {}, {}
        for name, split in self.splits.items():
            answers = split.labels.flatten(2) if split.labels.dim() == 3 else split.labels[..., None]
            there = (answers != IGNORE).any(-1)
            asked[f"{name}_questions"] = int(there.sum())
            outside[f"{name}_outside"] = int((there & (answers < 0).all(-1)).sum())
        return {"answers": len(self.spec.answers), **asked, **outside, **super().facts()}


@register_data("sort-of-clevr", task="question-answering", tags=["embedded", "colour"])
class SortOfCLEVR(QuestionedPictures):
    """Six coloured squares and circles with ten relational and ten non-relational questions: 9,800 pictures, and 200 to test on.

    Drawn as Santoro et al. 2017 (arXiv:1706.01427) describe it, always the same; questions are asked in words.

    Args:
        size: scale pictures to this many pixels a side; 0 keeps 75.
        augment: none, light, standard, strong, or a list as in crop:2.
        validation: share of the training pictures held out for validation.
    """

    def __init__(self, batch_size: int, seed: int, size: int = 0, augment: str = "none", validation: float = 0.02) -> None:
        super().__init__(batch_size, seed, root=None, size=size, augment=augment, validation=validation)

    def describe(self) -> QuestionSpec:
        return QuestionSpec(
            ImageSpec(3, sort_of_clevr.SIDE, sort_of_clevr.SIDE, classes=()),
            (*SPECIAL_WORDS, *sort_of_clevr.WORDS),
            sort_of_clevr.ANSWERS,
            sort_of_clevr.LONGEST,
            sort_of_clevr.KINDS,
        )

    def read(self) -> dict[str, Split]:
        return {name: self._draw(name) for name in sort_of_clevr.PICTURES}

    def _draw(self, name: str) -> Split:
        pictures = sort_of_clevr.draw_pictures(0, name)  # one world for all runs, whatever their seed
        asked = sort_of_clevr.ask_questions(pictures, 0, name)
        rows = zip(asked.words(), asked.answer.tolist(), asked.kind.tolist(), strict=True)
        questions = [
            [
                Question(words.split(), [sort_of_clevr.ANSWERS[answer]], sort_of_clevr.KINDS[kind])
                for words, answer, kind in zip(*row, strict=True)
            ]
            for row in rows
        ]
        return self.split(ImagesInMemory(sort_of_clevr.render(pictures)), questions)


@register_data("shapes-questions", task="question-answering", tags=["embedded", "colour"], tiny={"pictures": 200})
class ShapesQuestions(QuestionedPictures):
    """Scenes of one to five shapes with questions whose answers cannot be guessed, of six kinds, three of them relational.

    Pictures and questions are drawn, always the same; no two splits share a picture.

    Args:
        pictures: for training; there are 1,000 for validation and 1,000 for testing besides.
        questions: on each picture.
        size: pixels a side.
        augment: none, light, standard, strong, or a list as in crop:2.
    """

    def __init__(
        self,
        batch_size: int,
        seed: int,
        pictures: int = 8000,
        questions: int = 6,
        size: int = 64,
        augment: str = "none",
    ) -> None:
        super().__init__(batch_size, seed, root=None, size=size, augment=augment, validation=0.5)
        if pictures < 1 or not 1 <= questions <= MOST_QUESTIONS:
            raise UserError(
                f"data.pictures={pictures}, data.questions={questions}: pictures are at least 1, questions 1 to {MOST_QUESTIONS}"
            )
        if size < shapes.SIDE // 2:
            raise UserError(f"data.size={size}: must be at least {shapes.SIDE // 2}, or no shape can be told from another")
        self.numbers = {"train": pictures, "val": HELD_OUT, "test": HELD_OUT}
        self.questions = questions

    def describe(self) -> QuestionSpec:
        return QuestionSpec(
            ImageSpec(3, shapes.SIDE, shapes.SIDE, classes=()),
            (*SPECIAL_WORDS, *shape_questions.WORDS),
            shape_questions.ANSWERS,
            shape_questions.LONGEST,
            tuple(shape_questions.KINDS),
        )

    def read(self) -> dict[str, Split]:
        return {name: self._draw(name, number) for name, number in self.numbers.items()}

    def _draw(self, name: str, number: int) -> Split:
        scenes = shapes.draw_scenes(0, name, range(number))  # one world for all runs, whatever their seed
        asked = [
            [
                Question(words.split(), [answer], kind)
                for words, answer, kind in shape_questions.ask_questions(things, key, self.questions)
            ]
            for things, key in zip(scenes.things(), scenes.key.tolist(), strict=True)
        ]
        return self.split(ImagesInMemory(shapes.render(scenes, self.size)), asked)
