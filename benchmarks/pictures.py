"""Images per second from JPEG files through random-resized-crop and flip: the zoo's data path over torchvision's and timm's.

    python benchmarks/pictures.py --count 20000

It makes files of 500x375 pixels in a temporary folder. All loaders give batches of 64 uint8 images at 224 pixels, shuffled,
with one worker a core, in turns. The zoo's first epoch, with its setup, decodes and keeps; later ones read that. Prints rates
and ratios.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import typer
from PIL import Image
from timm.data import create_dataset
from timm.data.loader import fast_collate
from timm.data.transforms_factory import transforms_imagenet_train
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

import zoo
from zoo.datamodules.files.image_files import cores

OTHERS, OURS = ("torchvision", "timm"), ("zoo, first epoch", "zoo, later epochs")
WIDTH, HEIGHT, SIZE, BATCH, CLASSES = 500, 375, 224, 64, 10


def make_files(root: Path, count: int) -> None:
    """JPEGs of smooth shapes and texture, about 50 KB each, as photographs of that size have."""
    generator = np.random.default_rng(0)
    texture = generator.normal(0, 10, (2 * HEIGHT, 2 * WIDTH, 1))
    for index in range(count):
        smooth = Image.fromarray(generator.integers(0, 256, (12, 16, 3), np.uint8)).resize(
            (WIDTH, HEIGHT), Image.Resampling.BICUBIC
        )
        top, left = generator.integers(0, HEIGHT), generator.integers(0, WIDTH)
        pixels = np.asarray(smooth) + texture[top : top + HEIGHT, left : left + WIDTH]
        path = root / f"class{index % CLASSES}" / f"{index:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=85)


def rate(batches: Callable[[], Iterable[torch.Tensor]]) -> float:
    """Images per second over one pass, with what comes before the first batch."""
    start, count = time.perf_counter(), 0
    for images in batches():
        assert images.dtype == torch.uint8 and images.shape[1:] == (3, SIZE, SIZE)
        count += len(images)
    return count / (time.perf_counter() - start)


def torchvision_batches(root: Path, workers: int) -> Iterator[torch.Tensor]:
    steps = [transforms.RandomResizedCrop(SIZE), transforms.RandomHorizontalFlip(), transforms.PILToTensor()]
    images = ImageFolder(root, transforms.Compose(steps))
    return (batch for batch, _ in DataLoader(images, BATCH, shuffle=True, num_workers=workers, drop_last=True))


def timm_batches(root: Path, workers: int) -> Iterator[torch.Tensor]:
    """The images, transforms and batches of timm's ``create_loader``, before they are normalized on the device."""
    images = create_dataset("", str(root), is_training=True)
    images.transform = transforms_imagenet_train(SIZE, color_jitter=None, interpolation="bilinear", use_prefetcher=True)
    loader = DataLoader(images, BATCH, shuffle=True, num_workers=workers, drop_last=True, collate_fn=fast_collate)
    return (batch for batch, _ in loader)


def zoo_data(root: Path, home: Path, **options: Any) -> Any:
    """The data with an empty cache."""
    shutil.rmtree(home, ignore_errors=True)
    os.environ["ZOO_HOME"] = str(home)
    augment = "resized-crop:0.08,hflip"
    fixed = {"size": SIZE, "augment": augment, "validation": 0.01, "test": 0.01, "memory_gb": 0}
    return zoo.create_data("folder", batch_size=BATCH, root=str(root), **fixed, **options)


def zoo_batches(data: Any, epoch: int) -> Iterator[torch.Tensor]:
    data.prepare_data()
    data.setup()
    loader = data.train_dataloader()
    loader.position = lambda: (epoch, 0)
    return (data.on_after_batch_transfer(batch, 0)["images"] for batch in loader)


def main(count: int = 2000, epochs: int = 3, workers: int = 0, keep: bool = True, folder: str = "") -> None:
    """Measure torchvision's, timm's and the zoo's batches in turns and print the ratios."""
    workers = workers or cores()
    with tempfile.TemporaryDirectory(dir=folder or None) as place:
        root = Path(place) / "pictures"
        make_files(root, count)
        rates: dict[str, list[float]] = {name: [] for name in (*OTHERS, *OURS)}
        for epoch in range(1, epochs + 1):
            data = zoo_data(root, Path(place) / "home", keep=keep, workers=workers)
            for name, batches in (
                ("torchvision", partial(torchvision_batches, root, workers)),
                ("zoo, first epoch", partial(zoo_batches, data, 0)),
                ("zoo, later epochs", partial(zoo_batches, data, 2 * epoch)),
                ("timm", partial(timm_batches, root, workers)),
                ("zoo, later epochs", partial(zoo_batches, data, 2 * epoch + 1)),
            ):
                rates[name].append(rate(batches))
        for name, values in rates.items():
            print(f"{name:<18}{median(values):>8,.0f} images/s   (lowest {min(values):,.0f}, highest {max(values):,.0f})")
        for name in OURS:
            ratios = (f"{median(rates[name]) / median(rates[other]):.2f} over {other}" for other in OTHERS)
            print(f"{name}: {', '.join(ratios)}")


if __name__ == "__main__":
    typer.run(main)
