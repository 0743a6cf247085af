"""Specs of images with text: captions, questions, dialogues and instructions, in words of a vocabulary."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile

from zoo.spec.images import ImageSpec

UNKNOWN_ANSWER = -1  # label of an answer that is not in the spec: ignored in training, wrong in evaluation
PAD, START, END, UNKNOWN = range(4)  # indices in every vocabulary of words
SPECIAL_WORDS = ("<pad>", "<start>", "<end>", "<unknown>")


@dataclass(frozen=True)
class ImageTextSpec:
    """Images of one size, and words, each encoded as its index into ``vocabulary``, which begins with ``SPECIAL_WORDS``.

    The base of the specs for images with text. ``image`` has no classes.
    """

    image: ImageSpec
    vocabulary: tuple[str, ...]

    def __post_init__(self) -> None:
        image = ImageSpec(**self.image) if isinstance(self.image, dict) else self.image  # a checkpoint has plain data
        object.__setattr__(self, "image", image)
        for name, value in vars(self).items():
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))
        if self.vocabulary[: len(SPECIAL_WORDS)] != SPECIAL_WORDS:
            raise ValueError(f"a vocabulary of words begins with {', '.join(SPECIAL_WORDS)}")

    @property
    def columns(self) -> dict[str, int]:
        """The columns of a batch besides its images, at least, with the number of values that each may take, from 0.

        A column is int64, [N, ...]; ``IGNORE`` or, among words, ``PAD`` stands for what is missing.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say what its columns are")

    def encode(self, words: Iterable[str]) -> list[int]:
        """The index of each word, ``UNKNOWN`` for one outside the vocabulary."""
        return [self._places.get(word, UNKNOWN) for word in words]

    def decode(self, places: Iterable[int]) -> list[str]:
        """The words up to the first ``END`` or ``PAD``, without a ``START`` in front."""
        kept = takewhile(lambda place: place not in (END, PAD), places)
        return [self.vocabulary[place] for place in kept if place != START]

    @cached_property
    def _places(self) -> dict[str, int]:
        return {word: place for place, word in enumerate(self.vocabulary)}


@dataclass(frozen=True)
class CaptionSpec(ImageTextSpec):
    """Images, each with captions; ``length`` is that of the longest in words, ``END`` included."""

    length: int

    @property
    def columns(self) -> dict[str, int]:
        return {"labels": len(self.vocabulary)}


@dataclass(frozen=True)
class QuestionSpec(ImageTextSpec):
    """Images with questions of at most ``length`` words, each with one of ``answers``.

    ``kinds`` of questions, as in relational and non-relational, have their own accuracy; there may be none.
    """

    answers: tuple[str, ...]
    length: int
    kinds: tuple[str, ...] = ()

    @property
    def columns(self) -> dict[str, int]:
        kinds = {"kinds": len(self.kinds)} if self.kinds else {}
        return {"labels": len(self.answers), "questions": len(self.vocabulary), **kinds}


@dataclass(frozen=True)
class DialogueSpec(ImageTextSpec):
    """Images, each with a caption and up to ``rounds`` of question and answer.

    ``answers`` are those of the training dialogues, the most frequent first. ``candidates`` is their number in each round.
    ``length`` is that of the longest caption, question or answer in words, ``END`` included.
    """

    answers: tuple[str, ...]
    length: int
    rounds: int
    candidates: int

    @property
    def columns(self) -> dict[str, int]:
        return {"labels": self.candidates, **dict.fromkeys(("captions", "questions", "answers"), len(self.vocabulary))}


@dataclass(frozen=True)
class NavigationSpec(ImageTextSpec):
    """Views from inside an environment, with instructions of at most ``length`` words, ``END`` included.

    ``actions`` are the choices at each step, the last of them to stop; an episode ends after at most ``steps``. It succeeds less
    than ``success_distance`` from the goal, in ``unit``; if ``requires_stop``, the agent must have stopped there.

    If ``panoramic``, actions are the directions in which one can go from where one is, which differ from place to place (Fried et
    al. 2018, arXiv:1806.02724): a view is not of pixels, but has a column of features for each action, [features, 1, actions],
    zero where there is no such action.
    """

    actions: tuple[str, ...]
    length: int
    steps: int
    panoramic: bool = False
    success_distance: float = 1.0
    requires_stop: bool = True
    unit: str = "steps"
