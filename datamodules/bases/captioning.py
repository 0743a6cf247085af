"""The base of captioning data: images, each with captions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.datamodules.bases.image_text import ImageTextData, padded
from zoo.datamodules.files.digests import NotedDigests
from zoo.datamodules.loading.loader import Batch
from zoo.datamodules.loading.splits import Images, Split
from zoo.spec import END, PAD, START, CaptionSpec

Sentence = list[str]


@dataclass(frozen=True)
class CaptionedImages:
    """Images and the captions of each, tokenized: at least one; ``files`` and ``digests`` as in ``Split``."""

    images: Images
    captions: Sequence[Sequence[Sentence]]
    files: Sequence[str] = ()
    digests: Tensor | NotedDigests | None = None


class CaptionData(ImageTextData):
    """Images, each with captions. A subclass implements ``build_spec`` and ``load_captions``.

    A batch has ``images``, uint8 [N, C, H, W]; ``labels``, int64 [N, R, T], the captions of each image: ``START``, the words,
    ``END``, then ``PAD``, and rows of ``PAD`` where an image has fewer than R; and ``image_id``, int64 [N], for ``references``.
    """

    task = "captioning"
    spec: CaptionSpec
    max_length: int = 0  # words to which training captions are truncated; 0 for all

    @abstractmethod
    def load_captions(self) -> dict[str, CaptionedImages]:
        """The splits, as in ``load_splits``."""

    def load_splits(self) -> dict[str, Split]:
        self._captions: list[Sequence[Sentence]] = []
        splits = {}
        for name, captioned in self.load_captions().items():
            first = len(self._captions)
            self._captions += captioned.captions
            image_id = torch.arange(first, len(self._captions))
            longest = self.max_length if name == "train" and self.max_length else self.spec.length - 1
            labels, files = self._labels(captioned.captions, longest), captioned.files
            splits[name] = Split(captioned.images, labels, {"image_id": image_id}, files=files, digests=captioned.digests)
        return splits

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Drop the columns in which all captions of the batch are padding."""
        labels = batch["labels"]
        longest = int((labels != PAD).sum(2).max())
        return {**batch, "labels": labels[:, :, :longest]}

    def references(self, image_id: Tensor) -> list[Sequence[Sentence]]:
        """All captions of each of these images, with their words outside the vocabulary."""
        return [self._captions[index] for index in image_id.tolist()]

    def preview_texts(self, chosen: Tensor) -> list[list[str]]:
        captions = self.references(self.splits["train"].columns["image_id"][chosen])
        return [[" ".join(words) for words in sentences] for sentences in captions]

    def _labels(self, captions: Sequence[Sequence[Sentence]], longest: int) -> Tensor:
        spec, most = self.spec, max(map(len, captions), default=1)
        sentences = [sentence for given in captions for sentence in [*given, *[[]] * (most - len(given))]]
        # a truncated caption has no END: nothing is learned about where it ends
        rows = [[START, *spec.encode(sentence[:longest]), *[END][: len(sentence) <= longest]] for sentence in sentences]
        labels = padded(rows, spec.length + 1)
        labels[labels[:, 1] == END] = PAD  # a sentence without words is none
        return labels.view(len(captions), most, spec.length + 1)
