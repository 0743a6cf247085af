"""What a trained language model writes: needs the run folder and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from zoo.core.errors import UserError
from zoo.registry.registry import Registry
from zoo.tasks.decoding import Sampling, beam_search, greedy, sample
from zoo.tasks.language_modeling import LanguageModel
from zoo.training.building import load_task
from zoo.training.checkpoints import read_checkpoint


class Writer:
    """A trained language model, ready to write.

    Raises:
        UserError: the checkpoint is damaged, or is not of a language model.
    """

    def __init__(self, registry: Registry, checkpoint_file: Path) -> None:
        task, run = load_task(registry, read_checkpoint(checkpoint_file), checkpoint_file)
        if not isinstance(task, LanguageModel):
            raise UserError(f"{run.model['name']} is for {task.task} and writes no text: zoo predict says what is in a picture")
        self.task = task.to("cuda" if torch.cuda.is_available() else "cpu")

    def sample(self, prompt: str, length: int, samples: int, sampling: Sampling, seed: int) -> Iterator[list[str]]:
        """One more character of each of several texts at a time."""
        return map(list, map(self._characters, sample(self.task.decode, self._prompt(prompt, samples), length, sampling, seed)))

    def greedy(self, prompt: str, length: int) -> Iterator[list[str]]:
        """The likeliest character, one at a time."""
        return map(list, map(self._characters, greedy(self.task.decode, self._prompt(prompt, 1), length)))

    def beam(self, prompt: str, length: int, beams: int) -> list[tuple[str, float]]:
        """The likeliest texts that beam search finds, the likeliest first, with their log-probabilities."""
        texts, totals = beam_search(self.task.decode, self.task.select_rows, self._prompt(prompt, 1), length, beams)
        found = zip(texts[0], totals[0].tolist(), strict=True)
        return [(self._characters(text), total) for text, total in found if total > -torch.inf]

    def _prompt(self, text: str, rows: int) -> torch.Tensor:
        """int64 [rows, T]; without a prompt a new line, as in front of a text, or the first character that there is."""
        vocabulary = self.task.spec.vocabulary
        text = text or ("\n" if "\n" in vocabulary else vocabulary[0])
        places = self.task.spec.encode(text, f"--prompt {text!r}")
        return torch.tensor([places], device=self.task.device).expand(rows, -1)

    def _characters(self, places: torch.Tensor) -> str:
        return self.task.spec.decode(places.tolist())
