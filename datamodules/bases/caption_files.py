"""The base of captioning data in files, as Flickr8k and COCO are published: annotations, and folders of images."""

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
from zoo.core.files import require_folder
from zoo.core.ranks import rank_zero_print
from zoo.datamodules.bases.captioning import CaptionData, CaptionedImages
from zoo.datamodules.bases.options import require_at_least
from zoo.datamodules.files.decoded import MIXED_SIZE, common_size
from zoo.datamodules.files.image_files import read_images
from zoo.datamodules.loading.splits import Images
from zoo.spec import CaptionSpec, ImageSpec
from zoo.text.tokenization import build_vocabulary, tokenize

NAMED = 3  # files named in a message


@dataclass(frozen=True)
class CaptionedImage:
    """An image file and its captions."""

    path: str
    captions: list[str]


@dataclass(frozen=True)
class CaptionAnnotations:
    """Images with captions by split, and the names of what is missing."""

    splits: dict[str, list[CaptionedImage]]
    without_caption: list[str]
    without_image: list[str]


class CaptionFiles(CaptionData):
    """Image files with captions. A subclass implements ``load_annotations``.

    The vocabulary is that of the training captions, without rare words. Images without a caption, captions without an image, and
    files that cannot be read are left out with a warning.

    Args:
        root: the folder of images and annotations.
        size: pixels a side.
        augment: none, light, standard, strong, or a list as in crop:8,jitter; none allows cached features of a frozen encoder.
        min_count: occurrences in training captions that a word needs to be in the vocabulary.
        max_length: truncate training captions to this many words, so that few long ones do not slow down all; 0 for all.
        memory_gb: decoded images up to this many gigabytes are held in memory; more are decoded again in every epoch.
    """

    def __init__(
        self,
        batch_size: int,
        seed: int,
        root: str,
        size: int = 224,
        augment: str = "none",
        min_count: int = 5,
        max_length: int = 0,
        memory_gb: float = 2.0,
    ) -> None:
        super().__init__(batch_size, seed, root, size, augment)
        require_at_least(1, min_count=min_count)
        require_at_least(0, max_length=max_length)
        self.min_count, self.max_length, self.memory_gb = min_count, max_length, memory_gb

    @abstractmethod
    def load_annotations(self) -> CaptionAnnotations:
        """Read the annotations and find the image files, without opening any.

        Raises:
            UserError: a file is missing or broken, or nothing is left.
        """

    @cached_property
    def annotations(self) -> CaptionAnnotations:
        """What ``load_annotations`` returns, with one warning about what is missing."""
        require_folder(f"data.root={self.root}", self.root)
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
    def _words(self) -> dict[str, list[list[list[str]]]]:
        """The captions of each image of each split, tokenized; those without words are left out."""
        return {
            name: [[words for caption in image.captions if (words := tokenize(caption))] for image in captioned]
            for name, captioned in self.annotations.splits.items()
        }

    def build_spec(self) -> CaptionSpec:
        height, width = self._shape
        vocabulary = build_vocabulary((words for captions in self._words["train"] for words in captions), self.min_count)
        longest = max(len(words) for split in self._words.values() for captions in split for words in captions)
        return CaptionSpec(ImageSpec(3, height, width, classes=()), vocabulary, longest + 1)

    def download(self) -> None:
        _ = self._images  # decoded now, by one process, and found in the cache by the others

    def load_captions(self) -> dict[str, CaptionedImages]:
        images, readable = self._images
        position = (readable.cumsum(0) - 1).tolist()  # of each file among those that can be read
        place = {path: at for path, at, is_good in zip(self._paths(), position, readable.tolist(), strict=True) if is_good}
        splits = {}
        for name, captioned in self.annotations.splits.items():
            pairs = zip(captioned, self._words[name], strict=True)
            kept = [(place[each.path], captions) for each, captions in pairs if each.path in place and captions]
            if not kept:
                raise UserError(f"{self.root}: no image of {name} can be read")
            splits[name] = CaptionedImages(
                images.subset(torch.tensor([at for at, _ in kept])), [captions for _, captions in kept]
            )
        del self._images  # the splits hold what is needed of it
        return splits

    def summarize(self) -> dict[str, Any]:
        return {**super().summarize(), "longest caption": self.spec.length - 1, "captions": sum(map(len, self._captions))}

    @cached_property
    def _shape(self) -> tuple[int, int]:
        """(height, width) after resizing; if no size is given, that of all images, or ``MIXED_SIZE``."""
        if self.size:
            return self.size, self.size
        return common_size(self._paths()) or (MIXED_SIZE, MIXED_SIZE)

    @cached_property
    def _images(self) -> tuple[Images, Tensor]:
        """All images that can be read, and which can, bool [files]."""
        paths = self._paths()
        images, readable = read_images(list(map(Path, paths)), self._shape, self.memory_gb)
        unreadable = [os.path.basename(paths[index]) for index in (~readable).nonzero()[:, 0].tolist()]
        self._warn((unreadable, "that cannot be read", "images"))
        return images, readable

    def _paths(self) -> list[str]:
        return [captioned.path for split in self.annotations.splits.values() for captioned in split]

    def _warn(self, *faults: tuple[list[str], str, str]) -> None:
        """Print one line about what is skipped: for each fault names, the fault, and what they name."""
        parts = [f"{len(names):,} {what} {fault} ({some(names, NAMED)})" for names, fault, what in faults if names]
        if parts:
            rank_zero_print(f"warning: {self.root}: skipped {' and '.join(parts)}")


Captions = dict[str, list[str]]  # by the name of the image
