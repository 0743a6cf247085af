"""The base of text data: a text, split by position, as characters."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, Literal

import torch

from zoo.core.errors import UserError
from zoo.core.violation import require
from zoo.datamodules.bases.data_module import DataModule, Preview
from zoo.datamodules.loading.loader import Batch, BatchLoader, placement
from zoo.datamodules.loading.text_chunks import HeldOutTextLoader, StreamLoader, WindowLoader, describe_fitting
from zoo.spec import IGNORE, TextSpec

MOST_HELD_OUT = 0.4  # of the text for validation, and as much for the test
PREVIEWED = 1000  # characters


class TextData(DataModule):
    """Text, split by position: the last part for testing, the one before for validation. A subclass implements ``load_text``.

    Several texts are split each for itself, so that one that comes or goes moves nothing of the others.

    Args:
        batch_size: rows of text on each device.
        seed: of where rows and windows begin.
        seq_len: characters per chunk, the length of backpropagation through time; 0 takes whole rows.
        order: stream, rows that continue from batch to batch; or windows, chunks at random positions.
        held_out: fraction of the text for validation, and as much for testing; 1 uses the whole text for testing.
    """

    task = "language-modeling"
    has_samples = False
    content = "texts"

    root: Path | None = None

    def __init__(
        self,
        batch_size: int,
        seed: int,
        seq_len: int = 128,
        order: Literal["stream", "windows"] = "stream",
        held_out: float = 0.05,
    ) -> None:
        super().__init__()
        if not (0 < held_out <= MOST_HELD_OUT or held_out == 1):
            raise UserError(
                f"data.held_out={held_out}: must be above 0 and at most {MOST_HELD_OUT}, or 1 to test on the whole text"
            )
        if seq_len < 0:
            raise UserError(f"data.seq_len={seq_len}: must be 0 (whole rows) or a number of characters, such as {-seq_len}")
        if order == "windows" and seq_len == 0:
            raise UserError("data.seq_len=0: windows need a length, such as 128; whole rows need data.order=stream")
        self.batch_size, self.seed, self.seq_len, self.order, self.held_out = batch_size, seed, seq_len, order, held_out
        self._texts: list[str] = []
        self._spec: TextSpec | None = None

    @abstractmethod
    def load_text(self) -> str:
        """The whole text."""

    def load_texts(self) -> list[str]:
        """The parts of the text that are split each for itself."""
        return [self.load_text()]

    @property
    def spec(self) -> TextSpec:
        """The characters of the text, in Unicode order."""
        if self._spec is None:
            self._spec = TextSpec(tuple(sorted(set(self._whole_text()))))
        return self._spec

    def _whole_text(self) -> str:
        self._texts = self._texts or self.load_texts()
        return "\n".join(self._texts)

    def setup(self, stage: str | None = None) -> None:
        if self.splits:
            return
        text = self._whole_text()
        if not text:
            raise UserError(f"{self.root or type(self).__name__}: is empty: there is no text to train on")
        kind = torch.uint8 if len(self.spec.vocabulary) <= 256 else torch.int32
        parts = ("\n".join(filter(None, pieces)) for pieces in zip(*map(self._split, self._texts), strict=True))
        train, val, test = (torch.tensor(self.spec.encode(part), dtype=kind) for part in parts)
        if len(test) < 2:
            raise UserError(f"{self.root or type(self).__name__}: has only {len(text):,} characters, too few to hold some out")
        self.splits = {"train": train, "val": val, "test": test}

    def _split(self, text: str) -> tuple[str, str, str]:
        """Its parts for training, validation and testing."""
        length = round(self.held_out * len(text))
        test = len(text) - length
        val = test if self.held_out == 1 else test - length
        return text[:val], text[val:test], text[test:]

    def require_compatible(self, spec: TextSpec, name: str) -> None:
        """Encode characters as ``spec`` does, for a model that was trained with it.

        Raises:
            UserError: characters that the model does not know.
        """
        if spec != self.spec:
            places = torch.tensor(spec.encode("".join(self.spec.vocabulary), name))
            self.splits = {split: places[text.long()] for split, text in self.splits.items()}
            self._spec = spec

    def build_loader(self, split: str) -> BatchLoader:
        if self.trainer is not None:
            self.splits[split] = self.splits[split].to(self.trainer.strategy.root_device)
        text = self.splits[split]
        if split != "train":
            return HeldOutTextLoader(text, self.seq_len, **placement(self.trainer))
        if self.held_out == 1:
            raise UserError("data.held_out=1: leaves no text to train on; it is for zoo test")
        kind = WindowLoader if self.order == "windows" else StreamLoader
        loader = kind(text, self.batch_size, self.seq_len, self.seed, **placement(self.trainer, training=True))
        if not len(loader):
            name, rows = self.root or type(self).__name__, self.batch_size * loader.world
            fitting = describe_fitting(
                len(text) - 1, self.seq_len, self.batch_size, loader.world, spare=self.order == "stream" and self.seq_len > 0
            )
            raise UserError(
                f"{name}: {len(text):,} training characters are too few for {rows} rows of data.seq_len={self.seq_len}: {fitting}"
            )
        return loader

    def summarize(self) -> dict[str, Any]:
        """Characters in each split, size of the vocabulary, and the beginning, once ``setup`` has run."""
        return {
            "characters": {name: len(text) for name, text in self.splits.items()},
            "vocabulary": len(self.spec.vocabulary),
            "begins": self._whole_text()[:60],
        }

    def preview(self) -> Preview:
        return Preview([self.spec.decode(self.splits["train"][:PREVIEWED].tolist())])

    def check_batch(self, batch: Batch) -> None:
        tokens, targets = batch["tokens"], batch["targets"]
        require(tokens.shape == targets.shape, f"tokens are {tuple(tokens.shape)}, targets {tuple(targets.shape)}")
        require(tokens.min() >= 0 and tokens.max() < len(self.spec.vocabulary), "a token is outside the vocabulary of the spec")
        going_on = targets[:, :-1] == tokens[:, 1:]
        require((going_on | (targets[:, :-1] == IGNORE)).all(), "targets are not the text one character later")

    def count_samples(self, batch: Batch) -> int:
        return int((batch["targets"] != IGNORE).sum())

    def split_size(self, split: str) -> int:
        return len(self.splits[split]) - 1  # the first character is predicted from nothing
