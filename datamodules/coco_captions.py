"""COCO captions (Chen et al. 2015)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zoo.core.files import require_folder
from zoo.datamodules.bases.caption_files import CaptionAnnotations, CaptionedImage, CaptionFiles, Captions
from zoo.datamodules.files.json_files import identifier, read_json, text_of
from zoo.datamodules.files.named_images import find_images
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
        splits, left_out = {}, {"without_caption": [], "without_image": [], "ambiguous": []}
        for split in ("train", "val"):
            captions = read_coco(self.root / "annotations" / f"captions_{split}{self.year}.json")
            folder = self.root / f"{split}{self.year}"
            require_folder(str(folder), folder)
            found = find_images(folder, captions)
            splits[split] = [CaptionedImage(path, captions[name]) for name, path in found.paths.items()]
            left_out["without_caption"] += [Path(path).name for path in found.unnamed]
            left_out["without_image"] += sorted(captions.keys() - found.paths.keys() - {*found.ambiguous})
            left_out["ambiguous"] += found.ambiguous
        return CaptionAnnotations(splits, **left_out, in_several_splits=[])


def read_coco(path: Path) -> Captions:
    """The captions of an annotation file by the name of the image, perhaps none.

    Raises:
        UserError: it is missing, or laid out otherwise.
    """

    def read(content: Any) -> Captions:
        names = {identifier(image["id"]): text_of(image["file_name"]) for image in content["images"]}
        captions: Captions = {name: [] for name in names.values()}
        for annotation in content["annotations"]:
            captions[names[identifier(annotation["image_id"])]].append(annotation["caption"])
        return captions

    return read_json(path, read)
