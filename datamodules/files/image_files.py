"""Image files that annotations name: found in a folder, and decoded."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from zoo.datamodules.files.decoded import ImageFiles, identity_of_files, kept_content
from zoo.datamodules.files.images import EXTENSIONS
from zoo.datamodules.loading.splits import Images, ImagesInMemory


def image_files(root: Path) -> list[Path]:
    """All files below a folder that have an image's extension, sorted."""
    folders = os.walk(root)
    return sorted(Path(folder, name) for folder, _, names in folders for name in names if name.lower().endswith(EXTENSIONS))


def read_images(paths: Sequence[Path], shape: tuple[int, int], memory_gb: float) -> tuple[Images, Tensor]:
    """The images in these files that can be read, and which can, bool [files].

    Args:
        shape: (height, width) that they are resized and center-cropped to.
        memory_gb: decoded images up to this many gigabytes are held in memory; more are decoded batch by batch.
    """
    files = list(map(str, paths))
    content = kept_content(files, shape, memory_gb, identity_of_files(files, shape))
    if content.pixels is not None:
        return ImagesInMemory(content.pixels), content.readable
    good = content.readable.nonzero()[:, 0].tolist()
    return ImageFiles(tuple(files[index] for index in good), shape), content.readable
