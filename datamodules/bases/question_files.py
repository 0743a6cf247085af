"""The base of question answering data in files: annotations, and folders of images."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch

from zoo.core.errors import UserError, some
from zoo.core.randomness import derive_seed
from zoo.core.ranks import rank_zero_print
from zoo.datamodules.bases.image_text_files import NAMED, ImageTextFiles, ReadImages
from zoo.datamodules.bases.options import require_at_least
from zoo.datamodules.bases.question_answering import Question, QuestionData
from zoo.datamodules.files.paths import select
from zoo.datamodules.loading.splits import Split
from zoo.spec import ImageSpec, QuestionSpec
from zoo.text.tokenization import build_vocabulary


class QuestionedImage(NamedTuple):
    """An image file with its questions."""

    path: Path
    questions: list[Question]


class QuestionFiles(ImageTextFiles, QuestionData):
    """Image files with questions. A subclass implements ``load_annotations`` and ``build_answers``.

    The vocabulary is that of the training questions. Questions without words or without an image are skipped with a warning.

    Args:
        questions_per_sample: maximum number of questions per sample; an image with more becomes several samples.
    """

    kinds: tuple[str, ...] = ()

    def __init__(
        self, batch_size: int, seed: int, root: str, min_count: int = 1, questions_per_sample: int = 10, **options: Any
    ) -> None:
        super().__init__(batch_size, seed, root, min_count=min_count, **options)
        require_at_least(1, questions_per_sample=questions_per_sample)
        self.questions_per_sample = questions_per_sample

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
        """What ``load_annotations`` returns, without questions that have no words or no image, and with a validation split."""
        found: dict[str, list[QuestionedImage]] = {}
        missing: list[str] = []
        wordless = 0
        for name, annotated in self.load_annotations().items():
            found[name], before = [], len(missing)
            for path, group in annotated:
                if not self.is_kept(str(path)):
                    continue
                if not path.is_file():
                    missing.append(path.name)
                    continue
                questions = [question for question in group if question.words]
                wordless += len(group) - len(questions)
                found[name] += [QuestionedImage(path, questions)] if questions else []
            if not found[name]:
                why = f": none of their images is there, such as {missing[-1]}" if len(missing) > before else ""
                raise UserError(f"{self.root}: has no questions for {name}{why}")
        left_out = [f"{len(missing):,} missing images ({some(missing, NAMED)})"] if missing else []
        left_out += [f"{wordless:,} questions without words"] if wordless else []
        if left_out:
            rank_zero_print(f"warning: {self.root}: skipped {' and '.join(left_out)}")
        if "val" not in found:  # here, since an image may become several samples
            train = found["train"]
            paths, seed = [image.path for image in train], derive_seed(self.seed, "hold out")
            held_out, rest = self.hold_out_by_name(paths, self.validation, seed, "data.validation")
            found["val"] = [train[index] for index in held_out.tolist()]
            found["train"] = [train[index] for index in rest.tolist()]
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
        read = self.read_images({name: [str(path) for path, _ in annotated] for name, annotated in self.annotations.items()})
        return {name: self._encode(self.annotations[name], each) for name, each in read.items()}

    def _encode(self, annotated: list[QuestionedImage], read: ReadImages) -> Split:
        kept = [group for (_, group), good in zip(annotated, read.readable.tolist(), strict=True) if good]
        rows = [(place, start) for place, group in enumerate(kept) for start in range(0, len(group), self.questions_per_sample)]
        places = torch.tensor([place for place, _ in rows])
        images = read.images.subset(places) if len(rows) > len(kept) else read.images
        split = self.encode_split(images, [kept[place][start : start + self.questions_per_sample] for place, start in rows])
        return replace(split, files=select(read.files, places.numpy()), digests=read.digests[places])


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
