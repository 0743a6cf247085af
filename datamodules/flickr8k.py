"""Flickr8k (Hodosh et al. 2013), in each format in which its captions are published."""

from __future__ import annotations

import csv
import os
from collections import defaultdict
from itertools import chain
from pathlib import Path
from typing import Any

from zoo.core.errors import UserError, one_line
from zoo.core.files import files_below
from zoo.core.randomness import derive_seed
from zoo.datamodules.bases.caption_files import CaptionAnnotations, CaptionedImage, CaptionFiles, Captions
from zoo.datamodules.bases.options import require_fraction
from zoo.datamodules.files.json_files import read_json, text_of
from zoo.datamodules.files.named_images import find_images
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
        texts = text_files(self.root)
        if karpathy := [path for name, path in sorted(texts.items()) if name.startswith("dataset") and name.endswith(".json")]:
            captions, split_of = read_karpathy(karpathy[0])
        elif path := texts.get("Flickr8k.token.txt"):
            captions, split_of = read_tokens(path), self._listed(texts)
        elif path := texts.get("captions.txt"):
            captions, split_of = read_captions(path), self._listed(texts)
        else:
            raise UserError(f"data.root={self.root}: holds no captions.txt, Flickr8k.token.txt or dataset_flickr8k.json")
        named = dict.fromkeys((*captions, *split_of))
        found = find_images(self.root, named)
        there = [name for name in captions if name in found.paths]
        if not there:
            raise UserError(f"data.root={self.root}: no image below it is one of the {len(captions):,} that have captions")
        if not split_of:
            there.sort()
            test, train = self.hold_out_by_name(there, TEST_SHARE, derive_seed(0, "test"))  # whatever the seed of the run
            split_of = {there[index]: {name} for name, part in (("train", train), ("test", test)) for index in part.tolist()}
        of_path: dict[str, list[Any]] = defaultdict(list)
        for name in there:
            of_path[found.paths[name]] += captions[name]
        splits_of_path: dict[str, set[str]] = defaultdict(set)
        for name, splits in split_of.items():
            if name in found.paths:
                splits_of_path[found.paths[name]] |= splits
        chosen: dict[str, list[CaptionedImage]] = {name: [] for name in dict.fromkeys(("train", *chain(*split_of.values())))}
        for path, splits in splits_of_path.items():
            if len(splits) == 1 and path in of_path:
                chosen[next(iter(splits))].append(CaptionedImage(path, of_path[path]))
        without_caption = sorted(Path(path).name for path in found.unnamed)
        without_image = sorted(named.keys() - found.paths.keys() - {*found.ambiguous})
        in_several = sorted(Path(path).name for path, splits in splits_of_path.items() if len(splits) > 1)
        return CaptionAnnotations(chosen, without_caption, without_image, found.ambiguous, in_several)

    def _listed(self, texts: dict[str, str]) -> dict[str, set[str]]:
        """The splits of each image by the official lists, if there are any."""
        listed = {split: texts[name] for split, name in self.LISTS.items() if name in texts}
        if listed and (missing := [name for split, name in self.LISTS.items() if split not in listed and split != "val"]):
            raise UserError(f"data.root={self.root}: holds {os.path.basename(next(iter(listed.values())))}, but no {missing[0]}")
        splits: dict[str, set[str]] = defaultdict(set)
        for split, path in listed.items():
            for line in filter(None, map(str.strip, read_text(Path(path), path).splitlines())):
                splits[line].add(split)
        return splits


def text_files(root: Path) -> dict[str, str]:
    """Text and JSON files below a folder by name; of several with one name the first in the order of their paths."""
    paths = sorted(path for path in files_below(root) if path.lower().endswith((".txt", ".json")))
    return {os.path.basename(path): path for path in reversed(paths)}


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
            try:
                name, *parts = next(csv.reader([line])) if '"' in line else line.split(",", 1)
            except csv.Error as error:
                raise UserError(f"{path}: line {number} is no CSV: {one_line(error, 60)}") from None
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


def read_karpathy(path: str) -> tuple[Captions, dict[str, set[str]]]:
    """Karpathy's split (Karpathy and Fei-Fei 2015): captions, and the splits of each image; ``restval`` counts as training.

    Raises:
        UserError: it is laid out otherwise.
    """

    def read(content: Any) -> tuple[Captions, dict[str, set[str]]]:
        captions: Captions = defaultdict(list)
        splits: dict[str, set[str]] = defaultdict(set)
        for image in content["images"]:
            name = "/".join(filter(None, (image.get("filepath"), text_of(image["filename"]))))
            captions[name] += [sentence_of(sentence) for sentence in image["sentences"]]
            splits[name].add(SPLITS[image["split"]])
        return captions, splits

    def sentence_of(sentence: dict[str, Any]) -> Any:
        return sentence["raw"] if "raw" in sentence else " ".join(filter(_is_text, sentence["tokens"]))

    return read_json(Path(path), read)


def _is_text(token: object) -> bool:
    return isinstance(token, str)


SPLITS = {"train": "train", "restval": "train", "val": "val", "test": "test"}
