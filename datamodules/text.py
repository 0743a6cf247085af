"""Text as streams of characters: where it comes from, how it is split, and how it is cut into batches.

A training row is one contiguous part of the text. Each batch holds the next chunk of every row, so that a model can carry its
state from one to the next; ``fresh`` says where a row begins and the state must not be carried. Where the rows begin follows
from (seed, epoch), so any batch can be made without those before it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor

from zoo.core.download import fetch
from zoo.core.errors import UserError
from zoo.core.files import cache_folder
from zoo.core.randomness import derive_seed
from zoo.datamodules.loading.position import position_of
from zoo.registry.entry import register_data
from zoo.spec import IGNORE, TextSpec
from zoo.text.files import read_text

Batch = dict[str, Tensor]
MOST_HELD_OUT = 0.4  # of the text for validation, and as much for the test
EVALUATION_ROWS = 32  # parts of a held-out text that are read side by side, whatever the number of devices
PREVIEWED = 1000  # characters, as a beginning
WARM_UP = 256  # characters that each of them reads, uncounted, before its own


class Streams:
    """A text for training, as what Lightning takes for a dataloader: chunks of rows that go on from batch to batch.

    Args:
        text: int, [N], the places of the characters in the vocabulary.
        rows: of each process.
        seq_len: characters a batch; 0 takes whole rows.
        seed: of where rows begin.
        rank, world: this process and how many there are.
        position: asked at the start of each epoch for (epoch, first batch), so that a resumed run starts inside an epoch.
    """

    def __init__(
        self, text: Tensor, rows: int, seq_len: int, seed: int, rank: int, world: int, position: Callable[[], tuple[int, int]]
    ) -> None:
        self.text, self.rows, self.rank, self.world, self.seed, self.position = text, rows, rank, world, seed, position
        whole = (len(text) - 1) // (rows * world)
        self.seq_len = seq_len or whole
        # one chunk is left over, in which the rows begin somewhere else in each epoch
        self.length = max((len(text) - 1 - (self.seq_len if seq_len else 0)) // (rows * world), 0)

    def __len__(self) -> int:
        return self.length // self.seq_len if self.seq_len else 0

    def __iter__(self) -> Iterator[Batch]:
        # a generator: the position is asked for when the first batch is, not when the loop is being set up
        epoch, first = self.position()
        spare = len(self.text) - 1 - self.length * self.rows * self.world
        start = derive_seed(self.seed, "start", epoch) % (spare + 1)
        rows = torch.arange(self.rank * self.rows, (self.rank + 1) * self.rows, device=self.text.device)
        starts = start + rows * self.length
        for step in range(first, len(self)):
            fresh = torch.full((self.rows,), step == 0, device=self.text.device)
            yield {**_cut(self.text, starts + step * self.seq_len, self.seq_len), "fresh": fresh}


class Windows(Streams):
    """Chunks from random places, each by itself: for models that carry no state."""

    def __len__(self) -> int:
        return (len(self.text) - 1) // (self.seq_len * self.rows * self.world)

    def __iter__(self) -> Iterator[Batch]:
        epoch, first = self.position()
        fresh = torch.ones(self.rows, dtype=torch.bool, device=self.text.device)
        for step in range(first, len(self)):
            generator = torch.Generator().manual_seed(derive_seed(self.seed, "windows", epoch, step, self.rank))
            starts = torch.randint(0, len(self.text) - self.seq_len, (self.rows,), generator=generator)
            yield {**_cut(self.text, starts.to(self.text.device), self.seq_len), "fresh": fresh}


class WholeText:
    """A held-out text for evaluation: every character but the first is a target once, whatever the number of processes.

    It is read in ``EVALUATION_ROWS`` parts side by side, of which each process has every world-th. A part first reads the
    ``WARM_UP`` characters before its own, whose labels are ``IGNORE``, so that it starts with the state of one who comes along.
    """

    def __init__(self, text: Tensor, seq_len: int, rank: int, world: int) -> None:
        self.text, self.rank, self.world = text, rank, world
        targets = len(text) - 1
        rows = max(1, min(EVALUATION_ROWS, targets))
        ends = [targets * row // rows for row in range(rows + 1)]
        self.parts = list(zip(ends, ends[1:], strict=False))  # of targets, whose characters lie one further
        self.longest = max(end - max(0, start - WARM_UP) for start, end in self.parts)
        self.seq_len = min(seq_len, self.longest) if seq_len else self.longest

    def __len__(self) -> int:
        return -(-self.longest // self.seq_len)

    def __iter__(self) -> Iterator[Batch]:
        own = self.parts[self.rank :: self.world] or [(0, 0)]  # sharded networks need all processes in step
        starts, ends = torch.tensor(own, device=self.text.device).T
        read_from = (starts - WARM_UP).clamp(min=0)
        for step in range(len(self)):
            places = read_from + step * self.seq_len
            batch = _cut(self.text, places, self.seq_len)
            positions = places[:, None] + torch.arange(self.seq_len, device=self.text.device)
            counted = (positions >= starts[:, None]) & (positions < ends[:, None])
            fresh = torch.full((len(own),), step == 0, device=self.text.device)
            yield {**batch, "targets": batch["targets"].where(counted, IGNORE), "fresh": fresh}


def _what_fits(targets: int, seq_len: int, rows: int, world: int, spare: bool) -> str:
    """The most rows and the longest chunk with which so many characters make a batch, where a chunk is left over or not."""
    most_rows = (targets - spare * seq_len) // (max(seq_len, 1) * world)
    longest_chunk = targets // (rows * world + spare) if seq_len else 0
    fitting = {"recipe.batch_size": most_rows, "data.seq_len": longest_chunk}
    said = [f"{key}={value}" for key, value in fitting.items() if value > 0]
    return f"at most {' or '.join(said)} fits" if said else "a longer text is needed"


def _cut(text: Tensor, starts: Tensor, length: int) -> Batch:
    """``tokens``, int64 [rows, length], from each start on, and ``targets``, one character later; beyond the end the last."""
    places = starts[:, None] + torch.arange(length + 1, device=text.device)
    window = text[places.clamp(max=len(text) - 1)].long()
    return {"tokens": window[:, :-1], "targets": window[:, 1:]}


class TextData(L.LightningDataModule):
    """A text, split by position: the last part is for the test, the one before for validation. A subclass reads it.

    Args:
        batch_size: rows of text on each device.
        seed: of where rows and windows begin.
        root: the file or folder where the text lies; the default is bestiary's cache.
        seq_len: characters a step: how far gradients reach back. 0 takes whole rows (full back-propagation through time).
        order: ``stream``, where each row goes on from batch to batch, or ``windows``, chunks from random places.
        held_out: share of the text for validation, and as much for the test; 1 makes all of it the test.
    """

    task = "language-modeling"

    def __init__(self, batch_size: int, seed: int, *, root: str | None, seq_len: int, order: str, held_out: float) -> None:
        super().__init__()
        if not (0 < held_out <= MOST_HELD_OUT or held_out == 1):
            raise UserError(
                f"data.held_out={held_out}: must be above 0 and at most {MOST_HELD_OUT}, or 1 to test on the whole text"
            )
        if seq_len < 0:
            raise UserError(f"data.seq_len={seq_len}: must be 0 (whole rows) or a number of characters, as {-seq_len}")
        if order == "windows" and seq_len == 0:
            raise UserError("data.seq_len=0: windows need a length, as 128; whole rows go with data.order=stream")
        self.batch_size, self.seed, self.seq_len, self.order, self.held_out = batch_size, seed, seq_len, order, held_out
        self.root = Path(root).expanduser() if root else None
        self.splits: dict[str, Tensor] = {}
        self._text: str | None = None
        self._spec: TextSpec | None = None

    @abstractmethod
    def load_text(self) -> str:
        """The whole text."""

    def download(self) -> None:
        """Bring the text to this machine; the default is that there is nothing to bring."""

    @property
    def spec(self) -> TextSpec:
        """The characters of the text, in their order in Unicode."""
        if self._spec is None:
            self._spec = TextSpec(tuple(sorted(set(self._whole_text()))))
        return self._spec

    def _whole_text(self) -> str:
        if self._text is None:
            self._text = self.load_text()
        return self._text

    def prepare_data(self) -> None:
        if not self.splits:  # Lightning calls it again, when all is there
            self.download()

    def setup(self, stage: str | None = None) -> None:
        if self.splits:
            return
        text = self._whole_text()
        if not text:
            raise UserError(f"{self.root or type(self).__name__}: is empty: there is no text to learn from")
        places = torch.tensor(self.spec.encode(text), dtype=torch.uint8 if len(self.spec.vocabulary) <= 256 else torch.int32)
        test_length = round(self.held_out * len(text))
        val_length = 0 if self.held_out == 1 else test_length
        train, val, test = places.split([len(text) - val_length - test_length, val_length, test_length])
        if test_length < 2:
            raise UserError(f"{self.root or type(self).__name__}: has only {len(text):,} characters, too few to hold some out")
        self.splits = {"train": train, "val": val, "test": test}

    def require_compatible(self, spec: TextSpec, name: str) -> None:
        """Be data for a model that was trained with ``spec``: its characters have the places that the model knows.

        Raises:
            UserError: characters that the model does not know.
        """
        if spec != self.spec:
            places = torch.tensor(spec.encode("".join(self.spec.vocabulary), name))
            self.splits = {split: places[text.long()] for split, text in self.splits.items()}
            self._spec = spec

    def train_dataloader(self) -> Streams:
        return self._training(*self._placed("train"))

    def _training(self, text: Tensor, rank: int, world: int) -> Streams:
        if self.held_out == 1:
            raise UserError("data.held_out=1: leaves nothing to learn from; it is for zoo test")

        kind = Windows if self.order == "windows" else Streams
        loader = kind(text, self.batch_size, self.seq_len, self.seed, rank, world, partial(position_of, self.trainer))
        if not len(loader):
            name, rows = self.root or type(self).__name__, self.batch_size
            raise UserError(
                f"{name}: {len(text):,} training characters are too few for {rows * world} rows of data.seq_len={self.seq_len}: "
                + _what_fits(len(text) - 1, self.seq_len, rows, world, spare=self.order == "stream" and self.seq_len > 0)
            )
        return loader

    def val_dataloader(self) -> WholeText:
        return self._evaluation("val")

    def test_dataloader(self) -> WholeText:
        return self._evaluation("test")

    def _evaluation(self, split: str) -> WholeText:
        text, rank, world = self._placed(split)
        return WholeText(text, self.seq_len, rank, world)

    def _placed(self, split: str) -> tuple[Tensor, int, int]:
        """The text of a split on the device, this process, and how many there are."""
        if self.trainer is None:
            return self.splits[split], 0, 1
        text = self.splits[split] = self.splits[split].to(self.trainer.strategy.root_device)
        return text, self.trainer.global_rank, self.trainer.world_size

    def summarize(self) -> dict[str, Any]:
        """What is there, once ``setup`` has run."""
        return {
            "characters": {name: len(text) for name, text in self.splits.items()},
            "vocabulary": len(self.spec.vocabulary),
            "begins": self._whole_text()[:60],
        }

    def preview_text(self) -> str:
        """The first characters for training, once ``setup`` has run."""
        return self.spec.decode(self.splits["train"][:PREVIEWED].tolist())


@register_data("text", task="language-modeling", tags=["own"])
class TextFiles(TextData):
    """Your own text: a UTF-8 file, or all files of a folder in the order of their names.

    Args:
        root: the file or the folder.
        seq_len: characters a step, through which gradients flow; 0 takes whole rows.
        order: stream, where rows go on from step to step, or windows, chunks from random places.
        held_out: share of the text for validation, and as much for the test; 1 makes all of it the test.
    """

    def __init__(
        self,
        batch_size: int,
        seed: int,
        root: str,
        seq_len: int = 128,
        order: Literal["stream", "windows"] = "stream",
        held_out: float = 0.05,
    ) -> None:
        super().__init__(batch_size, seed, root=root, seq_len=seq_len, order=order, held_out=held_out)

    def load_text(self) -> str:
        return read_text(self.root, f"data.root={self.root}")


@register_data("shakespeare", task="language-modeling", tags=["classic"])
class Shakespeare(TextData):
    """Tiny Shakespeare: 1,115,394 characters of his plays, 65 different ones (Karpathy 2015).

    Args:
        root: the file, or the folder where it lies or is put; the default is bestiary's cache.
        seq_len: characters a step, through which gradients flow; 0 takes whole rows.
        order: stream, where rows go on from step to step, or windows, chunks from random places.
        held_out: share of the text for validation, and as much for the test; 1 makes all of it the test.
    """

    mirrors = (
        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        "https://raw.githubusercontent.com/karpathy/char-rnn/6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e/data/tinyshakespeare/input.txt",
    )
    sha256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"

    def __init__(
        self,
        batch_size: int,
        seed: int,
        root: str = "",
        seq_len: int = 128,
        order: Literal["stream", "windows"] = "stream",
        held_out: float = 0.05,
    ) -> None:
        super().__init__(batch_size, seed, root=root, seq_len=seq_len, order=order, held_out=held_out)

    @property
    def spec(self) -> TextSpec:
        if self._spec is None:  # known before anything is fetched
            letters = "".join(chr(ord("A") + place) for place in range(26))
            self._spec = TextSpec(tuple(sorted("\n !$&',-.3:;?" + letters + letters.lower())))
        return self._spec

    def download(self) -> None:
        self._file()

    def load_text(self) -> str:
        file = self._file()
        return read_text(file, str(file))

    def _file(self) -> Path:
        """The file that ``root`` is or holds, or else fetched into it."""
        if self.root and self.root.is_file():
            return self.root
        for name in ("input.txt", "shakespeare.txt") if self.root else ():
            if (self.root / name).is_file():
                return self.root / name
        folder = self.root or cache_folder() / "shakespeare"
        return fetch("input.txt", *(f"{url}#sha256={self.sha256}" for url in self.mirrors), folder=folder)


@register_data("pydoc", task="language-modeling", tags=["embedded"])
class PythonReference(TextData):
    """The reference manual that ships inside Python (what ``help("for")`` shows): real text, there without a network.

    Its length and characters are those of the Python that runs.

    Args:
        seq_len: characters a step, through which gradients flow; 0 takes whole rows.
        order: stream, where rows go on from step to step, or windows, chunks from random places.
        held_out: share of the text for validation, and as much for the test; 1 makes all of it the test.
    """

    def __init__(
        self,
        batch_size: int,
        seed: int,
        seq_len: int = 128,
        order: Literal["stream", "windows"] = "stream",
        held_out: float = 0.05,
    ) -> None:
        super().__init__(batch_size, seed, root=None, seq_len=seq_len, order=order, held_out=held_out)

    def load_text(self) -> str:
        from pydoc_data.topics import topics

        return "\n\n".join(text for _, text in sorted(topics.items()))
