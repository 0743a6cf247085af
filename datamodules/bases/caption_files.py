"""The base of captioning data in files, as Flickr8k and COCO are published: annotations, and folders of images."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from zoo.core.errors import UserError, one_line, some
from zoo.core.ranks import rank_zero_print
from zoo.datamodules.bases.captioning import CaptionData, CaptionedImages, Sentence
from zoo.datamodules.bases.image_text_files import NAMED, ImageTextFiles
from zoo.datamodules.bases.options import require_at_least
from zoo.datamodules.files.decoded import MIXED_SIZE, common_size
from zoo.spec import CaptionSpec, ImageSpec
from zoo.text.tokenization import build_vocabulary, tokenize


@dataclass(frozen=True)
class CaptionedImage:
    """An image file and its captions, as the annotations have them: some may be no text, or have no words."""

    path: str
    captions: list[Any]


@dataclass(frozen=True)
class CaptionAnnotations:
    """Images with captions by split, and the names of what is missing.

    Attributes:
        ambiguous: captioned names that several images have.
        in_several_splits: images that are left out, since they would be trained on and tested.
    """

    splits: dict[str, list[CaptionedImage]]
    without_caption: list[str]
    without_image: list[str]
    ambiguous: list[str]
    in_several_splits: list[str]


@dataclass(frozen=True)
class TokenizedImage:
    """An image file and the words of its captions."""

    path: str
    sentences: list[Sentence]


class CaptionFiles(ImageTextFiles, CaptionData):
    """Image files with captions. A subclass implements ``load_annotations``.

    What cannot be used is left out with a warning that counts it: images without a caption, captions without an image or without
    words. The vocabulary is that of the training captions, without rare words.

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
    def annotations(self) -> dict[str, list[TokenizedImage]]:
        """The images of each split with the words of their captions, with one warning about what is left out."""
        try:
            found = self.load_annotations()
        except OSError as error:
            raise UserError(f"{error.filename or self.root}: cannot be read: {one_line(error.strerror)}") from error
        splits, wordless, without_caption = {}, 0, [*found.without_caption]
        for name, captioned in found.splits.items():
            splits[name] = []
            for image in filter(lambda image: self.is_kept(image.path), captioned):
                sentences = [words for caption in image.captions if isinstance(caption, str) and (words := tokenize(caption))]
                wordless += len(image.captions) - len(sentences)
                if sentences:
                    splits[name].append(TokenizedImage(image.path, sentences))
                else:
                    without_caption.append(Path(image.path).name)
        left_out = {
            "images without a caption": without_caption,
            "captioned names without an image": found.without_image,
            "captioned names of several images": found.ambiguous,
            "images in several splits": found.in_several_splits,
        }
        parts = [f"{len(names):,} {fault} ({some(names, NAMED)})" for fault, names in left_out.items() if names]
        parts += [f"{wordless:,} captions without words"] if wordless else []
        skipped = f"skipped {' and '.join(parts)}" if parts else ""
        if empty := [name for name, images in splits.items() if not images]:
            raise UserError(f"{self.root}: no image of {empty[0]} has a caption with words{skipped and ': '}{skipped}")
        if skipped:
            rank_zero_print(f"warning: {self.root}: {skipped}")
        return splits

    def build_spec(self) -> CaptionSpec:
        train = (words for image in self.annotations["train"] for words in image.sentences)
        vocabulary = build_vocabulary(train, self.min_count)
        longest = max(len(words) for images in self.annotations.values() for image in images for words in image.sentences)
        return CaptionSpec(ImageSpec(3, *self._shape, classes=()), vocabulary, longest + 1)

    def load_captions(self) -> dict[str, CaptionedImages]:
        splits = {}
        read = self.read_images({name: [each.path for each in captioned] for name, captioned in self.annotations.items()})
        for name, (images, readable, files, digests) in read.items():
            captioned = zip(self.annotations[name], readable.tolist(), strict=True)
            splits[name] = CaptionedImages(images, [each.sentences for each, good in captioned if good], files, digests)
        return splits

    def summarize(self) -> dict[str, Any]:
        return {**super().summarize(), "longest caption": self.spec.length - 1, "captions": sum(map(len, self._captions))}

    @cached_property
    def _shape(self) -> tuple[int, int]:
        """(height, width) after resizing; if no size is given, that of all images, or ``MIXED_SIZE``."""
        paths = [captioned.path for split in self.annotations.values() for captioned in split]
        return self.shape if any(self.shape) else common_size(paths) or (MIXED_SIZE, MIXED_SIZE)


Captions = dict[str, list[Any]]  # by the name of the image
