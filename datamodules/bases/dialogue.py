"""The base of visual dialogue data: images, each with a caption and rounds of question and answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from zoo.datamodules.bases.image_text import ImageTextData, padded
from zoo.datamodules.loading.loader import Batch
from zoo.datamodules.loading.splits import Images, Split
from zoo.spec import END, IGNORE

Sentence = list[str]
NO_ROUND = -1  # for the question and the answer of rounds that a dialogue does not have


@dataclass(frozen=True)
class DialogueSplit(Split):
    """Images with dialogues. A batch gets the words of each candidate that occurs in it once, as ``candidate_words``.

    ``columns`` include ``candidates``, [N, R, K], rows of ``texts``, int64 [answers, A].
    """

    texts: Tensor = field(default_factory=lambda: torch.empty(0, 1, dtype=torch.int64))

    def batch(self, images: Tensor, indices: Tensor) -> Batch:
        batch = super().batch(images, indices)
        used, places = batch["candidates"].unique(return_inverse=True)
        return {**batch, "candidates": places, "candidate_words": self.texts[used]}


@dataclass(frozen=True)
class Dialogues:
    """N dialogues of up to R rounds; questions and answers are indices into lists of distinct texts.

    Attributes:
        captions: tokenized.
        questions, answers: int64 [N, R], ``NO_ROUND`` where there is none.
        candidates: of each round, indices of answers, [N, R, K].
        labels: index of the correct candidate, int64 [N, R], ``IGNORE`` without a round or a correct candidate.
        columns: further columns of a batch by name, [N, ...].
    """

    captions: Sequence[Sentence]
    questions: Tensor
    answers: Tensor
    candidates: Tensor
    labels: Tensor
    columns: dict[str, Tensor] = field(default_factory=dict)


class DialogueData(ImageTextData):
    """Images with dialogues. A subclass implements ``build_spec`` and ``load_splits``, which calls ``encode_split``.

    For the columns of a batch see ``zoo.tasks.dialogue``.

    Attributes:
        max_length: tokens to which questions and answers are truncated, ``END`` included.
        max_caption_length: tokens to which captions are truncated, ``END`` included.
    """

    task = "dialogue"
    max_length: int
    max_caption_length: int

    def encode_split(
        self, images: Images, dialogues: Dialogues, questions: Sequence[Sentence], answers: Sequence[Sentence]
    ) -> Split:
        """Encode dialogues whose indices are into ``questions`` and ``answers``, tokenized."""
        texts = self._tokens(answers, self.max_length, ended=True)
        words = {
            "captions": self._tokens(dialogues.captions, self.max_caption_length, ended=True)[:-1],
            "questions": self._tokens(questions, self.max_length, ended=False)[dialogues.questions],
            "answers": texts[dialogues.answers],
        }
        return DialogueSplit(images, dialogues.labels, {**words, "candidates": dialogues.candidates, **dialogues.columns}, texts)

    def _tokens(self, sentences: Sequence[Sentence], max_length: int, ended: bool) -> Tensor:
        """Each sentence as token indices, and a row of ``PAD`` at the end, which ``NO_ROUND`` selects."""
        end = [END] if ended else []
        rows = [[*self.spec.encode(sentence[: max_length - len(end)]), *end] for sentence in sentences]
        return padded([*rows, []], max(map(len, rows), default=1) or 1)

    def preview_texts(self, chosen: Tensor) -> list[list[str]]:
        """The caption of each of these training images, and its questions with their answers."""
        columns = self.splits["train"].columns
        captions, questions, answers = (columns[name][chosen].tolist() for name in ("captions", "questions", "answers"))
        decode = self.spec.decode
        return [
            [
                " ".join(decode(caption)),
                *(f"{' '.join(decode(q))}? {' '.join(decode(a))}" for q, a in zip(queries, replies, strict=True) if a[0]),
            ]
            for caption, queries, replies in zip(captions, questions, answers, strict=True)
        ]

    def summarize(self) -> dict[str, Any]:
        """Answers, candidates per round, rounds per split, and the summary of ``ImageTextData``, after ``setup``."""
        rounds = {f"{name} rounds": int((split.labels != IGNORE).sum()) for name, split in self.splits.items()}
        return {"answers": len(self.spec.answers), "candidates": self.spec.candidates, **rounds, **super().summarize()}
