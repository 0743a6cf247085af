"""Flickr8k (Hodosh et al. 2013), in each format in which its captions are published."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

from zoo.core.errors import UserError, one_line
from zoo.core.randomness import derive_seed
from zoo.datamodules.bases.caption_files import CaptionAnnotations, CaptionedImage, CaptionFiles, Captions
from zoo.datamodules.bases.options import require_fraction
from zoo.datamodules.files.images import EXTENSIONS
from zoo.datamodules.files.json_files import read_json
from zoo.datamodules.loading.held_out import split_at_random
from zoo.registry.entry import register_data
from zoo.text.files import read_text

TEST_SHARE = 0.1  # of the images, where the data brings no list of those for testing


@register_data("flickr8k", task="captioning", tags=["local-files", "color"])
class Flickr8k(CaptionFiles):
    """8,000 photographs with five captions each: Hodosh et al. 2013, or your own images in its layout.

    Anywhere below ``root``: the captions, as ``captions.txt`` (image,caption), ``Flickr8k.token.txt`` (image#0, a tab, caption)
    or Karpathy's ``dataset_flickr8k.json``; the official lists ``Flickr_8k.trainImages.txt``, ``Flickr_8k.devImages.txt`` and
    ``Flickr_8k.testImages.txt``; and the images. Without lists, a tenth of the images is for testing.

    Args:
        size: height and width in pixels; 0 keeps the size of the images if all have the same, and is 224 otherwise.
        validation: fraction of the training images held out for validation, without a list of validation images.
    """

    LISTS = {"train": "Flickr_8k.trainImages.txt", "val": "Flickr_8k.devImages.txt", "test": "Flickr_8k.testImages.txt"}

    def __init__(self, batch_size: int, seed: int, root: str, size: int = 0, validation: float = 0.1, **options: Any) -> None:
        super().__init__(batch_size, seed, root, size=size, **options)
        require_fraction(validation=validation)
        self.validation = validation

    def load_annotations(self) -> CaptionAnnotations:
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
        splits: dict[str, list[CaptionedImage]] = {name: [] for name in dict.fromkeys(("train", *split_of.values()))}
        for name, split in split_of.items():
            if name in captions and name in images:
                splits[split].append(CaptionedImage(images[name], captions[name]))
        return CaptionAnnotations(splits, sorted(images.keys() - captions.keys()), sorted(named - images.keys()))

    def _listed(self, texts: dict[str, str], whole: list[str]) -> dict[str, str]:
        """The split of each image, by the official lists, or at random without any."""
        listed = {split: texts[name] for split, name in self.LISTS.items() if name in texts}
        if not listed:
            for_testing = set(split_at_random(len(whole), TEST_SHARE, derive_seed(0, "test"))[0].tolist())
            return {name: "test" if index in for_testing else "train" for index, name in enumerate(whole)}
        if missing := [name for split, name in self.LISTS.items() if split not in listed and split != "val"]:
            raise UserError(f"data.root={self.root}: holds {os.path.basename(next(iter(listed.values())))}, but no {missing[0]}")
        lines = {split: map(str.strip, read_text(Path(path), path).splitlines()) for split, path in listed.items()}
        return {line: split for split, stripped in lines.items() for line in stripped if line}


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


def read_captions(path: str) -> Captions:
    """``captions.txt``: CSV of image,caption with a header; a caption may have commas without being quoted.

    Raises:
        UserError: another header, or a line without a caption.
    """
    lines = read_text(Path(path), path).splitlines()
    if lines[0].strip().lower().replace(" ", "") not in ("image,caption", "image_name,comment"):
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
        UserError: a line without a tab.
    """
    captions: Captions = {}
    for number, line in enumerate(read_text(Path(path), path).splitlines(), start=1):
        if line.strip():
            name, tab, caption = line.partition("\t")
            if not tab:
                raise UserError(f"{path}: line {number} has no tab between image and caption: {one_line(line, 60)}")
            captions.setdefault(name.partition("#")[0].strip(), []).append(caption)
    return captions


def read_karpathy(path: str) -> tuple[Captions, dict[str, str]]:
    """Karpathy's split (Karpathy and Fei-Fei 2015): captions, and the split of each image; ``restval`` counts as training.

    Raises:
        UserError: it is laid out otherwise.
    """

    def read(content: Any) -> tuple[Captions, dict[str, str]]:
        images = content["images"]
        captions = {image["filename"]: [sentence_of(sentence) for sentence in image["sentences"]] for image in images}
        return captions, {image["filename"]: SPLITS[image["split"]] for image in images}

    def sentence_of(sentence: dict[str, Any]) -> str:
        return sentence["raw"] if "raw" in sentence else " ".join(sentence["tokens"])

    return read_json(Path(path), read)


SPLITS = {"train": "train", "restval": "train", "val": "val", "test": "test"}
