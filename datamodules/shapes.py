"""Scenes of colored shapes with labels, captions, questions or dialogues whose answers are known.

The scenes follow from the options and from the split alone: they are the same for every seed, and no two splits share one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from zoo.core.errors import UserError
from zoo.core.memory import require_memory
from zoo.datamodules.bases.captioning import CaptionData, CaptionedImages, Sentence
from zoo.datamodules.bases.dialogue import DialogueData, Dialogues
from zoo.datamodules.bases.images import ImageData
from zoo.datamodules.bases.multilabel import MultiLabelData
from zoo.datamodules.bases.options import require_at_least
from zoo.datamodules.bases.question_answering import Question, QuestionData
from zoo.datamodules.loading.splits import ImagesInMemory, Split
from zoo.datamodules.worlds import captions, dialogues, questions, shapes
from zoo.registry.entry import register_data
from zoo.spec import SPECIAL_WORDS, CaptionSpec, DialogueSpec, ImageSpec, MultiLabelSpec, QuestionSpec

MOST_QUESTIONS = 24  # about an image, since of a single shape not much can be asked
MOST_ROUNDS = 10  # of a dialogue
FEWEST_TO_TALK_ABOUT = 3  # objects in the scene of a dialogue


class ShapesData(ImageData):
    """Scenes of colored shapes on a dark ground.

    Args:
        num_images: training images.
        size: height and width in pixels.
        augment: none, light, standard, strong, or a list as in crop:4,jitter.
    """

    held_out = 1000  # images for validation at most, and as many for testing

    def __init__(self, batch_size: int, seed: int, num_images: int = 10_000, size: int = 64, augment: str = "none") -> None:
        super().__init__(batch_size, seed, size=size, augment=augment)
        require_at_least(1, num_images=num_images)
        if size < shapes.SIDE // 2:
            raise UserError(f"data.size={size}: must be at least {shapes.SIDE // 2}, or shapes cannot be distinguished")
        self.num_images, self.held_out = num_images, min(self.held_out, num_images)
        images = num_images + 2 * self.held_out
        require_memory(f"data.num_images={num_images}, data.size={size}", images * 3 * size**2, f"{images:,} images")

    @property
    def scene_spec(self) -> ImageSpec:
        return ImageSpec(3, self.size, self.size, classes=())

    def draw_scenes(self, split: str, **bounds: int) -> shapes.Scenes:
        """The scenes of a split; ``bounds`` of the number of objects are those of ``shapes.draw_scenes``."""
        return shapes.draw_scenes(0, split, range(self.num_images if split == "train" else self.held_out), **bounds)

    def render(self, scenes: shapes.Scenes) -> ImagesInMemory:
        return ImagesInMemory(shapes.render(scenes, self.size))


@register_data("shapes-labels", task="multilabel", tags=["offline", "color"], tiny={"num_images": 200})
class ShapesLabels(ShapesData, MultiLabelData):
    """Colored shapes with several labels each: the shapes and the colors that are in the image.

    Scenes have one to five objects, each of one of four shapes and seven colors.

    Args:
        num_images: number of training images; validation and testing have as many, up to 1,000 each.
        augment: none, light, standard, strong, or a list as in hflip,crop:2.
    """

    light = standard = "hflip"
    strong = "hflip,crop:2"

    def __init__(
        self, batch_size: int, seed: int, num_images: int = 6_000, size: int = 32, augment: str = "standard", **options: Any
    ) -> None:
        super().__init__(batch_size, seed, num_images, size, augment, **options)

    def build_spec(self) -> MultiLabelSpec:
        return MultiLabelSpec(*self.scene_spec.shape, classes=(*shapes.SHAPES, *shapes.COLORS))

    def load_splits(self) -> dict[str, Split]:
        return {name: self._draw(name) for name in shapes.SPLITS}

    def _draw(self, name: str) -> Split:
        scenes = self.draw_scenes(name)
        is_there = torch.arange(shapes.MOST) < scenes.count[:, None]
        found = [
            (one_hot(getattr(scenes, kind), len(names)) * is_there[:, :, None]).amax(1)
            for kind, names in (("shape", shapes.SHAPES), ("color", shapes.COLORS))
        ]
        return Split(self.render(scenes), torch.cat(found, 1).to(torch.int8))


@register_data("shapes-captions", task="captioning", tags=["offline", "color"], tiny={"num_images": 200}, num_images=20_000)
class ShapesCaptions(ShapesData, CaptionData):
    """Colored shapes with captions: "a small red circle is left of a large striped square".

    Each caption is about the two most salient objects, large ones first and then from left to right. Whether a caption is true
    of its image can be computed (``true_captions``).

    Args:
        num_images: number of training images; validation and testing have as many, up to 1,000 each.
        captions_per_image: captions of each training image; validation and test images have five references.
        max_objects: maximum number of objects in an image, from 1 to 5.
    """

    def __init__(self, batch_size: int, seed: int, captions_per_image: int = 2, max_objects: int = 5, **options: Any) -> None:
        super().__init__(batch_size, seed, **options)
        require_at_least(1, captions_per_image=captions_per_image)
        if not 1 <= max_objects <= shapes.MOST:
            raise UserError(f"data.max_objects={max_objects}: must be from 1 to {shapes.MOST}")
        self.captions_per_image, self.max_objects = captions_per_image, max_objects
        self._scenes: list[tuple[shapes.Thing, ...]] = []

    def build_spec(self) -> CaptionSpec:
        return CaptionSpec(self.scene_spec, (*SPECIAL_WORDS, *captions.WORDS), captions.LONGEST + 1)

    def load_captions(self) -> dict[str, CaptionedImages]:
        splits = {}
        self._scenes = []
        for name in shapes.SPLITS:
            scenes = self.draw_scenes(name, most=self.max_objects)
            things = scenes.things()
            self._scenes += things
            count = self.captions_per_image if name == "train" else 5
            sentences = [
                [caption.split() for caption in captions.write_captions(scene, key, count)]
                for scene, key in zip(things, scenes.key.tolist(), strict=True)
            ]
            splits[name] = CaptionedImages(self.render(scenes), sentences)
        return splits

    def scenes(self, image_id: Tensor) -> list[tuple[shapes.Thing, ...]]:
        """The objects in each of these images."""
        return [self._scenes[index] for index in image_id.tolist()]

    def true_captions(self, image_id: Tensor, sentences: Sequence[Sentence]) -> list[bool]:
        """Whether everything that each caption states about its image is true."""
        return [captions.is_true(" ".join(words), scene) for words, scene in zip(sentences, self.scenes(image_id), strict=True)]


@register_data(
    "shapes-questions", task="question-answering", tags=["offline", "color"], tiny={"num_images": 200}, num_images=8000
)
class ShapesQuestions(ShapesData, QuestionData):
    """Colored shapes with questions: six kinds, three of them relational.

    Scenes have one to five shapes, and an answer is hard to guess without the image.

    Args:
        num_images: number of training images; validation and testing have as many, up to 1,000 each.
        questions_per_image: number of questions about each image, from 1 to 24.
    """

    def __init__(self, batch_size: int, seed: int, questions_per_image: int = 6, **options: Any) -> None:
        super().__init__(batch_size, seed, **options)
        if not 1 <= questions_per_image <= MOST_QUESTIONS:
            raise UserError(f"data.questions_per_image={questions_per_image}: must be from 1 to {MOST_QUESTIONS}")
        self.questions_per_image = questions_per_image

    def build_spec(self) -> QuestionSpec:
        vocabulary = (*SPECIAL_WORDS, *questions.WORDS)
        return QuestionSpec(self.scene_spec, vocabulary, questions.ANSWERS, questions.LONGEST, tuple(questions.KINDS))

    def load_splits(self) -> dict[str, Split]:
        return {name: self._draw(name) for name in shapes.SPLITS}

    def _draw(self, name: str) -> Split:
        scenes = self.draw_scenes(name)
        annotations = [
            [
                Question(words.split(), [answer], kind)
                for words, answer, kind in questions.ask_questions(things, key, self.questions_per_image)
            ]
            for things, key in zip(scenes.things(), scenes.key.tolist(), strict=True)
        ]
        return self.encode_split(self.render(scenes), annotations)


@register_data("shapes-dialogues", task="dialogue", tags=["offline", "color"], tiny={"num_images": 100})
class ShapesDialogues(ShapesData, DialogueData):
    """Colored shapes with dialogues: "what color is it", "red", "and the one to its left", "blue".

    There are 24 answers, all of them candidates in every round. Rounds that need the history are marked (``needs_history``): the
    same question has another answer after other rounds.

    Args:
        num_images: number of training images; validation and testing have as many, up to 1,000 each.
        num_rounds: rounds of each dialogue, from 1 to 10.
    """

    max_length = max_caption_length = dialogues.LONGEST + 1

    def __init__(self, batch_size: int, seed: int, num_rounds: int = 8, **options: Any) -> None:
        super().__init__(batch_size, seed, **options)
        if not 1 <= num_rounds <= MOST_ROUNDS:
            raise UserError(f"data.num_rounds={num_rounds}: must be from 1 to {MOST_ROUNDS}")
        self.num_rounds = num_rounds

    def build_spec(self) -> DialogueSpec:
        answers = dialogues.ANSWERS
        vocabulary = (*SPECIAL_WORDS, *sorted({*dialogues.WORDS, *answers}))
        return DialogueSpec(self.scene_spec, vocabulary, answers, self.max_length, self.num_rounds, len(answers))

    def load_splits(self) -> dict[str, Split]:
        return {name: self._draw(name) for name in shapes.SPLITS}

    def _draw(self, name: str) -> Split:
        scenes = self.draw_scenes(name, fewest=FEWEST_TO_TALK_ABOUT)
        talks = [
            dialogues.hold_dialogue(things, key, self.num_rounds)
            for things, key in zip(scenes.things(), scenes.key.tolist(), strict=True)
        ]
        row_of: dict[str, int] = {}
        question_rows = [[row_of.setdefault(r.question, len(row_of)) for r in talk.rounds] for talk in talks]
        answers = torch.tensor([[dialogues.ANSWERS.index(r.answer) for r in talk.rounds] for talk in talks])
        needs_history = torch.tensor([[r.needs_history for r in talk.rounds] for talk in talks])
        candidates = torch.arange(len(dialogues.ANSWERS)).expand(*answers.shape, -1)
        rows = Dialogues(
            [talk.caption.split() for talk in talks], torch.tensor(question_rows), answers, candidates, answers,
            {"needs_history": needs_history},
        )  # fmt: skip
        texts = [question.split() for question in row_of], [[answer] for answer in dialogues.ANSWERS]
        return self.encode_split(self.render(scenes), rows, *texts)
