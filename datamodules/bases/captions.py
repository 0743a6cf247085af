"""Pictures with captions: the base of such data sets, and the world of shapes, whose captions can be told true from false."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.datamodules.bases.worded import WordedPictures, padded
from zoo.datamodules.loading.augment import Batch
from zoo.datamodules.loading.splits import Images, Split
from zoo.spec import END, PAD, START

Sentence = list[str]


@dataclass(frozen=True)
class Told:
    """Pictures and the captions of each, in words: at least one."""

    images: Images
    captions: Sequence[Sequence[Sentence]]


class CaptionedPictures(WordedPictures):
    """Pictures, each with sentences that say what is in it.

    A subclass gives its spec (``describe``) and its pictures with their captions (``tell``). The labels of a split are the
    captions of each picture, int64 [N, R, T]: ``START``, the words, ``END``, and then ``PAD``; a picture with fewer captions than
    R has rows of ``PAD`` at the end. Beside them stands ``picture``, int64 [N], by which ``references`` knows a picture.
    """

    task = "captioning"
    longest: int = 0  # words of a training caption that count; 0 for all

    @abstractmethod
    def tell(self) -> dict[str, Told]:
        """The splits ``train``, ``test`` and, if the data set has one of its own, ``val``."""

    def read(self) -> dict[str, Split]:
        self._captions: list[Sequence[Sentence]] = []
        splits = {}
        for name, told in self.tell().items():
            first = len(self._captions)
            self._captions += told.captions
            picture = torch.arange(first, len(self._captions))
            longest = self.longest if name == "train" and self.longest else self.spec.length - 1
            splits[name] = Split(told.images, self._labels(told.captions, longest), {"picture": picture})
        return splits

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Without the columns that only longer captions of other pictures need."""
        labels = batch["labels"]
        longest = int((labels != PAD).sum(2).max())
        return {**batch, "labels": labels[:, :, :longest]}

    def references(self, pictures: Tensor) -> list[Sequence[Sentence]]:
        """All captions that were given for each of these pictures, in their own words, the rarest among them."""
        return [self._captions[picture] for picture in pictures.tolist()]

    def told(self, count: int) -> list[list[str]]:
        captions = self.references(self.splits["train"].beside["picture"][:count])
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
