"""Scenes of colored shapes with captions, questions or dialogues whose answers are known."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zoo.core.errors import UserError
from zoo.datamodules.bases.captioning import CaptionData, CaptionedImages, Sentence
from zoo.datamodules.bases.dialogue import DialogueData, Dialogues
from zoo.datamodules.bases.question_answering import Question, QuestionData
from zoo.datamodules.loading.splits import ImagesInMemory, Split
from zoo.datamodules.worlds import dialogues, shapes
from zoo.datamodules.worlds import questions as shape_questions
from zoo.datamodules.worlds.captions import LONGEST, WORDS, is_true, write_captions
from zoo.registry.entry import register_data
from zoo.spec import SPECIAL_WORDS, CaptionSpec, DialogueSpec, ImageSpec, QuestionSpec


@register_data("shapes-captions", task="captioning", tags=["embedded", "color"], tiny={"num_images": 200})
class ShapesCaptions(CaptionData):
    """Colored shapes on a dark ground, with captions such as: a small red circle is left of a large striped square.

    Each caption is about the two most salient things, large ones first and then from left to right, and of any caption it can be
    told whether all that it states is true. The pictures are the same for every seed, and no two splits share one.

    Args:
        num_images: for training; there are 1,000 for validation and 1,000 for testing besides.
        captions_per_image: of each picture for training; those held out have five, to be compared with.
        max_objects: things in a picture, at most; from 1 to 5.
        size: pixels a side.
        augment: none, light, standard, strong, or a list as in crop:4,jitter.
    """

    HELD_OUT = 1000

    def __init__(
        self,
        batch_size: int,
        seed: int,
        num_images: int = 20_000,
        captions_per_image: int = 2,
        max_objects: int = 5,
        size: int = 64,
        augment: str = "none",
    ) -> None:
        super().__init__(batch_size, seed, root=None, size=size, augment=augment, validation=0.1)
        if not 1 <= max_objects <= shapes.MOST:
            raise UserError(f"data.max_objects={max_objects}: must be from 1 to {shapes.MOST}")
        if min(num_images, captions_per_image) < 1:
            raise UserError(
                f"data.num_images={num_images}, data.captions_per_image={captions_per_image}: both must be at least 1"
            )
        if size < shapes.SIDE // 2:
            raise UserError(f"data.size={size}: must be at least {shapes.SIDE // 2}, or no shape can be told from another")
        self.num_images, self.captions_per_image, self.max_objects = num_images, captions_per_image, max_objects
        self._scenes: list[tuple[shapes.Thing, ...]] = []

    def build_spec(self) -> CaptionSpec:
        return CaptionSpec(ImageSpec(3, self.size, self.size, classes=()), (*SPECIAL_WORDS, *WORDS), LONGEST + 1)

    def load_captions(self) -> dict[str, CaptionedImages]:
        told = {}
        self._scenes = []
        for name in shapes.SPLITS:
            pictures, captions = (self.num_images, self.captions_per_image) if name == "train" else (self.HELD_OUT, 5)
            scenes = shapes.draw_scenes(0, name, range(pictures), most=self.max_objects)
            things = scenes.things()
            self._scenes += things
            sentences = [
                [caption.split() for caption in write_captions(of_scene, key, captions)]
                for of_scene, key in zip(things, scenes.key.tolist(), strict=True)
            ]
            told[name] = CaptionedImages(ImagesInMemory(shapes.render(scenes, self.size)), sentences)
        return told

    def scenes(self, pictures: Tensor) -> list[tuple[shapes.Thing, ...]]:
        """What is in each of these pictures."""
        return [self._scenes[picture] for picture in pictures.tolist()]

    def true_captions(self, pictures: Tensor, captions: Sequence[Sentence]) -> list[bool]:
        """Whether all that each caption states of its picture holds."""
        return [is_true(" ".join(words), scene) for words, scene in zip(captions, self.scenes(pictures), strict=True)]


HELD_OUT = 1000  # pictures of the world of shapes for validation, and as many for testing
MOST_QUESTIONS = 24  # on a picture of it, since of a single shape not much can be asked


@register_data("shapes-questions", task="question-answering", tags=["embedded", "color"], tiny={"num_images": 200})
class ShapesQuestions(QuestionData):
    """Scenes of one to five shapes with questions whose answers cannot be guessed, of six kinds, three of them relational.

    Pictures and questions are drawn, always the same; no two splits share a picture.

    Args:
        num_images: for training; there are 1,000 for validation and 1,000 for testing besides.
        questions_per_image: on each picture.
        size: pixels a side.
        augment: none, light, standard, strong, or a list as in crop:2.
    """

    def __init__(
        self,
        batch_size: int,
        seed: int,
        num_images: int = 8000,
        questions_per_image: int = 6,
        size: int = 64,
        augment: str = "none",
    ) -> None:
        super().__init__(batch_size, seed, root=None, size=size, augment=augment, validation=0.5)
        if num_images < 1 or not 1 <= questions_per_image <= MOST_QUESTIONS:
            raise UserError(
                f"data.num_images={num_images}, data.questions_per_image={questions_per_image}: "
                f"must be at least 1, and from 1 to {MOST_QUESTIONS}"
            )
        if size < shapes.SIDE // 2:
            raise UserError(f"data.size={size}: must be at least {shapes.SIDE // 2}, or no shape can be told from another")
        self.numbers = {"train": num_images, "val": HELD_OUT, "test": HELD_OUT}
        self.questions_per_image = questions_per_image

    def build_spec(self) -> QuestionSpec:
        return QuestionSpec(
            ImageSpec(3, shapes.SIDE, shapes.SIDE, classes=()),
            (*SPECIAL_WORDS, *shape_questions.WORDS),
            shape_questions.ANSWERS,
            shape_questions.LONGEST,
            tuple(shape_questions.KINDS),
        )

    def load_splits(self) -> dict[str, Split]:
        return {name: self._draw(name, number) for name, number in self.numbers.items()}

    def _draw(self, name: str, number: int) -> Split:
        scenes = shapes.draw_scenes(0, name, range(number))  # one world for all runs, whatever their seed
        asked = [
            [
                Question(words.split(), [answer], kind)
                for words, answer, kind in shape_questions.ask_questions(things, key, self.questions_per_image)
            ]
            for things, key in zip(scenes.things(), scenes.key.tolist(), strict=True)
        ]
        return self.encode_split(ImagesInMemory(shapes.render(scenes, self.size)), asked)


@register_data("shapes-dialogues", task="dialogue", tags=["embedded", "color"], tiny={"num_images": 100})
class ShapesDialogues(DialogueData):
    """Colored shapes on a dark ground and dialogues such as: what color is it, red, and the one to its left, blue.

    There are 24 answers, all of them candidates in every round. It is told apart which rounds need the history: the same question
    has another answer after other rounds. The pictures are the same for every seed, and no two splits share one.

    Args:
        num_images: for training; there are as many for validation and for testing, but not more than 1,000 each.
        num_rounds: of each dialogue, from 1 to 10.
        size: pixels a side.
        augment: none, light, standard, strong, or a list as in crop:4,jitter.
    """

    HELD_OUT = 1000
    FEWEST = 3  # things in a picture, so that there is something to ask
    MOST_ROUNDS = 10
    max_length = dialogues.LONGEST + 1
    max_caption_length = dialogues.LONGEST + 1

    def __init__(
        self, batch_size: int, seed: int, num_images: int = 10_000, num_rounds: int = 8, size: int = 64, augment: str = "none"
    ) -> None:
        super().__init__(batch_size, seed, root=None, size=size, augment=augment, validation=0.1)
        if num_images < 1:
            raise UserError(f"data.num_images={num_images}: must be at least 1")
        if not 1 <= num_rounds <= self.MOST_ROUNDS:
            raise UserError(f"data.num_rounds={num_rounds}: must be from 1 to {self.MOST_ROUNDS}")
        if size < shapes.SIDE // 2:
            raise UserError(f"data.size={size}: must be at least {shapes.SIDE // 2}, or no shape can be told from another")
        self.num_images, self.num_rounds = num_images, num_rounds

    def build_spec(self) -> DialogueSpec:
        image = ImageSpec(3, self.size, self.size, classes=())
        answers = dialogues.ANSWERS
        vocabulary = (*SPECIAL_WORDS, *sorted({*dialogues.WORDS, *answers}))
        return DialogueSpec(image, vocabulary, answers, self.max_length, self.num_rounds, len(answers))

    def load_splits(self) -> dict[str, Split]:
        return {name: self._read(name) for name in shapes.SPLITS}

    def _read(self, name: str) -> Split:
        count = self.num_images if name == "train" else min(self.num_images, self.HELD_OUT)
        scenes = shapes.draw_scenes(0, name, range(count), fewest=self.FEWEST)
        held = [
            dialogues.hold_dialogue(things, key, self.num_rounds)
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
        return self.encode_split(
            pictures, rows, [question.split() for question in row_of], [[answer] for answer in dialogues.ANSWERS]
        )
