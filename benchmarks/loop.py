"""Time per training step: ``zoo train`` over the best loop that one would write by hand for the same network and data.

    python benchmarks/loop.py mlp
    python benchmarks/loop.py resnet20 --steps 800 --block 5

The loop by hand has all that makes one fast: images in memory as bytes, indexed and augmented by batch, channels_last, a fused
optimizer, gradients set to None, nothing logged. The zoo's is the whole command's training, with its records and progress.
The two take turns, block by block.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch.nn import functional as F
from turns import take_turns, tell

import zoo
from zoo.config.resolution import resolve
from zoo.config.run import Run
from zoo.config.settings import parse_setting
from zoo.training import building

PLUGIN = Path(__file__).with_name("random_images.py")


def by_hand(registry: Any, run: Run, data: Any, steps: int) -> Iterator[None]:
    """A hand-written training; each ``next`` is one step."""
    recipe = run.recipe
    network = building.build_task(registry, run, data.spec).train()
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


def main(
    model: Annotated[str, typer.Argument(help="A classification model.")] = "mlp",
    data: str = "random-images",
    steps: int = 1000,
    block: Annotated[int, typer.Option(help="Steps that each of the two goes before the other has its turn.")] = 10,
    setting: Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE")] = [],  # noqa: B006
) -> None:
    """Train both in turns and print the ratio."""
    registry = zoo.scan([str(PLUGIN)])
    settings = {
        "data": {"name": data, "augment": "standard"},
        "recipe": {"epochs": 1, "batch_size": 128},
        "trainer": {"log_every_n_steps": 50},
    }
    run = resolve(registry, model, {}, [settings, *map(parse_setting, setting)])
    module = building.build_data(registry, run)
    epochs = -(-steps // len(module.train_dataloader()))
    recipe = run.recipe.model_copy(update={"epochs": epochs})
    trainer = run.trainer.model_copy(update={"limit_train_batches": steps if epochs == 1 else 1.0})
    run = run.model_copy(update={"recipe": recipe, "trainer": trainer})
    other = by_hand(registry, run, module, 2 * steps + block)
    tell(take_turns(registry, run, module, other, block), block)


if __name__ == "__main__":
    typer.run(main)
