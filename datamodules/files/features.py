"""Features of images from a frozen network, computed once and cached in a file, in place of pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from zoo.core.errors import UserError
from zoo.core.files import cache_folder, replacing, replacing_path
from zoo.datamodules.files.image_files import ImageFiles
from zoo.datamodules.files.progress import shown
from zoo.datamodules.loading.splits import Images

PART = 64  # images a forward pass


@dataclass(frozen=True)
class FeaturesOnDisk:
    """Features of images, float32 [N, ...], in a memory-mapped file.

    In place of those of an image that could not be read come those of the next.

    Args:
        chosen: int64 [n], indices into the file.
        unreadable: which of these could not be read, bool [n].
    """

    path: Path
    chosen: Tensor
    unreadable: Tensor

    def __len__(self) -> int:
        return len(self.chosen)

    def batches(self, orders: Iterator[Tensor], seed: int | None = None) -> Iterator[Tensor]:
        features = np.load(self.path, mmap_mode="r")
        for indices in orders:
            yield torch.from_numpy(features[self.chosen[self.used(indices)].numpy()])

    def used(self, indices: Tensor) -> Tensor:
        if self.unreadable.all():
            return indices
        while (unreadable := self.unreadable[indices]).any():
            indices = torch.where(unreadable, (indices + 1) % len(self), indices)
        return indices

    def subset(self, indices: Tensor) -> FeaturesOnDisk:
        return FeaturesOnDisk(self.path, self.chosen[indices], self.unreadable[indices])

    def identity(self) -> str:
        return blake2b(self.path.name.encode() + self.chosen.numpy().tobytes(), digest_size=16).hexdigest()


def cached_features(images: Images, encode: Callable[[Tensor], Tensor], network: str) -> FeaturesOnDisk:
    """Compute the features of all images, or find them in the cache: one process computes, the others wait.

    Args:
        encode: uint8 images [n, C, H, W] to features [n, ...].
        network: fingerprint of the network and its weights.

    Raises:
        UserError: the cache cannot be written.
    """
    identity = blake2b(f"{network} {images.identity()}".encode(), digest_size=16).hexdigest()
    path = cache_folder() / "features" / f"{identity}.npy"
    kept = _open(path, len(images))
    if kept is None:  # what is there needs no lock, which a cache that cannot be written does not allow
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{path}.lock"):
                kept = _open(path, len(images))
                if kept is None:
                    _write(images, encode, path)
                    kept = _open(path, len(images))
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"features cannot be cached in {path.parent}: {reason}; set ZOO_HOME to another folder") from error
    return kept


def _open(path: Path, count: int) -> FeaturesOnDisk | None:
    """The features of ``count`` images, if there is a complete file."""
    unreadable = torch.zeros(count, dtype=torch.bool)
    try:
        if len(np.load(path, mmap_mode="r")) != count:
            return None
        unreadable[torch.from_numpy(np.load(_names_unreadable(path)))] = True
    except (OSError, ValueError, EOFError, IndexError, TypeError):
        return None
    return FeaturesOnDisk(path, torch.arange(count), unreadable)


def _names_unreadable(path: Path) -> Path:
    """The file with the indices, int64, of the images that could not be read."""
    return path.with_suffix(".unreadable.npy")


@torch.inference_mode()
def _write(images: Images, encode: Callable[[Tensor], Tensor], path: Path) -> None:
    if isinstance(images, ImageFiles):
        images = replace(images, keep=False)  # the pixels are not needed again
    out = None
    start = 0
    batches = images.batches(iter(torch.arange(len(images)).split(PART)))
    with replacing_path(path) as beside:
        for pixels in shown(batches, len(images), PART, "computing features of"):
            features = encode(pixels).float().cpu().numpy()
            if out is None:
                out = np.lib.format.open_memmap(beside, "w+", np.float32, (len(images), *features.shape[1:]))
            out[start : start + len(features)] = features
            start += len(features)
        out.flush()
        everything = torch.arange(len(images))
        with replacing(_names_unreadable(path)) as file:
            np.save(file, everything[images.used(everything) != everything].numpy())
