"""Images per second through padded crop, flip and normalization: the zoo's data path over torchvision's in a DataLoader.

    python benchmarks/data.py

Both prepare the same number of CIFAR-10-sized images in batches of 128, shuffled, in turns within one process; torchvision's
transforms work on PIL images in two worker processes, as its own examples have them. Prints the ratio of the medians.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import torch
import typer
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.transforms.functional import to_pil_image

import zoo
from zoo.config.recipe import Recipe
from zoo.config.resolution import resolve
from zoo.training import building

PLUGIN = Path(__file__).with_name("random_images.py")
MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)


class PilImages(Dataset):
    """What torchvision's CIFAR10 does for an image: an array to PIL, then the transforms."""

    def __init__(self, pixels: torch.Tensor, labels: torch.Tensor) -> None:
        self.images = [to_pil_image(image) for image in pixels]
        self.labels = labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.images[index]), self.labels[index]


def images_per_second(batches: Iterator[torch.Tensor]) -> float:
    """The rate over one pass, without the first batch, before which workers start."""
    next(batches)
    start, count = time.perf_counter(), 0
    for images in batches:
        count += len(images)
    return count / (time.perf_counter() - start)


def main(rounds: int = 5, count: int = 50_000, workers: int = 2) -> None:
    """Measure in turns and print the ratio."""
    registry = zoo.scan([str(PLUGIN)])
    settings = [{"data": {"name": "random-images", "count": count}}]
    run = resolve(registry, "mlp", {}, settings)
    data = building.build_data(registry, run)
    normalize = zoo.create_model("mlp", data.spec, Recipe()).normalize  # images as torchvision gives them, [N, C, H, W] in memory
    split = data.splits["train"]
    reference = DataLoader(
        PilImages(split.images.pixels[:20_000], split.labels), 128, shuffle=True, num_workers=workers, drop_last=True
    )

    def ours() -> Iterator[torch.Tensor]:
        for batch in data.train_dataloader():
            yield normalize(data.on_after_batch_transfer(batch, 0)["images"])

    rates: dict[str, list[float]] = {"zoo": [], "torchvision": []}
    for _ in range(rounds):
        rates["torchvision"].append(images_per_second(images for images, _ in reference))
        rates["zoo"].append(images_per_second(ours()))
    for name, values in rates.items():
        print(f"{name:<12} {median(values):>10,.0f} images/s   (lowest {min(values):,.0f}, highest {max(values):,.0f})")
    print(f"ratio        {median(rates['zoo']) / median(rates['torchvision']):>10.1f}")


if __name__ == "__main__":
    typer.run(main)
