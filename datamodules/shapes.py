"""Scenes of colored shapes with captions, questions or dialogues whose answers are known."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zoo.core.errors import UserError
from zoo.datamodules.bases.captions import CaptionedPictures, Sentence, Told
from zoo.datamodules.bases.dialogues import Dialogues, PicturesWithDialogues
from zoo.datamodules.bases.questions import Question, QuestionedPictures
from zoo.datamodules.loading.splits import ImagesInMemory, Split
from zoo.datamodules.worlds import dialogues, shapes
from zoo.datamodules.worlds import questions as shape_questions
from zoo.datamodules.worlds.captions import LONGEST, WORDS, is_true, write_captions
from zoo.registry.entry import register_data
from zoo.spec import SPECIAL_WORDS, CaptionSpec, DialogueSpec, ImageSpec, QuestionSpec


@register_data("shapes-captions", task="captioning", tags=["embedded", "color"])
class ShapesCaptions(CaptionedPictures):
    """Colored shapes on a dark ground, with captions such as: a small red circle is left of a large striped square.

    Each caption is about the two most salient things, large ones first and then from left to right, and of any caption it can be
    told whether all that it states is true. The pictures are the same for every seed, and no two splits share one.

    Args:
        pictures: for training; there are 1,000 for validation and 1,000 for testing besides.
        captions: of each picture for training; those held out have five, to be compared with.
        most: things in a picture, at most; from 1 to 5.
        size: pixels a side.
        augment: none, light, standard, strong, or a list as in crop:4,jitter.
    """

    HELD_OUT = 1000

    def __init__(
        self,
        batch_size: int,
        seed: int,
        pictures: int = 20_000,
        captions: int = 2,
        most: int = 5,
        size: int = 64,
        augment: str = "none",
    ) -> None:
        super().__init__(batch_size, seed, root=None, size=size, augment=augment, validation=0.1)
        if not 1 <= most <= shapes.MOST:
            raise UserError(f"data.most={most}: must be from 1 to {shapes.MOST}")
        if min(pictures, captions) < 1:
            raise UserError(f"data.pictures={pictures}, data.captions={captions}: both must be at least 1")
        if size < shapes.SIDE // 2:
            raise UserError(f"data.size={size}: must be at least {shapes.SIDE // 2}, or no shape can be told from another")
        self.pictures, self.captions, self.most = pictures, captions, most
        self._scenes: list[tuple[shapes.Thing, ...]] = []

    def describe(self) -> CaptionSpec:
        return CaptionSpec(ImageSpec(3, self.size, self.size, classes=()), (*SPECIAL_WORDS, *WORDS), LONGEST + 1)

    def tell(self) -> dict[str, Told]:
        told = {}
        self._scenes = []
        for name in shapes.SPLITS:
            pictures, captions = (self.pictures, self.captions) if name == "train" else (self.HELD_OUT, 5)
            scenes = shapes.draw_scenes(0, name, range(pictures), most=self.most)
            things = scenes.things()
            self._scenes += things
            sentences = [
                [caption.split() for caption in write_captions(of_scene, key, captions)]
                for of_scene, key in zip(things, scenes.key.tolist(), strict=True)
            ]
            told[name] = Told(ImagesInMemory(shapes.render(scenes, self.size)), sentences)
        return told

    def scenes(self, pictures: Tensor) -> list[tuple[shapes.Thing, ...]]:
        """What is in each of these pictures."""
        return [self._scenes[picture] for picture in pictures.tolist()]

    def true_captions(self, pictures: Tensor, captions: Sequence[Sentence]) -> list[bool]:
        """Whether all that each caption states of its picture holds."""
        return [is_true(" ".join(words), scene) for words, scene in zip(captions, self.scenes(pictures), strict=True)]


HELD_OUT = 1000  # pictures of the world of shapes for validation, and as many for testing
MOST_QUESTIONS = 24  # on a picture of it, since of a single shape not much can be asked


@register_data("shapes-questions", task="question-answering", tags=["embedded", "color"], tiny={"pictures": 200})
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


@register_data("shapes-dialogues", task="dialogue", tags=["embedded", "color"], tiny={"pictures": 100})
class ShapesDialogues(PicturesWithDialogues):
    """Colored shapes on a dark ground and dialogues such as: what color is it, red, and the one to its left, blue.

    There are 24 answers, all of them candidates in every round. It is told apart which rounds need the history: the same question
    has another answer after other rounds. The pictures are the same for every seed, and no two splits share one.

    Args:
        pictures: for training; there are as many for validation and for testing, but not more than 1,000 each.
        rounds: of each dialogue, from 1 to 10.
        size: pixels a side.
        augment: none, light, standard, strong, or a list as in crop:4,jitter.
    """

    HELD_OUT = 1000
    FEWEST = 3  # things in a picture, so that there is something to ask
    MOST_ROUNDS = 10
    longest = dialogues.LONGEST + 1
    longest_caption = dialogues.LONGEST + 1

    def __init__(
        self, batch_size: int, seed: int, pictures: int = 10_000, rounds: int = 8, size: int = 64, augment: str = "none"
    ) -> None:
        super().__init__(batch_size, seed, root=None, size=size, augment=augment, validation=0.1)
        if pictures < 1:
            raise UserError(f"data.pictures={pictures}: must be at least 1")
        if not 1 <= rounds <= self.MOST_ROUNDS:
            raise UserError(f"data.rounds={rounds}: must be from 1 to {self.MOST_ROUNDS}")
        if size < shapes.SIDE // 2:
            raise UserError(f"data.size={size}: must be at least {shapes.SIDE // 2}, or no shape can be told from another")
        self.pictures, self.rounds = pictures, rounds

    def describe(self) -> DialogueSpec:
        image = ImageSpec(3, self.size, self.size, classes=())
        answers = dialogues.ANSWERS
        vocabulary = (*SPECIAL_WORDS, *sorted({*dialogues.WORDS, *answers}))
        return DialogueSpec(image, vocabulary, answers, self.longest, self.rounds, len(answers))

    def read(self) -> dict[str, Split]:
        return {name: self._read(name) for name in shapes.SPLITS}

    def _read(self, name: str) -> Split:
        count = self.pictures if name == "train" else min(self.pictures, self.HELD_OUT)
        scenes = shapes.draw_scenes(0, name, range(count), fewest=self.FEWEST)
        held = [
            dialogues.hold_dialogue(things, key, self.rounds)
            for things, key in zip(scenes.things(), scenes.key.tolist(), strict=True)
        ]
        row_of: dict[str, int] = {}
        questions = [[row_of.setdefault(r.question, len(row_of)) for r in dialogue.rounds] for dialogue in held]
        answers = torch.tensor([[dialogues.ANSWERS.index(r.answer) for r in dialogue.rounds] for dialogue in held])
        needs_history = torch.tensor([[r.needs_history for r in dialogue.rounds] for dialogue in held])
        candidates = torch.arange(len(dialogues.ANSWERS)).expand(*answers.shape, -1)
        rows = Dialogues(
            [dialogue.caption.split() for dialogue in held], torch.tensor(questions), answers, candidates, answers,
            {"needs_history": needs_history},
        )  # fmt: skip
        pictures = ImagesInMemory(shapes.render(scenes, self.size))
        return self.split(pictures, rows, [question.split() for question in row_of], [[answer] for answer in dialogues.ANSWERS])
