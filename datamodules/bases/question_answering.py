"""The base of visual question answering data: images, each with questions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoo.datamodules.bases.image_text import ImageTextData, padded
from zoo.datamodules.loading.splits import Images, Split
from zoo.spec import IGNORE, UNKNOWN_ANSWER, QuestionSpec


class Question(NamedTuple):
    """A tokenized question, one answer or that of each annotator, and the kind of question."""

    words: list[str]
    answers: Sequence[str]
    kind: str = ""


class QuestionData(ImageTextData):
    """Images with questions. A subclass implements ``build_spec`` and ``load_splits``, which calls ``encode_split``.

    A batch has ``images``, uint8 [N, C, H, W]; ``questions``, int64 [N, Q, L]; ``labels``, int64 [N, Q], or [N, Q, people] with
    several annotators: ``IGNORE`` without a question, ``UNKNOWN_ANSWER`` for one that is not in the spec; and ``kinds``, int64
    [N, Q], if the spec has kinds.
    """

    task = "question-answering"
    spec: QuestionSpec

    def encode_split(self, images: Images, questions: Sequence[Sequence[Question]]) -> Split:
        """Encode the questions of each image."""
        spec = self.spec
        most, people = max(map(len, questions)), max(len(question.answers) for group in questions for question in group)
        encode_answers = self.answer_encoder()
        kinds = {kind: place for place, kind in enumerate(spec.kinds)}
        words = torch.zeros(len(questions), most, spec.length, dtype=torch.int64)
        labels = torch.full((len(questions), most, people), IGNORE)
        kind_column = torch.full((len(questions), most), IGNORE)
        for row, group in enumerate(questions):
            if not group:
                continue
            words[row, : len(group)] = padded([spec.encode(question.words) for question in group], spec.length)
            kind_column[row, : len(group)] = torch.tensor([kinds.get(question.kind, IGNORE) for question in group])
            indices = list(map(encode_answers, group))
            labels[row, : len(group)] = torch.tensor([line + [IGNORE] * (people - len(line)) for line in indices])
        columns = {"questions": words, **({"kinds": kind_column} if kinds else {})}
        return Split(images, labels[..., 0] if people == 1 else labels, columns)

    def answer_encoder(self) -> Callable[[Question], list[int]]:
        """A function that gives the index of each answer to a question, ``UNKNOWN_ANSWER`` for one that is not in the spec."""
        places = {answer: place for place, answer in enumerate(self.spec.answers)}
        return lambda question: [places.get(answer, UNKNOWN_ANSWER) for answer in question.answers]

    def preview_texts(self, chosen: Tensor) -> list[list[str]]:
        """The questions about each of these training images, with their answers."""
        split = self.splits["train"]
        labels = split.labels if split.labels.dim() == 3 else split.labels[..., None]
        texts = []
        for questions, answers in zip(split.columns["questions"][chosen].tolist(), labels[chosen].tolist(), strict=True):
            pairs = [(" ".join(self.spec.decode(words)), given) for words, given in zip(questions, answers, strict=True)]
            texts.append([f"{words}? {self._join_answers(given)}" for words, given in pairs if words])
        return texts

    def _join_answers(self, answers: list[int]) -> str:
        """The distinct answers of all annotators."""
        return "/".join(self.spec.answers[answer] for answer in dict.fromkeys(answers) if answer >= 0) or "-"

    def summarize(self) -> dict[str, Any]:
        """Answers, questions in each split, and how many have no answer in the spec (``outside``), once ``setup`` has run."""
        counts, outside = {}, {}
        for name, split in self.splits.items():
            answers = split.labels.flatten(2) if split.labels.dim() == 3 else split.labels[..., None]
            there = (answers != IGNORE).any(-1)
            counts[f"{name}_questions"] = int(there.sum())
            outside[f"{name}_outside"] = int((there & (answers < 0).all(-1)).sum())
        return {"answers": len(self.spec.answers), **counts, **outside, **super().summarize()}
