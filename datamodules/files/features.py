"""Features of images from a frozen network, computed once and cached in a file, in place of pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from zoo.core.errors import UserError
from zoo.core.files import cache_folder, replacing_path
from zoo.datamodules.files.progress import shown
from zoo.datamodules.loading.splits import Images

PART = 64  # images a forward pass


@dataclass(frozen=True)
class FeaturesOnDisk:
    """Features of images, float32 [N, ...], in a memory-mapped file; ``chosen``, int64 [n], are indices into it."""

    path: Path
    chosen: Tensor

    def __len__(self) -> int:
        return len(self.chosen)

    def batches(self, orders: Iterator[Tensor], seed: int | None = None) -> Iterator[Tensor]:
        features = np.load(self.path, mmap_mode="r")
        for indices in orders:
            yield torch.from_numpy(features[self.chosen[indices].numpy()])

    def unreadable(self, indices: Tensor) -> Tensor:
        return torch.zeros(len(indices), dtype=torch.bool)

    def subset(self, indices: Tensor) -> FeaturesOnDisk:
        return FeaturesOnDisk(self.path, self.chosen[indices])

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
    if not _holds(path, len(images)):  # what is there needs no lock, which a cache that cannot be written does not allow
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{path}.lock"):
                if not _holds(path, len(images)):
                    _write(images, encode, path)
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"features cannot be cached in {path.parent}: {reason}; set ZOO_HOME to another folder") from error
    return FeaturesOnDisk(path, torch.arange(len(images)))


def _holds(path: Path, count: int) -> bool:
    """Whether there is a complete file with features of ``count`` images."""
    try:
        return len(np.load(path, mmap_mode="r")) == count
    except (OSError, ValueError, EOFError):
        return False


@torch.inference_mode()
def _write(images: Images, encode: Callable[[Tensor], Tensor], path: Path) -> None:
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
