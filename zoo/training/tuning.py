"""Learning rate range test and batch size search for a Run, with its own task, data and optimizer.

Learning rates are multiplied, never set, so that parameter groups keep their proportions. Each trial works on a copy: no weights
change, and nothing is written.
"""

from __future__ import annotations

import math
import time
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import lightning as L
import numpy as np
import torch

from zoo.config.run import Run
from zoo.core.errors import UserError
from zoo.registry.registry import Registry
from zoo.tasks.records import Diverged
from zoo.tasks.task import Task
from zoo.training.building import build_data, build_task
from zoo.training.distillation import teaching
from zoo.training.engine import load_initial_weights
from zoo.training.memory import PeakMemory, available_memory, frozen_garbage, is_out_of_memory
from zoo.training.processes import supervised
from zoo.training.trainer import build_trainer, silence_lightning

LOWEST, HIGHEST = 1e-6, 10.0  # learning rates
STEPS = 100
SMOOTHED = 2.0  # steps: standard deviation of the Gaussian that smooths the losses
DIVERGED = 3.0  # times the lowest loss
FALL = 0.02  # fraction of the first loss by which it must fall for its minimum to mean anything
MEMORY_FRACTION = 0.8  # of the available memory of a CPU; the rest is for other processes
SLOW = 10.0  # seconds of a training step: larger batches are not tried


@dataclass(frozen=True)
class Setup:
    """A task with its initial weights, data that is set up, and the callbacks that are part of a step."""

    run: Run
    data: Any
    task: Task
    callbacks: list[L.Callback] = field(default_factory=list)


def build_setup(registry: Registry, run: Run) -> Setup:
    """Build task and data of a Run, on one device.

    Raises:
        UserError: several devices are requested, the model has no optimizer, or data or model raise it.
    """
    if run.trainer.devices not in (1, "1", "auto") or run.trainer.num_nodes > 1:
        raise UserError(
            f"trainer.devices={run.trainer.devices}: short trials run on one device; omit trainer.devices and trainer.num_nodes"
        )
    silence_lightning()
    alone = {"devices": 1, "strategy": "auto"}
    run = run.model_copy(update={"trainer": run.trainer.model_copy(update=alone)})
    data = build_data(registry, run)
    task = build_task(registry, run, data.spec)
    if task.one_pass:
        raise UserError(f"{run.model['name']} learns in one pass, without an optimizer: it has no learning rate")
    task.check_data_options(data)
    load_initial_weights(registry, task, run)
    if run.recipe.freezing.changes:  # the result is for the whole network, which most epochs train
        run = run.model_copy(update={"recipe": run.recipe.model_copy(update={"freeze": "none"})})
        task.recipe = run.recipe
    task.freeze(epoch=0)
    task.prepare(data)
    return Setup(run, data, task, teaching(registry, run, task))


def with_batch_size(setup: Setup, batch_size: int) -> Setup:
    """Set the batch size."""
    setup.data.batch_size = batch_size
    recipe = setup.run.recipe.model_copy(update={"batch_size": batch_size})
    setup.task.recipe = recipe
    return replace(setup, run=setup.run.model_copy(update={"recipe": recipe}))


@dataclass(frozen=True)
class RangeTest:
    """Learning rate range test (Smith 2015, arXiv:1506.01186).

    Attributes:
        rates: values of ``recipe.lr``, one a step, rising by a constant factor.
        losses: training loss at each.
        smoothed: the same, smoothed.
        diverged: whether the test stopped because the loss diverged.
        suggestion: learning rate to train with; None if the loss never fell.
    """

    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    diverged: bool
    suggestion: float | None


