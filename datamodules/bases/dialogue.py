"""Pictures with dialogues about them: the base of such data sets, and the world of shapes, whose rounds speak of one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from zoo.datamodules.bases.image_text import ImageTextData, padded
from zoo.datamodules.loading.augment import Batch
from zoo.datamodules.loading.splits import Images, Split
from zoo.spec import END, IGNORE

Sentence = list[str]
NO_ROUND = -1  # in place of a question or an answer, where a dialogue has fewer rounds


@dataclass(frozen=True)
class DialogueSplit(Split):
    """Pictures with their rounds, of which a batch gets the words of the candidates that occur in it, each once.

    ``columns`` include ``candidates``, [N, R, K], rows of ``texts``, int64 [answers, A].
    """

    texts: Tensor = field(default_factory=lambda: torch.empty(0, 1, dtype=torch.int64))

    def batch(self, images: Tensor, indices: Tensor) -> Batch:
        batch = super().batch(images, indices)
        used, places = batch["candidates"].unique(return_inverse=True)
        return {**batch, "candidates": places, "candidate_words": self.texts[used]}


@dataclass(frozen=True)
class Dialogues:
    """N dialogues of up to R rounds, whose questions and answers are rows of lists in which each stands once.

    Attributes:
        captions: in words.
        questions, answers: int64 [N, R], ``NO_ROUND`` where there is none.
        candidates: of each round, rows of the list of answers, [N, R, K].
        right: which candidate is the answer, int64 [N, R], ``IGNORE`` where there is no round or nobody can tell.
        columns: what else is known of each, under its name in a batch.
    """

    captions: Sequence[Sentence]
    questions: Tensor
    answers: Tensor
    candidates: Tensor
    right: Tensor
    columns: dict[str, Tensor] = field(default_factory=dict)


class DialogueData(ImageTextData):
    """Pictures, each with a caption and rounds of question and answer. A batch is that of ``zoo.tasks.dialogue``.

    Attributes:
        max_length: words of a question or an answer that are read.
        max_caption_length: words of a caption that are read.
    """

    task = "dialogue"
    max_length: int
    max_caption_length: int

    def encode_split(self, images: Images, held: Dialogues, questions: Sequence[Sentence], answers: Sequence[Sentence]) -> Split:
        """The dialogues as places of words; ``questions`` and ``answers`` are the lists that their rows are of."""
        texts = self._places(answers, self.max_length, ended=True)
        words = {
            "captions": self._places(held.captions, self.max_caption_length, ended=True)[:-1],
            "questions": self._places(questions, self.max_length, ended=False)[held.questions],
            "answers": texts[held.answers],
        }
        return DialogueSplit(images, held.right, {**words, "candidates": held.candidates, **held.columns}, texts)

    def _places(self, sentences: Sequence[Sentence], max_length: int, ended: bool) -> Tensor:
        """Each sentence as places of words, and a row of ``PAD`` at the end, which ``NO_ROUND`` finds."""
        end = [END] if ended else []
        rows = [[*self.spec.encode(sentence[: max_length - len(end)]), *end] for sentence in sentences]
        return padded([*rows, []], max(map(len, rows), default=1) or 1)

    def preview_texts(self, count: int) -> list[list[str]]:
        """The caption of each of the first training pictures, and its questions with their answers."""
        columns = self.splits["train"].columns
        captions, questions, answers = (columns[name][:count].tolist() for name in ("captions", "questions", "answers"))
        say = self.spec.decode
        return [
            [
                " ".join(say(caption)),
                *(f"{' '.join(say(q))}? {' '.join(say(a))}" for q, a in zip(asked, said, strict=True) if a[0]),
            ]
            for caption, asked, said in zip(captions, questions, answers, strict=True)
        ]

    def summarize(self) -> dict[str, Any]:
        """What is there, once ``setup`` has run: answers, candidates a round, rounds a split, and so on."""
        rounds = {f"{name} rounds": int((split.labels != IGNORE).sum()) for name, split in self.splits.items()}
        return {"answers": len(self.spec.answers), "candidates": self.spec.candidates, **rounds, **super().summarize()}
