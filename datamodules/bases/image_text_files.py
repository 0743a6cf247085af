"""The base of image-text data in files: annotations, and folders of images."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.core.errors import UserError, some
from zoo.core.files import require_folder
from zoo.core.randomness import derive_seed
from zoo.core.ranks import rank_zero_print
from zoo.datamodules.bases.image_text import ImageTextData
from zoo.datamodules.bases.options import require_at_least
from zoo.datamodules.files.decoded import identity_of_files, kept_content
from zoo.datamodules.files.digests import DigestTable, NotedDigests
from zoo.datamodules.files.formats import how_to_read
from zoo.datamodules.files.image_files import ImageFiles, cores
from zoo.datamodules.files.paths import Paths
from zoo.datamodules.loading.held_out import split_by_name
from zoo.datamodules.loading.splits import Images, ImagesInMemory, Split

NAMED = 3  # files named in a message


class ReadImages(NamedTuple):
    """Images in files, which are decoded already or when a batch needs them.

    Attributes:
        readable: which files are among the images, bool [files]; all else is of these alone.
        files, digests: as in ``Split``.
    """

    images: Images
    readable: Tensor
    files: Sequence[str]
    digests: Tensor | NotedDigests


class ImageTextFiles(ImageTextData):
    """Image files, each with text from annotations. Images that cannot be read are skipped with a warning.

    If they do not fit in memory, those are found when a batch needs them: in training, the next readable image with its text
    takes the place of each, in evaluation none does.

    Args:
        root: the folder of images and annotations.
        size: height and width in pixels; images are resized to cover it and center-cropped.
        augment: none, light, standard, strong, or a list as in crop:4,jitter; none allows cached features of a frozen encoder.
        min_count: occurrences in training texts that a word needs to be in the vocabulary.
        memory_gb: decoded images up to this many gigabytes are held in memory; beyond that, they are read batch by batch.
        keep: keep images that do not fit in memory decoded in the cache, if its disk suffices; else each epoch decodes them.
        workers: threads that decode images that do not fit in memory; 0 for one a core.
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
        keep: bool = True,
        workers: int = 0,
    ) -> None:
        super().__init__(batch_size, seed, root=root, augment=augment)
        require_at_least(self.smallest, size=size)
        require_at_least(1, min_count=min_count)
        require_at_least(0, workers=workers)
        require_folder(f"data.root={self.root}", self.root)
        self.shape = size, int(size * self.aspect)
        self.min_count, self.memory_gb = min_count, memory_gb
        self.keep, self.workers = keep, workers
        self._has_warned = False

    def setup(self, stage: str | None = None) -> None:
        if not self.splits:
            super().setup(stage)
            self.warn_of_repeated()

    def warn_of_repeated(self) -> None:
        train, found = set(self.splits["train"].content()) - {b""}, {}
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

    def read_images(self, files: dict[str, Sequence[str]]) -> dict[str, ReadImages]:
        """The images in several lists of files: decoded now if all fit in memory, else when a batch needs them.

        Raises:
            UserError: none of a list can be read; its key says whose images they are.
        """
        shape = self.image_spec.shape[1:]
        if sum(map(len, files.values())) * 3 * math.prod(shape) <= self.memory_gb * 1e9:
            return {what: self._decode(list(paths), what) for what, paths in files.items()}
        workers = self.workers or max(1, cores() // getattr(self.trainer, "num_devices", 1))
        paths = Paths(chain.from_iterable(files.values()))
        table = DigestTable(paths)
        images, digests = ImageFiles(paths, shape, keep=self.keep, workers=workers, digests=table), NotedDigests(table)
        parts = torch.arange(len(paths)).split([len(each) for each in files.values()])
        return {
            what: ReadImages(images.subset(part), torch.ones(len(part), dtype=torch.bool), paths[part.numpy()], digests[part])
            for what, part in zip(files, parts, strict=True)
        }

    def _decode(self, files: list[str], what: str) -> ReadImages:
        """Decode the images, with a warning about those that cannot be read."""
        shape = self.image_spec.shape[1:]
        content = kept_content(files, shape, self.memory_gb, identity_of_files(files, shape))
        readable = content.readable.tolist()
        if not any(readable):
            raise UserError(f"{self.root}: no image of {what} can be read, such as {files[0]}{how_to_read(files)}")
        found = [Path(file) for file, good in zip(files, readable, strict=True) if not good]
        if unreadable := [path for path in found if path not in self.unreadable]:  # not again, as when a model's words are used
            self.unreadable += unreadable
            count, names = f"{len(unreadable):,} of {len(files):,} images", some([path.name for path in unreadable], NAMED)
            remedy = how_to_read(map(str, unreadable))
            rank_zero_print(f"warning: {self.root}: {count} cannot be read and are skipped: {names}{remedy}")
        kept = tuple(file for file, good in zip(files, readable, strict=True) if good)
        return ReadImages(ImagesInMemory(content.pixels), content.readable, kept, content.digests[content.readable])
