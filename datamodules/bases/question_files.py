"""The base of question answering data in files: annotations, and folders of images."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch

from zoo.core.errors import UserError, some
from zoo.core.files import require_folder
from zoo.core.ranks import rank_zero_print
from zoo.datamodules.bases.options import require_at_least
from zoo.datamodules.bases.question_answering import Question, QuestionData
from zoo.datamodules.files.image_files import read_images
from zoo.datamodules.loading.splits import Split
from zoo.spec import ImageSpec, QuestionSpec
from zoo.text.tokenization import build_vocabulary

NAMED = 3  # files named in a message


class QuestionedImage(NamedTuple):
    """An image file with its questions."""

    path: Path
    questions: list[Question]


class QuestionFiles(QuestionData):
    """Image files with questions. A subclass implements ``load_annotations`` and ``build_answers``.

    The vocabulary is that of the training questions. Questions without a word and images that cannot be read are left out with a
    warning.

    Args:
        root: the folder, laid out as it was published.
        size: pixels a side; images are resized to cover it and center-cropped.
        augment: none, light, standard, strong, or a list as in crop:4; none allows cached features of a frozen encoder.
        min_count: occurrences in training questions that a word needs to be in the vocabulary.
        questions_per_sample: maximum number of questions per sample; an image with more becomes several samples.
        memory_gb: decoded images up to this many gigabytes are held in memory; more are decoded again in every epoch.
    """

    kinds: tuple[str, ...] = ()
    aspect: float = 1  # width over height

    def __init__(
        self,
        batch_size: int,
        seed: int,
        root: str,
        size: int = 224,
        augment: str = "none",
        min_count: int = 1,
        questions_per_sample: int = 10,
        memory_gb: float = 2.0,
    ) -> None:
        super().__init__(batch_size, seed, root, augment=augment)
        require_at_least(1, size=size, min_count=min_count, questions_per_sample=questions_per_sample)
        require_folder(f"data.root={self.root}", self.root)
        self.shape = size, int(size * self.aspect)
        self.min_count, self.questions_per_sample, self.memory_gb = min_count, questions_per_sample, memory_gb

    @abstractmethod
    def load_annotations(self) -> dict[str, list[QuestionedImage]]:
        """The images of each split with their questions, the splits as in ``load_splits``.

        Raises:
            UserError: a file is missing or laid out otherwise.
        """

    @abstractmethod
    def build_answers(self, train: list[QuestionedImage]) -> tuple[str, ...]:
        """The answers to choose from."""

    @cached_property
    def annotations(self) -> dict[str, list[QuestionedImage]]:
        """What ``load_annotations`` returns, without questions that have no words, and with a validation split."""
        found: dict[str, list[QuestionedImage]] = {}
        empty = 0
        for name, annotated in self.load_annotations().items():
            with_words = [QuestionedImage(path, [question for question in group if question.words]) for path, group in annotated]
            found[name] = [image for image in with_words if image.questions]
            empty += sum(len(group) for _, group in annotated) - sum(len(group) for _, group in found[name])
            if not found[name]:
                raise UserError(f"{self.root}: has no questions for {name}")
        if empty:
            _warn(f"{empty:,} questions without words are skipped")
        if "val" not in found:  # here, since an image may become several samples
            train = found["train"]
            held_out, rest = self.hold_out(train)
            found["val"] = [train[index] for index in held_out.tolist()]
            found["train"] = [train[index] for index in rest.tolist()]
            if not found["train"]:
                raise UserError(f"{self.root}: no image is left for training: data.validation={self.validation} is too large")
        return found

    def build_spec(self) -> QuestionSpec:
        questions = [question.words for annotated in self.annotations.values() for _, group in annotated for question in group]
        train = [question.words for _, group in self.annotations["train"] for question in group]
        return QuestionSpec(
            ImageSpec(3, *self.shape, classes=()),
            build_vocabulary(train, self.min_count),
            self.build_answers(self.annotations["train"]),
            max(map(len, questions)),
            self.kinds,
        )

    def load_splits(self) -> dict[str, Split]:
        return {name: self._read(name, annotated) for name, annotated in self.annotations.items()}

    def _read(self, name: str, annotated: list[QuestionedImage]) -> Split:
        paths = [path for path, _ in annotated]
        if missing := [path for path in paths if not path.is_file()]:
            raise UserError(f"{self.root}: questions of {name} are on {some(missing, NAMED)}: no such image")
        images, readable = read_images(paths, self.shape, self.memory_gb)
        if unreadable := [path for path, good in zip(paths, readable.tolist(), strict=True) if not good]:
            if len(unreadable) == len(paths):
                raise UserError(f"{self.root}: no image of {name} can be read, such as {paths[0]}")
            _warn(f"{len(unreadable):,} of {len(paths):,} images cannot be read and are skipped: {some(unreadable, NAMED)}")
        kept = [group for (_, group), good in zip(annotated, readable.tolist(), strict=True) if good]
        rows = [(place, start) for place, group in enumerate(kept) for start in range(0, len(group), self.questions_per_sample)]
        if len(rows) > len(kept):
            images = images.subset(torch.tensor([place for place, _ in rows]))
        return self.encode_split(images, [kept[place][start : start + self.questions_per_sample] for place, start in rows])


def frequent_answers(annotated: list[QuestionedImage], min_count: int, answer_of: Callable[[Question], str]) -> tuple[str, ...]:
    """Answers to at least ``min_count`` questions, the most frequent first, ties in alphabetical order.

    Args:
        answer_of: which answer of a question counts.

    Raises:
        UserError: there is none.
    """
    counts = Counter(answer_of(question) for _, group in annotated for question in group)
    kept = [answer for answer, count in counts.items() if count >= min_count]
    if not kept:
        raise UserError(
            f"data.min_answer_count={min_count}: no answer occurs that often, the most frequent one {max(counts.values())} times"
        )
    return tuple(sorted(kept, key=lambda answer: (-counts[answer], answer)))


def group_by_image(pairs: Sequence[tuple[Path, Question]]) -> list[QuestionedImage]:
    """Group questions by their image, in the order in which the images first occur."""
    gathered: dict[Path, list[Question]] = {}
    for path, question in pairs:
        gathered.setdefault(path, []).append(question)
    return [QuestionedImage(path, questions) for path, questions in gathered.items()]


def _warn(text: str) -> None:
    rank_zero_print(f"warning: {text}")
