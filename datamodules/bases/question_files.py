"""Questions about pictures in files: what the readers of published layouts share."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch

from zoo.core.errors import UserError, some
from zoo.core.randomness import derive_seed
from zoo.core.ranks import rank_zero_print
from zoo.datamodules.bases.question_answering import Question, QuestionData
from zoo.datamodules.files.image_files import read_images
from zoo.datamodules.loading.splits import Split
from zoo.spec import ImageSpec, QuestionSpec
from zoo.text.tokenization import build_vocabulary

NAMED = 3  # of many, so many are named in a message


class QuestionedImage(NamedTuple):
    """An image file with the questions on it."""

    path: Path
    questions: list[Question]


class QuestionFiles(QuestionData):
    """Image files with questions, laid out as they were published. A subclass finds them (``load_annotations``).

    Words are those of the training questions. Questions without a word and pictures that cannot be read are left out with a
    warning.

    Args:
        shape: height and width that pictures are brought to.
        min_count: how often a word must be seen in training questions to be known.
        questions_per_sample: questions on a picture that are answered at once; a picture with more comes several times.
        memory_gb: decoded pictures up to this many gigabytes are held in memory; more are read again in every epoch.
    """

    kinds: tuple[str, ...] = ()

    def __init__(
        self,
        batch_size: int,
        seed: int,
        root: str,
        shape: tuple[int, int],
        augment: str,
        validation: float,
        min_count: int,
        questions_per_sample: int,
        memory_gb: float,
    ) -> None:
        super().__init__(batch_size, seed, root=root, size=0, augment=augment, validation=validation)
        for name, value in (("min_count", min_count), ("questions_per_sample", questions_per_sample), ("size", min(shape))):
            if value < 1:
                raise UserError(f"data.{name}={value}: must be at least 1")
        if self.root is None or not self.root.is_dir():
            raise UserError(
                f"data.root={root}: {'is not a folder' if root and self.root.exists() else 'there is no such folder'}"
            )
        self.shape, self.min_count, self.questions_per_sample, self.memory_gb = shape, min_count, questions_per_sample, memory_gb

    @abstractmethod
    def load_annotations(self) -> dict[str, list[QuestionedImage]]:
        """The pictures of each split with their questions; without ``val``, some of ``train`` are held out.

        Raises:
            UserError: a file is missing or not as published.
        """

    @abstractmethod
    def build_answers(self, train: list[QuestionedImage]) -> tuple[str, ...]:
        """The answers that a model can give."""

    @cached_property
    def annotations(self) -> dict[str, list[QuestionedImage]]:
        """What ``load_annotations`` gives, without questions that have no words, and with pictures for validation."""
        found: dict[str, list[QuestionedImage]] = {}
        empty = 0
        read = self.load_annotations()
        for name, pictures in read.items():
            if same := next((other for other in found if read[other] is pictures), None):  # testing on what validates
                found[name] = found[same]
                continue
            with_words = [QuestionedImage(path, [question for question in asked if question.words]) for path, asked in pictures]
            found[name] = [picture for picture in with_words if picture.questions]
            empty += sum(len(asked) for _, asked in pictures) - sum(len(asked) for _, asked in found[name])
            if not found[name]:
                raise UserError(f"{self.root}: has no question for {name}")
        if empty:
            _warn(f"{empty:,} questions without a word are left out")
        if "val" not in found:  # here, since a picture may become several samples
            train = found["train"]
            generator = torch.Generator().manual_seed(derive_seed(self.seed, "val"))
            held_out = set(
                torch.randperm(len(train), generator=generator)[: max(1, round(self.validation * len(train)))].tolist()
            )
            found["val"] = [picture for place, picture in enumerate(train) if place in held_out]
            found["train"] = [picture for place, picture in enumerate(train) if place not in held_out]
            if not found["train"]:
                raise UserError(f"{self.root}: no picture is left for training: data.validation={self.validation} is too large")
        return found

    def build_spec(self) -> QuestionSpec:
        questions = [question.words for pictures in self.annotations.values() for _, asked in pictures for question in asked]
        train = [question.words for _, asked in self.annotations["train"] for question in asked]
        return QuestionSpec(
            ImageSpec(3, *self.shape, classes=()),
            build_vocabulary(train, self.min_count),
            self.build_answers(self.annotations["train"]),
            max(map(len, questions)),
            self.kinds,
        )

    def load_splits(self) -> dict[str, Split]:
        splits: dict[str, Split] = {}
        for name, pictures in self.annotations.items():
            same = next((other for other in splits if self.annotations[other] is pictures), None)
            splits[name] = splits[same] if same else self._read(name, pictures)
        return splits

    def _read(self, name: str, pictures: list[QuestionedImage]) -> Split:
        paths = [path for path, _ in pictures]
        if missing := [path for path in paths if not path.is_file()]:
            raise UserError(f"{self.root}: questions of {name} are on {some(missing, NAMED)}: no such picture")
        images, readable = read_images(paths, self.shape, self.memory_gb)
        if unreadable := [path for path, good in zip(paths, readable.tolist(), strict=True) if not good]:
            if len(unreadable) == len(paths):
                raise UserError(f"{self.root}: no picture of {name} can be read, as {paths[0]}")
            _warn(f"{len(unreadable):,} of {len(paths):,} pictures cannot be read and are left out: {some(unreadable, NAMED)}")
        kept = [asked for (_, asked), good in zip(pictures, readable.tolist(), strict=True) if good]
        rows = [(place, start) for place, asked in enumerate(kept) for start in range(0, len(asked), self.questions_per_sample)]
        if len(rows) > len(kept):
            images = images.subset(torch.tensor([place for place, _ in rows]))
        return self.encode_split(images, [kept[place][start : start + self.questions_per_sample] for place, start in rows])


def frequent_answers(pictures: list[QuestionedImage], min_count: int, of: Callable[[Question], str]) -> tuple[str, ...]:
    """Answers to at least so many questions, the most frequent first, ties in alphabetical order.

    Raises:
        UserError: there is none.
    """
    counts = Counter(of(question) for _, asked in pictures for question in asked)
    kept = [answer for answer, count in counts.items() if count >= min_count]
    if not kept:
        raise UserError(
            f"data.min_answer_count={min_count}: no answer is given so often, the most frequent {max(counts.values())} times"
        )
    return tuple(sorted(kept, key=lambda answer: (-counts[answer], answer)))


def by_picture(asked: Sequence[tuple[Path, Question]]) -> list[QuestionedImage]:
    """Questions gathered by their picture, in the order in which pictures come first."""
    gathered: dict[Path, list[Question]] = {}
    for path, question in asked:
        gathered.setdefault(path, []).append(question)
    return [QuestionedImage(path, questions) for path, questions in gathered.items()]


def _warn(text: str) -> None:
    rank_zero_print(f"warning: {text}")
