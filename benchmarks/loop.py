"""Time per training step: ``zoo train`` over the best loop that one would write by hand for the same network and data.

    python benchmarks/loop.py mlp
    python benchmarks/loop.py resnet20 --steps 800 --block 5

The loop by hand has all that makes one fast: images in memory as bytes, indexed and augmented by batch, channels_last, a fused
optimizer, gradients set to None, nothing logged. The zoo's is the whole command's training, with its records and progress.

The two take turns within one training, a block of steps each: whenever the zoo asks for the first batch of its next block, its
clock stops and the loop by hand goes on for as many steps. A machine whose speed drifts from one second to the next, as
shared ones do, slows both alike. Each block of the zoo is compared with the two by hand around it.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from typing import Annotated, Any
from unittest.mock import patch

import torch
import typer
from torch.nn import functional as F

import zoo
from zoo.recipe import Run, parse_setting, resolve
from zoo.training import engine

PLUGIN = Path(__file__).with_name("random_images.py")
WARMING_UP = 2  # turns that do not count


def by_hand(registry: Any, run: Run, data: Any, steps: int) -> Iterator[None]:
    """A hand-written training; each ``next`` is one step."""
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
        yield


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


@dataclass(frozen=True)
class Turn:
    """Seconds a step of one block of the zoo, and of the blocks by hand before and after it."""

    before: float
    zoo: float
    after: float

    @property
    def hand(self) -> float:
        return (self.before + self.after) / 2


class TakingTurns:
    """Training batches that hand over to another loop after each block of steps, and keep the time of both in ``turns``."""

    def __init__(self, batches: Any, other: Iterator[None], block: int) -> None:
        self.batches, self.other, self.block = batches, other, block
        self.turns: list[Turn] = []

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        before = resumed = 0.0
        for step, batch in enumerate(self.batches):
            if step % self.block == 0:
                paused = time.perf_counter()
                hand = self._other_block()
                if step:
                    self.turns.append(Turn(before, (paused - resumed) / self.block, hand))
                before, resumed = hand, time.perf_counter()
            yield batch

    def _other_block(self) -> float:
        started = time.perf_counter()
        with torch.enable_grad():
            for _ in range(self.block):
                next(self.other)
        return (time.perf_counter() - started) / self.block


@contextmanager
def in_an_empty_folder() -> Iterator[None]:
    """A current folder that is gone afterwards, for the run that is timed."""
    former = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(former)


def main(
    model: Annotated[str, typer.Argument(help="A classification model.")] = "mlp",
    data: str = "random-images",
    steps: int = 1000,
    block: Annotated[int, typer.Option(help="Steps that each of the two goes before the other has its turn.")] = 10,
    setting: Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE")] = [],  # noqa: B006
) -> None:
    """Train both in turns and print the ratio."""
    registry = zoo.scan([str(PLUGIN)])
    settings = {"data": {"name": data}, "recipe": {"epochs": 1, "batch_size": 128}, "trainer": {"log_every_n_steps": 50}}
    run = resolve(registry, model, {}, [settings, *map(parse_setting, setting)])
    module = engine.build_data(registry, run)
    epochs = -(-steps // len(module.train_dataloader()))
    recipe = run.recipe.model_copy(update={"epochs": epochs})
    trainer = run.trainer.model_copy(update={"limit_train_batches": steps if epochs == 1 else 1.0})
    run = run.model_copy(update={"recipe": recipe, "trainer": trainer})
    other = by_hand(registry, run, module, 2 * steps + block)
    loaders: list[TakingTurns] = []
    original = type(module).train_dataloader

    def train_dataloader(self: Any) -> TakingTurns:
        loaders.append(TakingTurns(original(self), other, block))
        return loaders[-1]

    with patch.object(type(module), "train_dataloader", train_dataloader), in_an_empty_folder():
        engine.train(registry, run, "benchmark")
    turns = [turn for loader in loaders for turn in loader.turns][WARMING_UP:]
    for name, values in (("by hand", [turn.hand for turn in turns]), ("zoo", [turn.zoo for turn in turns])):
        low, middle, high = quantiles(values, n=4)
        print(f"{name:<8} {1e3 * middle:8.3f} ms a step   (half of the blocks from {1e3 * low:.3f} to {1e3 * high:.3f})")
    low, middle, high = quantiles([turn.zoo / turn.hand for turn in turns], n=4)
    print(f"ratio    {middle:8.3f}   ({len(turns)} blocks of {block} steps, half of them from {low:.3f} to {high:.3f})")


if __name__ == "__main__":
    typer.run(main)
