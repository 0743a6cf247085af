"""Small images of smooth colors, folders of them, and what a data module reads from these."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from zoo.datamodules.folder import Folder


def picture(width: int = 12, height: int = 12, seed: int = 0, mode: str = "RGB") -> Image.Image:
    """Smooth colors, so that lossy formats stay near."""
    small = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def save(path: Path, image: Image.Image | None = None, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (image or picture()).save(path, **options)
    return path


def make(root: Path, count: int = 10, classes: tuple[str, ...] = ("cat", "dog"), size: tuple[int, int] = (12, 12)) -> Path:
    for position, name in enumerate(classes):
        for index in range(count):
            save(root / name / f"{index:02}.png", picture(*size, seed=100 * position + index))
    return root


def ready(root: Path, **options) -> Folder:
    data = Folder(4, 0, str(root), **options)
    data.prepare_data()
    data.setup()
    return data


def sizes(data: Folder) -> dict[str, int]:
    return {name: len(split) for name, split in data.splits.items()}


def all_pixels(data: Folder, name: str) -> Tensor:
    split = data.splits[name]
    return torch.cat(list(split.images.batches(iter(torch.arange(len(split)).split(5)))))


def decoding_fails(*_):
    raise AssertionError("decoded, though it was to be in the cache")
