"""The base class of all data modules: the interface of data sets to commands and checks, for every task."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, NoReturn

import lightning as L
from torch import Tensor

from zoo.core.errors import UserError
from zoo.datamodules.loading.loader import BatchLoader
from zoo.spec import Spec


@dataclass(frozen=True)
class Preview:
    """Training samples as ``zoo data preview`` shows them.

    Attributes:
        lines: text, printed line by line.
        images: uint8 [n, C, H, W], drawn in a row.
        captions: one for each image.
        augmented: the same images after augmentation, a row for each version.
        shows: what the picture shows, in words.
    """

    lines: Sequence[str] = ()
    images: Tensor | None = None
    captions: Sequence[str] = ()
    augmented: Sequence[Tensor] = ()
    shows: str = "samples"


class FileContent(NamedTuple):
    """A file, by its path below the folder of the data, with digests of its bytes, empty before it is read, and of its text."""

    name: str
    digest: bytes
    text: bytes = b""


class UnreadSplits(dict[str, Any]):
    """The splits before ``setup``: there are none, and whoever asks for one learns what to do."""

    def __missing__(self, split: str) -> NoReturn:
        raise UserError(f"the split {split!r} has not been read: call prepare_data() and setup() first, or give it to a Trainer")


class DataModule(L.LightningDataModule):
    """A data set with its splits. A subclass gives ``spec``, ``setup`` and ``build_loader``, or the three dataloaders.

    Attributes:
        task: the task that it is for.
        added: names of files that ``keep_only`` left out.
        has_samples: whether splits hold samples that can be counted and selected, unlike a stream of text.
        content: what its files hold, in messages.
        splits: name -> samples, once ``setup`` has run.
    """

    task: ClassVar[str]
    has_samples: ClassVar[bool] = True
    content: ClassVar[str] = "images"
    spec: Spec

    def __init__(self) -> None:
        super().__init__()
        self.splits: dict[str, Any] = UnreadSplits()
        self.added: list[str] = []

    def build_loader(self, split: str) -> BatchLoader:
        """The batches of a split: in training order for ``train``, and of every sample once for ``val`` and ``test``."""
        raise NotImplementedError

    def download(self) -> None:
        """Fetch the files; by default there is nothing to fetch."""

    def prepare_data(self) -> None:
        if not self.splits:  # Lightning calls it again, when all is there
            self.download()

    def train_dataloader(self) -> BatchLoader:
        return self.build_loader("train")

    def val_dataloader(self) -> BatchLoader:
        return self.build_loader("val")

    def test_dataloader(self) -> BatchLoader:
        return self.build_loader("test")

    def predict_dataloader(self) -> BatchLoader:
        return self.test_dataloader()

    def files(self, content: bool = True) -> dict[str, Iterable[FileContent]]:
        """The files of each split that was read; none where data does not come in files.

        Args:
            content: with the digests of files that are read batch by batch, as far as they were; they take a moment.
        """
        return {}

    def warn_of_repeated(self) -> None:
        """Warn once of held-out samples that are training samples, too, as far as their content is known."""

    def keep_only(self, names: Collection[str]) -> None:
        """Before ``setup``: leave out other files than these, and list them in ``added``."""

    def exclude_from_test(self, digests: Collection[bytes]) -> tuple[int, int]:
        """After ``setup``: leave images with these digests out of the test split; how many were, and of how many.

        Those that are read batch by batch are found in the test.

        Raises:
            UserError: none is left.
        """
        return 0, 0

    def excluded_in_test(self) -> tuple[int, int]:
        """After the test: how many images were found to be excluded in reading, and of how many.

        Raises:
            UserError: all were.
        """
        return 0, 0

    def test_on_everything(self) -> None:
        """Before ``setup``: test on all of data that has no test split of its own, for a model that was trained on other data."""

    def use_preprocessing(self, spec: Spec) -> None:
        """Before ``setup``: prepare images as for a model that was trained with ``spec``, where no option says otherwise."""

    def require_compatible(self, spec: Spec, name: str) -> None:
        """Be data for a model that was trained with ``spec``; ``name`` is this data's, for the message.

        Raises:
            UserError: the model cannot take it.
        """
        if spec != self.spec:
            raise UserError(f"{name} is {self.spec}, the model was trained on {spec}")

    def summarize(self) -> dict[str, Any]:
        """Facts for ``zoo data show --measure``, once ``setup`` has run."""
        return {name: self.split_size(name) for name in self.splits}

    def preview(self) -> Preview:
        """Training samples to look at, once ``setup`` has run."""
        return Preview([f"{name}: {value}" for name, value in self.summarize().items()])

    def check_batch(self, batch: dict[str, Tensor]) -> None:
        """Check that a batch fits the spec, for ``zoo check``.

        Raises:
            Violation: it does not.
        """

    def count_samples(self, batch: dict[str, Tensor]) -> int:
        """The samples of an evaluation batch that count."""
        return int(batch["counted"].sum()) if "counted" in batch else len(next(iter(batch.values())))

    def split_size(self, split: str) -> int:
        """The samples that evaluation on a split is to count."""
        return len(self.splits[split])
