"""Pictures with captions: the base of such data sets, and the world of shapes, whose captions can be told true from false."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.datamodules.bases.image_text import ImageTextData, padded
from zoo.datamodules.loading.augment import Batch
from zoo.datamodules.loading.splits import Images, Split
from zoo.spec import END, PAD, START

Sentence = list[str]


@dataclass(frozen=True)
class CaptionedImages:
    """Pictures and the captions of each, in words: at least one."""

    images: Images
    captions: Sequence[Sequence[Sentence]]


class CaptionData(ImageTextData):
    """Pictures, each with sentences that say what is in it.

    A subclass implements ``build_spec`` and ``load_captions``. The labels of a split are the captions of each image, int64
    [N, R, T]: ``START``, the words, ``END``, then ``PAD``; an image with fewer than R captions has rows of ``PAD`` at the end.
    The column ``image_id``, int64 [N], is what ``references`` takes.
    """

    task = "captioning"
    max_length: int = 0  # words of a training caption that count; 0 for all

    @abstractmethod
    def load_captions(self) -> dict[str, CaptionedImages]:
        """The splits ``train``, ``test`` and, if the data set has one of its own, ``val``."""

    def load_splits(self) -> dict[str, Split]:
        self._captions: list[Sequence[Sentence]] = []
        splits = {}
        for name, told in self.load_captions().items():
            first = len(self._captions)
            self._captions += told.captions
            picture = torch.arange(first, len(self._captions))
            longest = self.max_length if name == "train" and self.max_length else self.spec.length - 1
            splits[name] = Split(told.images, self._labels(told.captions, longest), {"image_id": picture})
        return splits

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Without the columns that only longer captions of other pictures need."""
        labels = batch["labels"]
        longest = int((labels != PAD).sum(2).max())
        return {**batch, "labels": labels[:, :, :longest]}

    def references(self, pictures: Tensor) -> list[Sequence[Sentence]]:
        """All captions that were given for each of these pictures, in their own words, the rarest among them."""
        return [self._captions[picture] for picture in pictures.tolist()]

    def preview_texts(self, count: int) -> list[list[str]]:
        captions = self.references(self.splits["train"].columns["image_id"][:count])
        return [[" ".join(words) for words in sentences] for sentences in captions]

    def _labels(self, captions: Sequence[Sequence[Sentence]], longest: int) -> Tensor:
        spec, most = self.spec, max(map(len, captions), default=1)
        sentences = [sentence for given in captions for sentence in _filled(given, most)]
        # of a sentence that is cut, nobody learns that it ends there
        rows = [[START, *spec.encode(sentence[:longest]), *[END][: len(sentence) <= longest]] for sentence in sentences]
        labels = padded(rows, spec.length + 1)
        labels[labels[:, 1] == END] = PAD  # a sentence without words is none
        return labels.view(len(captions), most, spec.length + 1)


def _filled(sentences: Sequence[Sentence], most: int) -> list[Sentence]:
    return [*sentences, *[[]] * (most - len(sentences))]