def range_test(setup: Setup, lowest: float = LOWEST, highest: float = HIGHEST, steps: int = STEPS) -> RangeTest:
    """Train while the learning rate of every parameter group rises from ``lowest`` to ``highest``, until the loss diverges.

    Raises:
        Diverged: the first loss is not finite, whatever the learning rate.
    """
    run, task = setup.run, deepcopy(setup.task)
    constant = {"schedule": "constant", "warmup_epochs": 0.0, "epochs": steps * run.recipe.accumulate_grad_batches + 1}
    task.recipe = run.recipe.model_copy(update=constant)
    rising = _RangeTest(run.recipe.lr, lowest, highest, steps)
    callbacks = [*setup.callbacks, rising]
    fit(run.model_copy(update={"recipe": task.recipe}), setup.data, task, {"limit_val_batches": 0}, callbacks)
    if not rising.losses:
        raise Diverged(f"the loss of {run.model['name']} is not finite at the first step, before the learning rate matters")
    return read_range_test(rising.rates[: len(rising.losses)], rising.losses, rising.diverged)


def read_range_test(rates: list[float], losses: list[float], diverged: bool) -> RangeTest:
    """Suggest the learning rate of the lowest smoothed loss, if the loss has fallen until there."""
    smoothed = smooth(losses)
    lowest = int(np.argmin(smoothed))
    fell = smoothed[lowest] < (1 - FALL) * smoothed[0]
    suggestion = float(f"{rates[lowest]:.2g}") if fell else None
    return RangeTest(rates, losses, smoothed, diverged, suggestion)


def smooth(values: list[float], deviation: float = SMOOTHED) -> list[float]:
    """Smooth with a centered Gaussian, which shifts nothing towards later steps."""
    places = np.arange(len(values))
    weights = np.exp(-0.5 * ((places[:, None] - places) / deviation) ** 2)
    return (weights @ np.asarray(values) / weights.sum(1)).tolist()


class _RangeTest(L.Callback):
    """Raises the learning rate of all parameter groups by the same factor and records the loss of each step."""

    def __init__(self, lr: float, lowest: float, highest: float, steps: int) -> None:
        self.lr = lr
        self.rates = np.geomspace(lowest, highest, steps).tolist()
        self.losses: list[float] = []
        self.diverged = False
        self._of_step: list[float] = []  # several, where gradients are accumulated
        self._recent: float | None = None
        self._lowest = math.inf

    def on_train_batch_start(self, trainer: L.Trainer, task: L.LightningModule, batch: Any, batch_idx: int) -> None:
        factor = self.rates[len(self.losses)] / self.lr
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = group["initial_lr"] * factor

    def on_train_batch_end(self, trainer: L.Trainer, task: L.LightningModule, outputs: Any, *_: Any) -> None:
        self._of_step.append(float(outputs["loss"]) * trainer.accumulate_grad_batches)  # Lightning has divided it
        if trainer.global_step == len(self.losses):
            return
        loss, self._of_step = sum(self._of_step) / len(self._of_step), []
        # a running mean decides when to stop: the smoothed curve is known only at the end
        self._recent = loss if self._recent is None else 0.7 * self._recent + 0.3 * loss
        self.diverged = not math.isfinite(loss) or self._recent > DIVERGED * self._lowest
        if math.isfinite(loss):
            self.losses.append(loss)
            self._lowest = min(self._lowest, self._recent)
        if self.diverged or len(self.losses) == len(self.rates):
            trainer.should_stop = True


def fit(run: Run, data: Any, task: Task, settings: dict[str, Any], callbacks: list[L.Callback]) -> None:
    """Train a copy without recording or saving; a non-finite loss ends it."""
    trainer = build_trainer(run.trainer.model_copy(update=settings), run, logger=False, callbacks=callbacks)
    with suppress(Diverged), supervised(trainer):  # the callback knows
        trainer.fit(task, datamodule=data)


@dataclass(frozen=True)
class BatchTrial:
    """Trial of a batch size: peak ``memory`` in bytes (None where unknown), ``seconds`` of a training step."""

    batch_size: int
    memory: int | None
    seconds: float


@dataclass(frozen=True)
class BatchSearch:
    """The largest batch that fits.

    Attributes:
        largest: images a batch.
        limit: why not more: ``data`` (these are all training images), ``memory``, or ``time`` (of a step).
        available: bytes of memory, or None where unknown.
        trials: those that fit, in order.
    """

    largest: int
    limit: str
    available: int | None
    trials: list[BatchTrial]


