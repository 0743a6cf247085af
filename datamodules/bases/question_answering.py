"""Pictures with questions and their answers: the base of such data sets, and the two worlds that are drawn from a seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from zoo.datamodules.bases.image_text import ImageTextData, padded
from zoo.datamodules.loading.splits import Images, Split
from zoo.spec import IGNORE, UNKNOWN_ANSWER, QuestionSpec


class Question(NamedTuple):
    """A question in words, the answer of each person who was asked (one, mostly), and what kind of question it is."""

    words: list[str]
    answers: Sequence[str]
    kind: str = ""


class QuestionData(ImageTextData):
    """Images, each with questions. A subclass implements ``build_spec`` and ``load_splits``, which calls ``encode_split``."""

    task = "question-answering"
    spec: QuestionSpec

    def encode_split(self, images: Images, pictures: Sequence[Sequence[Question]]) -> Split:
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
            said = [[answers.get(answer, UNKNOWN_ANSWER) for answer in question.answers] for question in asked]
            labels[row, : len(asked)] = torch.tensor([line + [IGNORE] * (people - len(line)) for line in said])
        columns = {"questions": questions, **({"kinds": kind_column} if kinds else {})}
        return Split(images, labels[..., 0] if people == 1 else labels, columns)

    def preview_texts(self, count: int) -> list[list[str]]:
        """The questions on each of the first training pictures, with their answers."""
        split = self.splits["train"]
        labels = split.labels if split.labels.dim() == 3 else split.labels[..., None]
        told = []
        for questions, answers in zip(split.columns["questions"][:count].tolist(), labels[:count].tolist(), strict=True):
            asked = [(" ".join(self.spec.decode(words)), said) for words, said in zip(questions, answers, strict=True)]
            told.append([f"{words}? {self._said(said)}" for words, said in asked if words])
        return told

    def _said(self, answers: list[int]) -> str:
        """The answers of all people, each once."""
        return "/".join(self.spec.answers[answer] for answer in dict.fromkeys(answers) if answer >= 0) or "-"

    def summarize(self) -> dict[str, Any]:
        """What is there, once ``setup`` has run: also how many questions have no answer that a model can give."""
        asked, outside = {}, {}
        for name, split in self.splits.items():
            answers = split.labels.flatten(2) if split.labels.dim() == 3 else split.labels[..., None]
            there = (answers != IGNORE).any(-1)
            asked[f"{name}_questions"] = int(there.sum())
            outside[f"{name}_outside"] = int((there & (answers < 0).all(-1)).sum())
        return {"answers": len(self.spec.answers), **asked, **outside, **super().summarize()}
