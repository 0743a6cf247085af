"""Time per training step: ``zoo train`` over the best loop that one would write by hand for the same network and data.

    python benchmarks/loop.py mlp
    python benchmarks/loop.py resnet20 --steps 60

The loop by hand has all that makes one fast: images in memory as bytes, indexed and augmented by batch, channels_last, a fused
optimizer, gradients set to None, nothing logged. The zoo's is the whole command's training, with its records, checkpoints and
progress. They run in turns within one process; the ratio is the median over rounds, in
each of which both ran.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from torch.nn import functional as F

import zoo
from zoo.recipe import Run, resolve
from zoo.training import engine
from zoo.training.metrics_log import read_metrics

PLUGIN = Path(__file__).with_name("random_images.py")


def by_hand(registry: Any, run: Run, data: Any, steps: int, every: int) -> list[float]:
    """Seconds a step, measured over each ``every`` steps."""
    recipe = run.recipe
    network = engine.build_task(registry, run, data.spec).train()
    pixels, labels = data.splits["train"].images.pixels, data.splits["train"].labels
    mean, std = (255 * torch.tensor(values).view(1, -1, 1, 1) for values in (data.spec.mean, data.spec.std))
    scale, shift = 1 / std, -mean / std
    if recipe.optimizer == "sgd":
        optimizer = torch.optim.SGD(
            network.parameters(), recipe.lr, 0.9, weight_decay=recipe.weight_decay, nesterov=True, fused=True
        )
    else:
        optimizer = torch.optim.AdamW(network.parameters(), recipe.lr, weight_decay=recipe.weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, steps + 1, cycle_momentum=False)
    order = torch.randperm(len(pixels))
    layout = torch.channels_last if network.channels_last else torch.contiguous_format
    times, start = [], time.perf_counter()
    for step in range(steps):
        indices = order[step * recipe.batch_size % (len(pixels) - recipe.batch_size) :][: recipe.batch_size]
        images = pixels.index_select(0, indices)
        if data.augment != "none":
            images = crop_and_flip(images)
        inputs = images.float().mul_(scale).add_(shift).contiguous(memory_format=layout)
        loss = F.cross_entropy(network.forward(inputs), labels[indices])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % every == 0:
            times.append((time.perf_counter() - start) / every)
            start = time.perf_counter()
    return times


def crop_and_flip(images: torch.Tensor, padding: int = 4) -> torch.Tensor:
    """Shift by up to ``padding`` pixels and mirror half of the images."""
    n, _, height, width = images.shape
    padded = F.pad(images, (padding,) * 4)
    down, right = torch.randint(0, 2 * padding + 1, (2, n))
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    cropped = windows[torch.arange(n), :, down, right]
    mirrored = (torch.rand(n) < 0.5).nonzero()[:, 0]
    cropped[mirrored] = cropped[mirrored].flip(-1)
    return cropped


def by_zoo(registry: Any, run: Run, every: int) -> list[float]:
    """Seconds a step of ``zoo train``, from its own records."""
    former = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            outcome = engine.train(registry, run, "benchmark")
            records = [record for record in read_metrics(outcome.folder.metrics_file) if "train/loss" in record]
        finally:
            os.chdir(former)
    return [run.recipe.batch_size / record["train/samples_per_second"] for record in records]


def main(
    model: Annotated[str, typer.Argument(help="A classification model.")] = "mlp",
    data: str = "random-images",
    steps: int = 300,
    rounds: int = 5,
    setting: Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE")] = [],  # noqa: B006
) -> None:
    """Measure in turns and print the ratio."""
    from zoo.recipe import parse_setting

    registry = zoo.scan([str(PLUGIN)])
    every = max(1, steps // 6)
    settings = {"data": {"name": data}, "recipe": {"epochs": 1, "batch_size": 128}, "trainer": {"limit_train_batches": steps}}
    settings["trainer"]["log_every_n_steps"] = every
    run = resolve(registry, model, {}, [settings, *map(parse_setting, setting)])
    module = engine.build_data(registry, run)
    epochs = -(-steps // len(module.train_dataloader()))
    run = run.model_copy(update={"recipe": run.recipe.model_copy(update={"epochs": epochs})})
    loops = {"by hand": lambda: by_hand(registry, run, module, steps, every), "zoo": lambda: by_zoo(registry, run, every)}
    times: dict[str, list[float]] = {"by hand": [], "zoo": []}
    for turn in range(rounds):
        # who goes first changes, so that a machine that slows down favours neither; the first part of each is warming up
        for name in (list(loops), list(loops)[::-1])[turn % 2]:
            times[name].append(median(loops[name]()[1:]))
    for name, values in times.items():
        print(
            f"{name:<8} {1e3 * median(values):8.3f} ms a step   (lowest {1e3 * min(values):.3f}, highest {1e3 * max(values):.3f})"
        )
    ratios = [zoo_time / hand_time for hand_time, zoo_time in zip(times["by hand"], times["zoo"], strict=True)]
    print(f"ratio    {median(ratios):8.3f} (of each round: {', '.join(f'{ratio:.3f}' for ratio in ratios)})")


if __name__ == "__main__":
    typer.run(main)
