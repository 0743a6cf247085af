"""Photographs with captions, as Flickr8k and COCO were published: files of sentences, and a folder of images."""

from __future__ import annotations

import csv
import os
from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.datamodules.captions import CaptionedPictures, Told
from zoo.datamodules.decoded import MIXED_SIZE, common_size
from zoo.datamodules.images import EXTENSIONS
from zoo.datamodules.json_files import read_json
from zoo.datamodules.picture_files import read_pictures, require_folder
from zoo.datamodules.splits import Images
from zoo.errors import UserError, one_line, some
from zoo.randomness import derive_seed
from zoo.ranks import tell
from zoo.registry import register_data
from zoo.spec import CaptionSpec, ImageSpec
from zoo.words import build_vocabulary, tokenise

TEST_SHARE = 0.1  # of the images, where the data brings no list of those for testing
NAMED = 3  # of many, so many are named in a message


@dataclass(frozen=True)
class Captioned:
    """An image file and the sentences that were given for it."""

    path: str
    captions: list[str]


@dataclass(frozen=True)
class Found:
    """What there is of a data set: images with captions by split, and what is wanting."""

    splits: dict[str, list[Captioned]]
    without_caption: list[str]
    without_image: list[str]


class CaptionFiles(CaptionedPictures):
    """Image files with captions. A subclass says where they are (``find``).

    The vocabulary is that of the training captions, whose rare words it leaves out. What has no caption or no image, or cannot be
    read, is left out with a warning.

    Args:
        least: how often a word must be seen in training captions to be in the vocabulary.
        longest: words of a training caption that count, so that few long ones do not make all batches long; 0 for all.
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
        least: int,
        longest: int,
        memory_gb: float,
    ) -> None:
        super().__init__(batch_size, seed, root=root, size=size, augment=augment, validation=validation)
        if least < 1 or longest < 0:
            raise UserError(f"data.least={least}, data.longest={longest}: must be at least 1, and at least 0")
        self.least, self.longest, self.memory_gb = least, longest, memory_gb

    @abstractmethod
    def find(self) -> Found:
        """The image files and their captions, nothing opened but the files of captions.

        Raises:
            UserError: a file is missing or broken, or nothing is left.
        """

    @cached_property
    def found(self) -> Found:
        """What ``find`` finds, with what is wanting reported once."""
        require_folder(self.root, f"data.root={self.root}")
        try:
            found = self.find()
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
            name: [[words for caption in picture.captions if (words := tokenise(caption))] for picture in captioned]
            for name, captioned in self.found.splits.items()
        }

    def describe(self) -> CaptionSpec:
        height, width = self._shape
        vocabulary = build_vocabulary((words for captions in self.words["train"] for words in captions), self.least)
        longest = max(len(words) for split in self.words.values() for captions in split for words in captions)
        return CaptionSpec(ImageSpec(3, height, width, classes=()), vocabulary, longest + 1)

    def fetch(self) -> None:
        _ = self._pictures  # decoded now, by one process, and found in the cache by the others

    def tell(self) -> dict[str, Told]:
        images, readable = self._pictures
        position = (readable.cumsum(0) - 1).tolist()  # of each file among those that can be read
        place = {path: at for path, at, is_good in zip(self._paths(), position, readable.tolist(), strict=True) if is_good}
        told = {}
        for name, captioned in self.found.splits.items():
            pairs = zip(captioned, self.words[name], strict=True)
            kept = [(place[each.path], captions) for each, captions in pairs if each.path in place and captions]
            if not kept:
                raise UserError(f"{self.root}: no image of {name} can be read")
            told[name] = Told(images.subset(torch.tensor([at for at, _ in kept])), [captions for _, captions in kept])
        del self._pictures  # the splits hold what is needed of it
        return told

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), "longest caption": self.spec.length - 1, "captions": sum(map(len, self._captions))}

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
        images, readable = read_pictures(list(map(Path, paths)), self._shape, self.memory_gb)
        unreadable = [os.path.basename(paths[index]) for index in (~readable).nonzero()[:, 0].tolist()]
        self._warn((unreadable, "that cannot be read", "images"))
        return images, readable

    def _paths(self) -> list[str]:
        """Each once, though two splits may hold the same pictures."""
        return list(dict.fromkeys(captioned.path for split in self.found.splits.values() for captioned in split))

    def _warn(self, *faults: tuple[list[str], str, str]) -> None:
        """One line for what is left out: names, what is wrong with them, and what they are."""
        told = [f"{len(names):,} {what} {fault} ({some(names, NAMED)})" for names, fault, what in faults if names]
        if told:
            tell(f"warning: {self.root}: left out are {' and '.join(told)}")


@register_data("flickr8k", task="captioning", tags=["own", "colour"])
class Flickr8k(CaptionFiles):
    """Flickr8k (Hodosh et al. 2013): 8,000 photographs with five captions each, or your own pictures in the same layout.

    Anywhere below ``root``: the captions, as ``captions.txt`` (image,caption), ``Flickr8k.token.txt`` (image#0, a tab, caption)
    or Karpathy's ``dataset_flickr8k.json``; the official lists ``Flickr_8k.trainImages.txt``, ``Flickr_8k.devImages.txt`` and
    ``Flickr_8k.testImages.txt``; and the images. Where there are no lists, a tenth of the images is for testing.

    Args:
        root: the folder.
        size: pixels a side; 0 keeps the images as they are if all have one size, and else means 224.
        augment: none, light, standard, strong, or a list as in crop:8,jitter; none lets features of a frozen encoder be kept.
        validation: share of the training images held out for validation, where no list says which.
        least: how often a word must be seen in training captions to be in the vocabulary.
        longest: words of a training caption that count, so that few long ones do not make all batches long; 0 for all.
        memory_gb: decoded images up to this many gigabytes are held in memory; more are read again in every epoch.
    """

    LISTS = {"train": "Flickr_8k.trainImages.txt", "val": "Flickr_8k.devImages.txt", "test": "Flickr_8k.testImages.txt"}

    def __init__(
        self,
        batch_size: int,
        seed: int,
        root: str,
        size: int = 0,
        augment: str = "none",
        validation: float = 0.1,
        least: int = 5,
        longest: int = 0,
        memory_gb: float = 2.0,
    ) -> None:
        super().__init__(batch_size, seed, root, size, augment, validation, least, longest, memory_gb)

    def find(self) -> Found:
        texts, images = files_below(self.root)
        split_of: dict[str, str] = {}
        if karpathy := [path for name, path in sorted(texts.items()) if name.startswith("dataset") and name.endswith(".json")]:
            captions, split_of = read_karpathy(karpathy[0])
        elif path := texts.get("Flickr8k.token.txt"):
            captions = read_tokens(path)
        elif path := texts.get("captions.txt"):
            captions = read_captions(path)
        else:
            raise UserError(f"data.root={self.root}: holds no captions.txt, Flickr8k.token.txt or dataset_flickr8k.json")
        if not captions.keys() & images.keys():
            raise UserError(f"data.root={self.root}: no image below it is one of the {len(captions):,} that have captions")
        if not split_of:
            split_of = self._listed(texts, sorted(captions.keys() & images.keys()))
        named = captions.keys() | split_of.keys()
        splits: dict[str, list[Captioned]] = {name: [] for name in dict.fromkeys(("train", *split_of.values()))}
        for name, split in split_of.items():
            if name in captions and name in images:
                splits[split].append(Captioned(images[name], captions[name]))
        return Found(splits, sorted(images.keys() - captions.keys()), sorted(named - images.keys()))

    def _listed(self, texts: dict[str, str], whole: list[str]) -> dict[str, str]:
        """The split of each image, by the official lists, or at random where there is none of them."""
        listed = {split: texts[name] for split, name in self.LISTS.items() if name in texts}
        if not listed:
            generator = torch.Generator().manual_seed(derive_seed(0, "test"))
            order = torch.randperm(len(whole), generator=generator).tolist()
            for_testing = set(order[: max(1, round(TEST_SHARE * len(whole)))])
            return {name: "test" if index in for_testing else "train" for index, name in enumerate(whole)}
        if missing := [name for split, name in self.LISTS.items() if split not in listed and split != "val"]:
            raise UserError(f"data.root={self.root}: holds {os.path.basename(next(iter(listed.values())))}, but no {missing[0]}")
        return {line.strip(): split for split, path in listed.items() for line in read_lines(path) if line.strip()}


@register_data("coco-captions", task="captioning", tags=["own", "colour"])
class CocoCaptions(CaptionFiles):
    """COCO with its captions (Chen et al. 2015): 118,287 photographs for training and 5,000 for validation, five captions each.

    In the layout of its download: ``annotations/captions_train2017.json``, ``annotations/captions_val2017.json``, ``train2017/``
    and ``val2017/``. The captions of its test images are not public: what is said of testing is said of the validation images.

    Args:
        root: the folder.
        year: of the release, 2017 or 2014.
        size: pixels a side.
        augment: none, light, standard, strong, or a list as in crop:8,jitter; none lets features of a frozen encoder be kept.
        least: how often a word must be seen in training captions to be in the vocabulary.
        longest: words of a training caption that count, so that few long ones do not make all batches long; 0 for all.
        memory_gb: decoded images up to this many gigabytes are held in memory; more are read again in every epoch.
    """

    def __init__(
        self,
        batch_size: int,
        seed: int,
        root: str,
        year: int = 2017,
        size: int = 224,
        augment: str = "none",
        least: int = 5,
        longest: int = 0,
        memory_gb: float = 2.0,
    ) -> None:
        super().__init__(batch_size, seed, root, size, augment, 0.1, least, longest, memory_gb)
        self.year = year

    def find(self) -> Found:
        splits, without_caption, without_image = {}, [], []
        for split in ("train", "val"):
            file = self.root / "annotations" / f"captions_{split}{self.year}.json"
            folder = self.root / f"{split}{self.year}"
            captions = read_coco(file)
            require_folder(folder, str(folder))
            there = {name for name in os.listdir(folder) if name.lower().endswith(EXTENSIONS)}
            names = [name for name in captions if name in there and captions[name]]
            splits[split] = [Captioned(f"{folder}{os.sep}{name}", captions[name]) for name in names]
            without_caption += sorted(there - {name for name in captions if captions[name]})
            without_image += sorted(captions.keys() - there)
        return Found({**splits, "test": splits["val"]}, without_caption, without_image)


# ---------------------------------------------------------------------------------------------- published layouts

Captions = dict[str, list[str]]  # by the name of the image


def files_below(root: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Text files and images below a folder, by name; of two with one name the first, in the order of their folders."""
    texts: dict[str, str] = {}
    images: dict[str, str] = {}
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
        for name in files:
            if name.lower().endswith(EXTENSIONS):
                images.setdefault(name, f"{folder}{os.sep}{name}")
            elif name.lower().endswith((".txt", ".json")):
                texts.setdefault(name, f"{folder}{os.sep}{name}")
    return texts, {name: path for name, path in images.items() if not name.startswith(".")}


def read_lines(path: str) -> list[str]:
    """The lines of a text.

    Raises:
        UserError: it is no text.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise UserError(f"{path}: is no text in UTF-8") from None


def read_captions(path: str) -> Captions:
    """``captions.txt``: CSV of image,caption with a header; a caption may have commas without being quoted.

    Raises:
        UserError: another header, or a line without a caption.
    """
    lines = read_lines(path)
    if not lines or lines[0].strip().lower().replace(" ", "") not in ("image,caption", "image_name,comment"):
        raise UserError(f"{path}: its first line must be image,caption")
    captions: Captions = {}
    for number, line in enumerate(lines[1:], start=2):
        if line.strip():
            name, *parts = next(csv.reader([line])) if '"' in line else line.split(",", 1)
            if not parts:
                raise UserError(f"{path}: line {number} has no caption: {one_line(line, 60)}")
            captions.setdefault(name.strip(), []).append(",".join(parts))
    return captions


def read_tokens(path: str) -> Captions:
    """``Flickr8k.token.txt``: image#0, a tab, a caption.

    Raises:
        UserError: a line is not so.
    """
    captions: Captions = {}
    for number, line in enumerate(read_lines(path), start=1):
        if line.strip():
            name, tab, caption = line.partition("\t")
            if not tab:
                raise UserError(f"{path}: line {number} has no tab between image and caption: {one_line(line, 60)}")
            captions.setdefault(name.partition("#")[0].strip(), []).append(caption)
    return captions


def read_karpathy(path: str) -> tuple[Captions, dict[str, str]]:
    """Karpathy's split (Karpathy and Fei-Fei 2015): captions, and the split of each image; ``restval`` counts as training.

    Raises:
        UserError: it is not so.
    """

    def read(content: Any) -> tuple[Captions, dict[str, str]]:
        images = content["images"]
        captions = {image["filename"]: [sentence_of(sentence) for sentence in image["sentences"]] for image in images}
        return captions, {image["filename"]: SPLITS[image["split"]] for image in images}

    def sentence_of(sentence: dict[str, Any]) -> str:
        return sentence["raw"] if "raw" in sentence else " ".join(sentence["tokens"])

    return read_json(Path(path), read)


SPLITS = {"train": "train", "restval": "train", "val": "val", "test": "test"}


def read_coco(path: Path) -> Captions:
    """COCO's captions: the images of a file by name, each with its sentences, perhaps none.

    Raises:
        UserError: it is missing, or not so.
    """

    def read(content: Any) -> Captions:
        names = {image["id"]: image["file_name"] for image in content["images"]}
        captions: Captions = {name: [] for name in names.values()}
        for annotation in content["annotations"]:
            captions[names[annotation["image_id"]]].append(annotation["caption"])
        return captions

    if not path.exists():
        raise UserError(f"{path}: there is no such file")
    return read_json(path, read)
