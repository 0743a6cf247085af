"""Time per training step with one augmentation over that with another, for random images of 32 pixels.

    python benchmarks/augmentation.py
    python benchmarks/augmentation.py resnet20 --augment standard --augment trivial --augment crop:4,hflip,rand:2,9

Each step augments a batch, goes forward and backward through the network and updates it. All augmentations take turns, block by
block, so that a machine whose speed drifts slows all alike; ratios are to the first.
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median, quantiles
from typing import Annotated

import torch
import typer

import zoo
from zoo.config.resolution import resolve
from zoo.core.randomness import derive_seed
from zoo.datamodules.loading.augmentations.augmentation import Augmentation
from zoo.training import building

PLUGIN = Path(__file__).with_name("random_images.py")


def main(
    model: Annotated[str, typer.Argument(help="A classification model.")] = "convnet",
    augment: Annotated[list[str], typer.Option(metavar="AUGMENTATION")] = ["standard", "trivial", "crop:4,hflip,trivial"],  # noqa: B006
    batch_size: int = 128,
    block: Annotated[int, typer.Option(help="Steps that each goes before the next has its turn.")] = 5,
    rounds: int = 20,
) -> None:
    """Train with each in turn and print the ratios."""
    registry = zoo.scan([str(PLUGIN)])
    settings = {"data": {"name": "random-images", "count": 2000}, "recipe": {"batch_size": batch_size}}
    run = resolve(registry, model, {}, [settings])
    data = building.build_data(registry, run)
    task = building.build_task(registry, run, data.spec).train()
    layout = torch.channels_last if task.channels_last else torch.contiguous_format
    task = task.to(memory_format=layout)
    optimizer = torch.optim.SGD(task.parameters(), 1e-4, 0.9, fused=True)
    augmentations = {each: Augmentation(data.transforms_of(each, 32), len(data.spec.classes), 32) for each in augment}
    times: dict[str, list[float]] = {each: [] for each in augment}
    split, step = data.splits["train"], 0
    for turn in range(rounds + 1):
        for name, augmentation in augmentations.items():
            start = time.perf_counter()
            for _ in range(block):
                step += 1
                indices = torch.arange(step * batch_size, (step + 1) * batch_size) % 1000
                batch = {"images": split.images.pixels[indices], "labels": split.labels[indices]}
                batch = augmentation(batch, derive_seed(0, "benchmark", step))
                logits = task(task.normalize(batch["images"]))
                task.loss(logits, batch.get("targets", batch["labels"])).backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            times[name] += [(time.perf_counter() - start) / block] if turn else []  # the first is warming up
    print(f"{model}, {batch_size} images of 3x32x32, {torch.get_num_threads()} threads, {rounds} blocks of {block} steps")
    width = max(map(len, augment))
    for name, values in times.items():
        ratios = [own / first for own, first in zip(values, times[augment[0]], strict=True)]
        low, _, high = quantiles(ratios, n=4)
        print(
            f"{name:<{width}}  {1e3 * median(values):8.2f} ms a step   ratio {median(ratios):.3f}   (half of the blocks from "
            f"{low:.3f} to {high:.3f})"
        )


if __name__ == "__main__":
    typer.run(main)
