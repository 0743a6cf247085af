"""COCO captions (Chen et al. 2015)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from zoo.core.files import require_folder
from zoo.datamodules.bases.caption_files import CaptionAnnotations, CaptionedImage, CaptionFiles, Captions
from zoo.datamodules.files.images import EXTENSIONS
from zoo.datamodules.files.json_files import read_json
from zoo.registry.entry import register_data


@register_data("coco-captions", task="captioning", tags=["local-files", "color"], paper="1504.00325")
class CocoCaptions(CaptionFiles):
    """Photographs of COCO with five captions each: 118,287 for training, 5,000 for testing (Chen et al. 2015).

    In the layout of its download: ``annotations/captions_train2017.json``, ``annotations/captions_val2017.json``, ``train2017/``
    (118,287 images) and ``val2017/`` (5,000). The captions of its test images are not public: testing is on the
    validation images.

    Args:
        year: year of the release, 2017 or 2014.
    """

    def __init__(self, batch_size: int, seed: int, root: str, year: int = 2017, **options: Any) -> None:
        super().__init__(batch_size, seed, root, **options)
        self.year = year

    def load_annotations(self) -> CaptionAnnotations:
        splits, without_caption, without_image = {}, [], []
        for split in ("train", "val"):
            file = self.root / "annotations" / f"captions_{split}{self.year}.json"
            folder = self.root / f"{split}{self.year}"
            captions = read_coco(file)
            require_folder(str(folder), folder)
            there = {name for name in os.listdir(folder) if name.lower().endswith(EXTENSIONS)}
            names = [name for name in captions if name in there and captions[name]]
            splits[split] = [CaptionedImage(f"{folder}{os.sep}{name}", captions[name]) for name in names]
            without_caption += sorted(there - {name for name in captions if captions[name]})
            without_image += sorted(captions.keys() - there)
        return CaptionAnnotations(splits, without_caption, without_image)


def read_coco(path: Path) -> Captions:
    """The captions of an annotation file by the name of the image, perhaps none.

    Raises:
        UserError: it is missing, or laid out otherwise.
    """

    def read(content: Any) -> Captions:
        names = {image["id"]: image["file_name"] for image in content["images"]}
        captions: Captions = {name: [] for name in names.values()}
        for annotation in content["annotations"]:
            captions[names[annotation["image_id"]]].append(annotation["caption"])
        return captions

    return read_json(path, read)
