"""COCO captions (Chen et al. 2015)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from zoo.core.errors import UserError
from zoo.datamodules.bases.caption_files import CaptionAnnotations, CaptionedImage, CaptionFiles, Captions
from zoo.datamodules.files.image_files import require_folder
from zoo.datamodules.files.images import EXTENSIONS
from zoo.datamodules.files.json_files import read_json
from zoo.registry.entry import register_data


@register_data("coco-captions", task="captioning", tags=["own", "color"])
class CocoCaptions(CaptionFiles):
    """COCO with its captions (Chen et al. 2015): 118,287 photographs for training and 5,000 for validation, five captions each.

    In the layout of its download: ``annotations/captions_train2017.json``, ``annotations/captions_val2017.json``, ``train2017/``
    and ``val2017/``. The captions of its test images are not public: what is said of testing is said of the validation images.

    Args:
        root: the folder.
        year: of the release, 2017 or 2014.
        size: pixels a side.
        augment: none, light, standard, strong, or a list as in crop:8,jitter; none lets features of a frozen encoder be kept.
        min_count: how often a word must be seen in training captions to be in the vocabulary.
        max_length: words of a training caption that count, so that few long ones do not make all batches long; 0 for all.
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
        min_count: int = 5,
        max_length: int = 0,
        memory_gb: float = 2.0,
    ) -> None:
        super().__init__(batch_size, seed, root, size, augment, 0.1, min_count, max_length, memory_gb)
        self.year = year

    def load_annotations(self) -> CaptionAnnotations:
        splits, without_caption, without_image = {}, [], []
        for split in ("train", "val"):
            file = self.root / "annotations" / f"captions_{split}{self.year}.json"
            folder = self.root / f"{split}{self.year}"
            captions = read_coco(file)
            require_folder(folder, str(folder))
            there = {name for name in os.listdir(folder) if name.lower().endswith(EXTENSIONS)}
            names = [name for name in captions if name in there and captions[name]]
            splits[split] = [CaptionedImage(f"{folder}{os.sep}{name}", captions[name]) for name in names]
            without_caption += sorted(there - {name for name in captions if captions[name]})
            without_image += sorted(captions.keys() - there)
        return CaptionAnnotations({**splits, "test": splits["val"]}, without_caption, without_image)


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
