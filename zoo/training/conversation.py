"""A dialogue with a trained model about an image: needs the run folder and nothing else."""

from __future__ import annotations

import torch

from zoo.core.errors import UserError, did_you_mean, some
from zoo.spec import END, UNKNOWN, DialogueSpec
from zoo.tasks.dialogue import VisualDialogue
from zoo.text.tokenization import tokenize
from zoo.training.prediction import ImageInput, read_one


class Unanswered(UserError):
    """A question that cannot be answered, with the reason; the dialogue can go on."""


class Conversation:
    """An image with the rounds of a dialogue about it.

    Args:
        task: a model for dialogue.
        image: as ``predict`` takes one.
        caption: opens the dialogue; may be empty.

    Raises:
        UserError: the image cannot be read, or the caption has unknown words.
    """

    def __init__(self, task: VisualDialogue, image: ImageInput, caption: str = "") -> None:
        self.task = task
        self.spec: DialogueSpec = self.task.spec
        words = tokenize(caption)
        if unknown := self.unknown_words(words):
            raise UserError(f"--caption has unknown words: {some(map(repr, unknown))}")
        self.pixels = read_one(image, self.spec.image)
        self.caption = [*self.spec.encode(words), END]
        self.rounds: list[tuple[list[int], list[int]]] = []

    def unknown_words(self, words: list[str]) -> list[str]:
        """The words outside the vocabulary, each once."""
        places = self.spec.encode(words)
        return list(dict.fromkeys(word for word, place in zip(words, places, strict=True) if place == UNKNOWN))

    def ask(self, question: str) -> str:
        """Answer a question given the previous rounds, and add it to them.

        Raises:
            Unanswered: it has no words, or unknown ones; it is not added then.
        """
        words = tokenize(question)
        if not words:
            raise Unanswered("ask a question about the image")
        if unknown := self.unknown_words(words):
            hint = did_you_mean(unknown[0], self.spec.vocabulary)
            raise Unanswered(f"unknown words {some(map(repr, unknown))}{hint or ': rephrase the question'}")
        asked = self.spec.encode(words)
        with torch.inference_mode():
            answer = self.task.generate_answer(self._batch([*self.rounds, (asked, [])]))
        self.rounds.append((asked, [*self.spec.encode(answer), END]))
        return " ".join(answer).replace(" n't", "n't").replace(" '", "'")

    def _batch(self, rounds: list[tuple[list[int], list[int]]]) -> dict[str, torch.Tensor]:
        """A batch of one dialogue, whose last question is to be answered."""
        questions, answers = (
            torch.nn.utils.rnn.pad_sequence([torch.tensor(row, dtype=torch.int64) for row in rows], batch_first=True)[None]
            for rows in zip(*rounds, strict=True)
        )
        batch = {
            "images": self.pixels[None],
            "captions": torch.tensor([self.caption], dtype=torch.int64),
            "questions": questions,
            "answers": answers,
        }
        return {name: value.to(self.task.device) for name, value in batch.items()}
