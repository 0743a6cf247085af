"""The base of captioning data in files, as Flickr8k and COCO are published: annotations, and folders of images."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from zoo.core.errors import UserError, one_line, some
from zoo.core.ranks import rank_zero_print
from zoo.datamodules.bases.captioning import CaptionData, CaptionedImages
from zoo.datamodules.bases.image_text_files import NAMED, ImageTextFiles
from zoo.datamodules.bases.options import require_at_least
from zoo.datamodules.files.decoded import MIXED_SIZE, common_size
from zoo.spec import CaptionSpec, ImageSpec
from zoo.text.tokenization import build_vocabulary, tokenize


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


class CaptionFiles(ImageTextFiles, CaptionData):
    """Image files with captions. A subclass implements ``load_annotations``.

    Images without a caption and captions without an image are left out with a warning. The vocabulary is that of the training
    captions, without rare words.

    Args:
        max_length: truncate training captions to this many words, so that few long ones do not slow down all; 0 for all.
    """

    smallest = 0  # the images' own size

    def __init__(self, batch_size: int, seed: int, root: str, max_length: int = 0, **options: Any) -> None:
        super().__init__(batch_size, seed, root, **options)
        require_at_least(0, max_length=max_length)
        self.max_length = max_length

    @abstractmethod
    def load_annotations(self) -> CaptionAnnotations:
        """Read the annotations and find the image files, without opening any.

        Raises:
            UserError: a file is missing or broken, or nothing is left.
        """

    @cached_property
    def annotations(self) -> CaptionAnnotations:
        """What ``load_annotations`` returns, with one warning about what is missing."""
        try:
            found = self.load_annotations()
        except OSError as error:
            raise UserError(f"{error.filename or self.root}: cannot be read: {one_line(error.strerror)}") from error
        for name, captioned in found.splits.items():
            if not captioned:
                raise UserError(f"{self.root}: no image of {name} has a caption")
        missing = {"images without a caption": found.without_caption, "captioned names without an image": found.without_image}
        parts = [f"{len(names):,} {fault} ({some(names, NAMED)})" for fault, names in missing.items() if names]
        if parts:
            rank_zero_print(f"warning: {self.root}: skipped {' and '.join(parts)}")
        return found

    @cached_property
    def _words(self) -> dict[str, list[list[list[str]]]]:
        """The captions of each image of each split, tokenized; those without words are left out."""
        return {
            name: [[words for caption in image.captions if (words := tokenize(caption))] for image in captioned]
            for name, captioned in self.annotations.splits.items()
        }

    def build_spec(self) -> CaptionSpec:
        vocabulary = build_vocabulary((words for captions in self._words["train"] for words in captions), self.min_count)
        longest = max(len(words) for split in self._words.values() for captions in split for words in captions)
        return CaptionSpec(ImageSpec(3, *self._shape, classes=()), vocabulary, longest + 1)

    def load_captions(self) -> dict[str, CaptionedImages]:
        splits = {}
        for name, captioned in self.annotations.splits.items():
            images, readable = self.read_images([Path(each.path) for each in captioned], name)
            captions = [words for words, good in zip(self._words[name], readable.tolist(), strict=True) if good]
            if not any(captions):
                raise UserError(f"{self.root}: no image of {name} has a caption with words")
            if not all(captions):
                images = images.subset(torch.tensor([place for place, words in enumerate(captions) if words]))
            splits[name] = CaptionedImages(images, list(filter(None, captions)))
        return splits

    def summarize(self) -> dict[str, Any]:
        return {**super().summarize(), "longest caption": self.spec.length - 1, "captions": sum(map(len, self._captions))}

    @cached_property
    def _shape(self) -> tuple[int, int]:
        """(height, width) after resizing; if no size is given, that of all images, or ``MIXED_SIZE``."""
        paths = [captioned.path for split in self.annotations.splits.values() for captioned in split]
        return self.shape if any(self.shape) else common_size(paths) or (MIXED_SIZE, MIXED_SIZE)


Captions = dict[str, list[str]]  # by the name of the image
