"""A folder of images, one folder per class, with or without folders for the splits."""

from __future__ import annotations

from typing import Any

from zoo.datamodules.bases.classified_files import ClassifiedFiles
from zoo.datamodules.files.image_tree import Tree
from zoo.datamodules.files.kept_tree import kept_tree
from zoo.registry.entry import register_data


@register_data("folder", task="classification", tags=["local-files", "color"])
class Folder(ClassifiedFiles):
    """Your own images, one folder per class: root/cat/1.jpg, or root/train/cat/1.jpg and root/test/cat/2.jpg.

    With a folder for training, those for testing and validation are used, too, by any of their usual names, as in ``Training``,
    ``dev`` or ``test_set``; missing splits are drawn from the training images. Images become RGB, or gray if all are; transparent
    parts become white. Those of another size are resized and cropped. Files that cannot be read are skipped with a warning.

    Args:
        root: folder that contains one folder per class.
    """

    labels_in_paths = True

    def __init__(self, batch_size: int, seed: int, root: str, **options: Any) -> None:
        super().__init__(batch_size, seed, root=root, **options)

    def list_files(self, whole: bool) -> Tree:
        return kept_tree(self.root, fewest_classes=1 if whole else 2)
