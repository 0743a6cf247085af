"""Time per training step with the monitors of activations and gradients, over the same step without; beside it ``wandb.watch``.

    python benchmarks/monitors.py
    python benchmarks/monitors.py --root cifar --block 200

A training has them by turns, a block of steps with and a block without; a block holds one record. What the monitors say they cost
is printed beside what was measured.
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import lightning as L
import torch
import typer

import zoo
from zoo.callbacks.activation_statistics import ActivationStatistics
from zoo.callbacks.gradient_monitor import GradientMonitor
from zoo.config.resolution import resolve
from zoo.training import building
from zoo.training.trainer import silence_lightning

# on a processor the time that this process had of it, so that what else runs on the machine does not count
clock = time.perf_counter if torch.cuda.is_available() else time.process_time
PLUGIN = Path(__file__).with_name("random_images.py")


class Blocks(L.Callback):
    """Turns what is measured on and off, block by block, and times the blocks."""

    def __init__(self, block: int, switch: Any) -> None:
        self.block, self.switch = block, switch
        self.times: dict[bool, list[float]] = {True: [], False: []}
        self.began = 0.0

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step % self.block == 0:
            self.switch(self.is_on(trainer.global_step))
            self.began = clock()

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step % self.block == 0:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.times[self.is_on(trainer.global_step - 1)].append((clock() - self.began) / self.block)

    def is_on(self, step: int) -> bool:
        return step // self.block % 2 == 1

    @property
    def ratio(self) -> float:
        """Of neighboring blocks, the first pair left out."""
        return median(on / off for off, on in list(zip(self.times[False], self.times[True], strict=False))[1:])


def measure(run: Any, registry: Any, callbacks: list[L.Callback], block: int, steps: int, switch: Any, start: Any) -> Blocks:
    data = building.build_data(registry, run)
    task = building.build_task(registry, run, data.spec)
    blocks = Blocks(block, switch)
    start(task)
    trainer = L.Trainer(
        max_steps=steps, max_epochs=-1, accelerator="auto", devices=1, logger=False, enable_checkpointing=False, barebones=False,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0, callbacks=[blocks, *callbacks],
    )  # fmt: skip
    trainer.fit(task, datamodule=data)
    return blocks


def main(
    root: Annotated[str, typer.Option(help="A folder of images, as CIFAR-10; the default is random ones of 32x32.")] = "",
    model: str = "resnet20",
    block: Annotated[int, typer.Option(help="Steps of each turn; as many as from one record to the next.")] = 200,
    pairs: Annotated[int, typer.Option(help="Turns of each, after the first.")] = 3,
    wandb: Annotated[bool, typer.Option(help="Measure wandb.watch too.")] = True,
) -> None:
    silence_lightning()
    registry = zoo.scan([str(PLUGIN)])
    data = {"name": "folder", "root": str(Path(root).resolve()), "size": 32} if root else {"name": "random-images"}
    run = resolve(registry, model, {}, [{"data": data, "recipe": {"epochs": 1000}}])
    steps = 2 * block * (pairs + 1)
    records: list[dict[str, Any]] = []
    monitors = [kind(every=block, write=records.append) for kind in (ActivationStatistics, GradientMonitor)]
    state = {"on": False}
    for monitor in monitors:  # one record a block, in its middle
        monitor.is_due = lambda step: state["on"] and step % block == block // 2
    blocks = measure(run, registry, monitors, block, steps, lambda on: state.update(on=on), lambda task: None)
    off = median(blocks.times[False][1:])
    said = sum(record["seconds"] for record in records[2:]) / max(1, len(records[2:]) // 2)
    measured = (blocks.ratio - 1) * off * block
    print(f"step without monitors: {1000 * off:.1f} ms")
    print(f"monitors every {block} steps: ratio {blocks.ratio:.4f}")
    print(f"a record costs {measured:.3f} s as measured, and {said:.3f} s as the monitors say")
    if wandb:
        import wandb as tracker

        tracker.init(mode="offline", project="benchmark", dir="/tmp")
        watched: dict[str, Any] = {}

        def switch(on: bool) -> None:
            if watched.pop("is_on", False):
                tracker.unwatch(watched["task"])
            if on:
                tracker.watch(watched["task"], log="all", log_freq=block)
                watched["is_on"] = True

        blocks = measure(run, registry, [], block, steps, switch, lambda task: watched.update(task=task))
        tracker.finish()
        print(f'wandb.watch(log="all") every {block} steps: ratio {blocks.ratio:.4f}')


if __name__ == "__main__":
    typer.run(main)
