"""Pictures with captions: the base of such data sets, and the world of shapes, whose captions can be told true from false."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.datamodules.augment import Batch
from zoo.datamodules.splits import Images, ImagesInMemory, Split
from zoo.datamodules.worded import WordedPictures, padded
from zoo.datamodules.worlds import shapes
from zoo.datamodules.worlds.captions import LONGEST, WORDS, is_true, write_captions
from zoo.errors import UserError
from zoo.registry import register_data
from zoo.spec import END, PAD, SPECIAL_WORDS, START, CaptionSpec, ImageSpec

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


@register_data("shapes-captions", task="captioning", tags=["embedded", "colour"])
class ShapesCaptions(CaptionedPictures):
    """Coloured shapes on a dark ground, with captions such as: a small red circle is left of a large striped square.

    Each caption is about the two most salient things, large ones first and then from left to right, and of any caption it can be
    told whether all that it states is true. The pictures are the same for every seed, and no two splits share one.

    Args:
        pictures: for training; there are 1,000 for validation and 1,000 for testing besides.
        captions: of each picture for training; those held out have five, to be compared with.
        most: things in a picture, at most; from 1 to 5.
        size: pixels a side.
        augment: none, light, standard, strong, or a list as in crop:4,jitter.
    """

    HELD_OUT = 1000

    def __init__(
        self,
        batch_size: int,
        seed: int,
        pictures: int = 20_000,
        captions: int = 2,
        most: int = 5,
        size: int = 64,
        augment: str = "none",
    ) -> None:
        super().__init__(batch_size, seed, root=None, size=size, augment=augment, validation=0.1)
        if not 1 <= most <= shapes.MOST:
            raise UserError(f"data.most={most}: must be from 1 to {shapes.MOST}")
        if min(pictures, captions) < 1:
            raise UserError(f"data.pictures={pictures}, data.captions={captions}: both must be at least 1")
        if size < shapes.SIDE // 2:
            raise UserError(f"data.size={size}: must be at least {shapes.SIDE // 2}, or no shape can be told from another")
        self.pictures, self.captions, self.most = pictures, captions, most
        self._scenes: list[tuple[shapes.Thing, ...]] = []

    def describe(self) -> CaptionSpec:
        return CaptionSpec(ImageSpec(3, self.size, self.size, classes=()), (*SPECIAL_WORDS, *WORDS), LONGEST + 1)

    def tell(self) -> dict[str, Told]:
        told = {}
        self._scenes = []
        for name in shapes.SPLITS:
            pictures, captions = (self.pictures, self.captions) if name == "train" else (self.HELD_OUT, 5)
            scenes = shapes.draw_scenes(0, name, range(pictures), most=self.most)
            things = scenes.things()
            self._scenes += things
            sentences = [
                [caption.split() for caption in write_captions(of_scene, key, captions)]
                for of_scene, key in zip(things, scenes.key.tolist(), strict=True)
            ]
            told[name] = Told(ImagesInMemory(shapes.render(scenes, self.size)), sentences)
        return told

    def scenes(self, pictures: Tensor) -> list[tuple[shapes.Thing, ...]]:
        """What is in each of these pictures."""
        return [self._scenes[picture] for picture in pictures.tolist()]

    def true_captions(self, pictures: Tensor, captions: Sequence[Sentence]) -> list[bool]:
        """Whether all that each caption states of its picture holds."""
        return [is_true(" ".join(words), scene) for words, scene in zip(captions, self.scenes(pictures), strict=True)]
