"""Pictures that are named in a file of words: found in a folder, and read like those of any folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from zoo.core.errors import UserError
from zoo.datamodules.files.decoded import ImageFiles, identity_of_files, kept_content
from zoo.datamodules.files.images import EXTENSIONS
from zoo.datamodules.loading.splits import Images, ImagesInMemory


def require_folder(path: Path | None, name: str) -> None:
    """Refuse what is no folder.

    Args:
        name: what the message calls it.

    Raises:
        UserError: it is missing, or a file.
    """
    if path is None or not path.is_dir():
        raise UserError(f"{name}: {'is not a folder' if path and path.exists() else 'there is no such folder'}")


def image_files(root: Path | None) -> list[Path]:
    """All files below a folder that have the name of an image, sorted.

    Raises:
        UserError: there is no such folder.
    """
    require_folder(root, f"data.root={root}")
    folders = os.walk(root)
    return sorted(Path(folder, name) for folder, _, names in folders for name in names if name.lower().endswith(EXTENSIONS))


def read_images(paths: Sequence[Path], shape: tuple[int, int], memory_gb: float) -> tuple[Images, Tensor]:
    """The pictures in these files that can be read, and which can, bool [files].

    Args:
        shape: height and width that they are brought to: scaled, and the middle cut out.
        memory_gb: up to so many gigabytes are held in memory; more are read again whenever they are asked for.
    """
    files = list(map(str, paths))
    in_memory = len(files) * 3 * shape[0] * shape[1] <= memory_gb * 1e9
    content = kept_content(files, shape, in_memory, identity_of_files(files, shape))
    if content.pixels is not None:
        return ImagesInMemory(content.pixels), content.readable
    good = content.readable.nonzero()[:, 0].tolist()
    return ImageFiles(tuple(files[index] for index in good), shape), torch.as_tensor(content.readable)
