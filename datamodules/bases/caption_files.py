"""Photographs with captions, as Flickr8k and COCO were published: files of sentences, and a folder of images."""

from __future__ import annotations

import os
from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.core.errors import UserError, one_line, some
from zoo.core.ranks import rank_zero_print
from zoo.datamodules.bases.captioning import CaptionData, CaptionedImages
from zoo.datamodules.files.decoded import MIXED_SIZE, common_size
from zoo.datamodules.files.image_files import read_images, require_folder
from zoo.datamodules.loading.splits import Images
from zoo.spec import CaptionSpec, ImageSpec
from zoo.text.tokenization import build_vocabulary, tokenize

NAMED = 3  # of many, so many are named in a message


@dataclass(frozen=True)
class CaptionedImage:
    """An image file and the sentences that were given for it."""

    path: str
    captions: list[str]


@dataclass(frozen=True)
class CaptionAnnotations:
    """What there is of a data set: images with captions by split, and what is wanting."""

    splits: dict[str, list[CaptionedImage]]
    without_caption: list[str]
    without_image: list[str]


class CaptionFiles(CaptionData):
    """Image files with captions. A subclass says where they are (``load_annotations``).

    The vocabulary is that of the training captions, whose rare words it leaves out. What has no caption or no image, or cannot be
    read, is left out with a warning.

    Args:
        min_count: how often a word must be seen in training captions to be in the vocabulary.
        max_length: words of a training caption that count, so that few long ones do not make all batches long; 0 for all.
        memory_gb: decoded images up to this many gigabytes are held in memory; more are read again in every epoch.
    """

    def __init__(
        self,
        batch_size: int,
        seed: int,
        root: str,
        size: int,
        augment: str,
        validation: float,
        min_count: int,
        max_length: int,
        memory_gb: float,
    ) -> None:
        super().__init__(batch_size, seed, root=root, size=size, augment=augment, validation=validation)
        if min_count < 1 or max_length < 0:
            raise UserError(f"data.min_count={min_count}, data.max_length={max_length}: must be at least 1, and at least 0")
        self.min_count, self.max_length, self.memory_gb = min_count, max_length, memory_gb

    @abstractmethod
    def load_annotations(self) -> CaptionAnnotations:
        """The image files and their captions, nothing opened but the files of captions.

        Raises:
            UserError: a file is missing or broken, or nothing is left.
        """

    @cached_property
    def annotations(self) -> CaptionAnnotations:
        """What ``load_annotations`` finds, with what is wanting reported once."""
        require_folder(self.root, f"data.root={self.root}")
        try:
            found = self.load_annotations()
        except OSError as error:
            raise UserError(f"{error.filename or self.root}: cannot be read: {one_line(error.strerror)}") from error
        for name, captioned in found.splits.items():
            if not captioned:
                raise UserError(f"{self.root}: no image of {name} has a caption")
        self._warn(
            (found.without_caption, "without a caption", "images"), (found.without_image, "without an image", "captioned names")
        )
        return found

    @cached_property
    def words(self) -> dict[str, list[list[list[str]]]]:
        """The captions of each picture of each split, in words; those without any are left out."""
        return {
            name: [[words for caption in picture.captions if (words := tokenize(caption))] for picture in captioned]
            for name, captioned in self.annotations.splits.items()
        }

    def build_spec(self) -> CaptionSpec:
        height, width = self._shape
        vocabulary = build_vocabulary((words for captions in self.words["train"] for words in captions), self.min_count)
        longest = max(len(words) for split in self.words.values() for captions in split for words in captions)
        return CaptionSpec(ImageSpec(3, height, width, classes=()), vocabulary, longest + 1)

    def download(self) -> None:
        _ = self._pictures  # decoded now, by one process, and found in the cache by the others

    def load_captions(self) -> dict[str, CaptionedImages]:
        images, readable = self._pictures
        position = (readable.cumsum(0) - 1).tolist()  # of each file among those that can be read
        place = {path: at for path, at, is_good in zip(self._paths(), position, readable.tolist(), strict=True) if is_good}
        told = {}
        for name, captioned in self.annotations.splits.items():
            pairs = zip(captioned, self.words[name], strict=True)
            kept = [(place[each.path], captions) for each, captions in pairs if each.path in place and captions]
            if not kept:
                raise UserError(f"{self.root}: no image of {name} can be read")
            told[name] = CaptionedImages(images.subset(torch.tensor([at for at, _ in kept])), [captions for _, captions in kept])
        del self._pictures  # the splits hold what is needed of it
        return told

    def summarize(self) -> dict[str, Any]:
        return {**super().summarize(), "longest caption": self.spec.length - 1, "captions": sum(map(len, self._captions))}

    @cached_property
    def _shape(self) -> tuple[int, int]:
        """(height, width) after scaling, from the headers of the images if nobody has given it."""
        if self.size:
            return self.size, self.size
        return common_size(self._paths()) or (MIXED_SIZE, MIXED_SIZE)

    @cached_property
    def _pictures(self) -> tuple[Images, Tensor]:
        """All images that can be read, and which can, bool [files]."""
        paths = self._paths()
        images, readable = read_images(list(map(Path, paths)), self._shape, self.memory_gb)
        unreadable = [os.path.basename(paths[index]) for index in (~readable).nonzero()[:, 0].tolist()]
        self._warn((unreadable, "that cannot be read", "images"))
        return images, readable

    def _paths(self) -> list[str]:
        """Each once, though two splits may hold the same pictures."""
        return list(dict.fromkeys(captioned.path for split in self.annotations.splits.values() for captioned in split))

    def _warn(self, *faults: tuple[list[str], str, str]) -> None:
        """One line for what is left out: names, what is wrong with them, and what they are."""
        told = [f"{len(names):,} {what} {fault} ({some(names, NAMED)})" for names, fault, what in faults if names]
        if told:
            rank_zero_print(f"warning: {self.root}: left out are {' and '.join(told)}")


# ---------------------------------------------------------------------------------------------- published layouts

Captions = dict[str, list[str]]  # by the name of the image
