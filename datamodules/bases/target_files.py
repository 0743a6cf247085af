"""The base of data in image files whose labels are not one class each: each distinct label of the files has a row of targets."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from functools import cached_property
from hashlib import blake2b

from torch import Tensor

from zoo.core.errors import UserError
from zoo.datamodules.bases.image_file_data import ImageFileData
from zoo.datamodules.files.image_rows import Row, Source, tree_of_rows
from zoo.datamodules.files.image_tree import Tree
from zoo.datamodules.loading.splits import Split


class TargetFiles(ImageFileData):
    """Image files with targets. A subclass implements ``read_rows`` and ``encode``; ``tree.classes`` are the distinct labels."""

    @abstractmethod
    def read_rows(self) -> list[Row]:
        """The files with their labels as text.

        Raises:
            UserError: there are none that can be read.
        """

    @abstractmethod
    def encode(self) -> Tensor:
        """The targets of the distinct labels in the tree, a row for each.

        Raises:
            UserError: they cannot be learned.
        """

    def list_files(self, whole: bool) -> Tree:
        return tree_of_rows(self.read_rows(), Source(str(self.source), self.root), 0, whole)

    @cached_property
    def targets(self) -> Tensor:
        """What ``encode`` gives."""
        return self.encode()

    def load_splits(self) -> dict[str, Split]:
        return {name: replace(split, labels=self.targets[split.labels]) for name, split in super().load_splits().items()}

    def text_digests(self, split: Split) -> list[bytes]:
        return [blake2b(row.numpy().tobytes(), digest_size=8).digest() for row in split.labels]

    def require_readable(self, left: dict[str, set[int]]) -> None:
        if not left["train"]:
            raise UserError(f"{self.source}: no image of train can be read")