def search_batch(setup: Setup) -> BatchSearch:
    """Double the batch until it does not fit, then halve the interval, with real steps of training and of validation.

    On a GPU, what does not fit raises an exception. On a CPU the process would be killed, so a batch is tried only if the memory
    of the smaller ones, extrapolated linearly, stays within ``MEMORY_FRACTION`` of what is available.

    Raises:
        UserError: not even the smallest batch fits, or batches are not images.
    """
    if not setup.data.has_samples:
        raise UserError(f"batches of {setup.run.data['name']} are not images: use --only lr")
    with frozen_garbage():
        return _Search(setup, len(setup.data.splits["train"])).result()


class _Search:
    def __init__(self, setup: Setup, images: int) -> None:
        self.setup, self.images = setup, images
        self.device = build_trainer(setup.run.trainer, setup.run, logger=False, callbacks=[]).strategy.root_device
        self.peak = PeakMemory(self.device)
        self.available = available_memory(self.device)
        self.trials: list[BatchTrial] = []
        self.too_slow = False

    def result(self) -> BatchSearch:
        fits, size, beyond = 0, min(2, self.images), 0  # batch norm needs two
        while not beyond:
            if not self._fits(size):
                beyond = size
            elif size == self.images:
                return BatchSearch(size, "data", self.available, self.trials)
            else:
                fits, size = size, min(2 * size, self.images)
        if not fits:
            raise UserError(f"not even a batch of {size} fits into memory: use a smaller model, or smaller images")
        if self.too_slow:
            return BatchSearch(fits, "time", self.available, self.trials)
        while beyond - fits > max(1, fits // 16):
            middle = (fits + beyond) // 2
            fits, beyond = (middle, beyond) if self._fits(middle) else (fits, middle)
        return BatchSearch(fits, "memory", self.available, self.trials)

    def _fits(self, size: int) -> bool:
        if self._would_be_slow(size):
            self.too_slow = True
            return False
        if self._would_be_killed(size):
            return False
        self.peak.start()
        try:
            seconds = self._steps(size)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return False
        self.trials.append(BatchTrial(size, self.peak.bytes(), seconds))
        return True

    def _would_be_slow(self, size: int) -> bool:
        return bool(self.trials) and self.trials[-1].seconds * size / self.trials[-1].batch_size > SLOW

    def _would_be_killed(self, size: int) -> bool:
        """Whether a CPU's memory would not suffice, extrapolated from the trials."""
        known = sorted((trial.batch_size, trial.memory) for trial in self.trials if trial.memory is not None)
        if self.device.type != "cpu" or self.available is None or not known:
            return False
        (first, least), (last, most) = known[0], known[-1]
        an_image = (most - least) / (last - first) if last > first else most / last
        return most + max(0.0, an_image) * (size - last) > MEMORY_FRACTION * self.available

    def _steps(self, size: int) -> float:
        """Seconds of a training step, after a warmup step; a batch of validation follows."""
        run, data = self.setup.run, self.setup.data
        recipe = run.recipe.model_copy(
            update={"batch_size": size, "accumulate_grad_batches": 1, "epochs": 2 if 2 * size > self.images else 1}
        )
        former, data.batch_size = data.batch_size, size
        timer = _StepTimer(self.device)
        task = deepcopy(self.setup.task)
        try:
            limits = {"limit_train_batches": 2, "limit_val_batches": 1}
            fit(run.model_copy(update={"recipe": recipe}), data, task, limits, [timer, *self.setup.callbacks])
        finally:
            data.batch_size = former
        return timer.seconds


class _StepTimer(L.Callback):
    """Seconds of the last training step."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds, self._started = device, 0.0, 0.0

    def on_train_batch_start(self, *_: Any) -> None:
        self._started = self._now()

    def on_train_batch_end(self, *_: Any) -> None:
        self.seconds = self._now() - self._started

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.monotonic()
