"""The base of image-text data in files: annotations, and folders of images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from zoo.core.errors import UserError, some
from zoo.core.files import require_folder
from zoo.core.randomness import derive_seed
from zoo.core.ranks import rank_zero_print
from zoo.datamodules.bases.image_text import ImageTextData
from zoo.datamodules.bases.options import require_at_least
from zoo.datamodules.files.decoded import identity_of_files, kept_content
from zoo.datamodules.files.image_files import ImageFiles
from zoo.datamodules.files.paths import Paths
from zoo.datamodules.loading.held_out import split_by_name
from zoo.datamodules.loading.splits import Images, ImagesInMemory, Split

NAMED = 3  # files named in a message


class ReadImages(NamedTuple):
    """Images in files.

    Attributes:
        readable: which files can be read, bool [files]; all else is of these alone.
        files, digests: as in ``Split``.
    """

    images: Images
    readable: Tensor
    files: tuple[str, ...]
    digests: Tensor


class ImageTextFiles(ImageTextData):
    """Image files, each with text from annotations. Images that cannot be read are skipped with a warning.

    Args:
        root: the folder of images and annotations.
        size: height and width in pixels; images are resized to cover it and center-cropped.
        augment: none, light, standard, strong, or a list as in crop:4,jitter; none allows cached features of a frozen encoder.
        min_count: occurrences in training texts that a word needs to be in the vocabulary.
        memory_gb: decoded images up to this many gigabytes are held in memory; beyond that, they are decoded in every epoch.
    """

    smallest = 1  # size
    aspect: float = 1  # width over height

    def __init__(
        self,
        batch_size: int,
        seed: int,
        root: str,
        size: int = 224,
        augment: str = "none",
        min_count: int = 5,
        memory_gb: float = 2.0,
    ) -> None:
        super().__init__(batch_size, seed, root=root, augment=augment)
        require_at_least(self.smallest, size=size)
        require_at_least(1, min_count=min_count)
        require_folder(f"data.root={self.root}", self.root)
        self.shape = size, int(size * self.aspect)
        self.min_count, self.memory_gb = min_count, memory_gb
        self._has_warned = False

    def setup(self, stage: str | None = None) -> None:
        if not self.splits:
            super().setup(stage)
            self._warn_of_repeated()

    def _warn_of_repeated(self) -> None:
        """Warn once of images of training that are held out, too, by their content."""
        train, found = set(self.splits["train"].content()), {}
        for name in ("val", "test"):
            split = self.splits[name]
            repeated = {file for file, digest in zip(split.files, split.content(), strict=True) if digest in train}
            if repeated and not (name == "test" and split is self.splits["val"]):
                found[f"{len(repeated):,} of {split.count_images():,} images of {name}"] = min(repeated)
        if found and not self._has_warned:
            self._has_warned = True
            where = " and ".join(f"{count}, such as {self.names([file])[0]}," for count, file in found.items())
            rank_zero_print(f"warning: {self.root}: {where} are training images, too, by their content")

    def hold_out(self, split: Split) -> tuple[Tensor, Tensor]:
        return self.hold_out_by_name(split.files, self.validation, derive_seed(self.seed, "hold out"), "data.validation")

    def hold_out_by_name(self, paths: Sequence[str | Path], share: float, seed: int, option: str = "") -> tuple[Tensor, Tensor]:
        """``split_by_name`` of images, by the names of their files without folders."""
        return split_by_name([os.path.basename(path) for path in paths], share, seed, self.root, option)

    def read_images(self, paths: Sequence[Path], what: str) -> ReadImages:
        """Read the images in these files, with a warning about those that cannot be read.

        Raises:
            UserError: none can; ``what`` says whose images they are.
        """
        files, shape = list(map(str, paths)), self.image_spec.shape[1:]
        content = kept_content(files, shape, self.memory_gb, identity_of_files(files, shape))
        readable = content.readable.tolist()
        if not any(readable):
            raise UserError(f"{self.root}: no image of {what} can be read, such as {paths[0]}")
        if unreadable := [path for path, good in zip(paths, readable, strict=True) if not good]:
            self.unreadable += unreadable
            count, names = f"{len(unreadable):,} of {len(paths):,} images", some([path.name for path in unreadable], NAMED)
            rank_zero_print(f"warning: {self.root}: {count} cannot be read and are skipped: {names}")
        kept = tuple(file for file, good in zip(files, readable, strict=True) if good)
        images = ImageFiles(Paths(kept), shape) if content.pixels is None else ImagesInMemory(content.pixels)
        return ReadImages(images, content.readable, kept, content.digests[content.readable])
