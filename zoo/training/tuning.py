"""A learning rate and a batch size for a Run, found by short trials on its own task, data and optimizer.

Rates are multiplied, never set, so that parameter groups keep the proportions that a recipe gives them. Each trial works on a
copy: no weights change, and nothing is written.
"""

from __future__ import annotations

import math
import time
from contextlib import suppress
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from typing import Any

import lightning as L
import numpy as np
import torch

from zoo.config.recipe import Run
from zoo.core.errors import UserError
from zoo.registry.registry import Registry
from zoo.spec import ImageSpec, ImageTextSpec
from zoo.tasks.task import Diverged, Task
from zoo.training.building import build_data, build_task
from zoo.training.engine import begin
from zoo.training.memory import PeakMemory, available_memory, is_out_of_memory, only_new_garbage
from zoo.training.trainer import build_trainer, quiet

LOWEST, HIGHEST = 1e-6, 10.0  # learning rates
STEPS = 100
SMOOTHED = 2.0  # steps: the deviation of the Gaussian that the losses are averaged with
DIVERGED = 3.0  # times the lowest loss
FALL = 0.02  # share of the first loss by which it must fall for its lowest point to say anything
SHARE_OF_MEMORY = 0.8  # of what is available on a processor; the rest is for whatever else runs
SLOW = 10.0  # seconds a training step: batches that would take longer are not tried


@dataclass(frozen=True)
class Subject:
    """What is tried out: a task with the weights that its training would begin with, and data that is ready."""

    run: Run
    data: Any
    task: Task


def open_subject(registry: Registry, run: Run) -> Subject:
    """What a training of the Run would begin with, on one device.

    Raises:
        UserError: several devices are asked for, the model learns without an optimizer, or what the data or the model says.
    """
    if run.trainer.devices not in (1, "1", "auto") or run.trainer.num_nodes > 1:
        raise UserError(
            f"trainer.devices={run.trainer.devices}: short trials run on one device; omit trainer.devices and trainer.num_nodes"
        )
    quiet()
    alone = {"devices": 1, "strategy": "auto"}
    run = run.model_copy(update={"trainer": run.trainer.model_copy(update=alone)})
    data = build_data(registry, run)
    task = build_task(registry, run, data.spec)
    if task.one_pass:
        raise UserError(f"{run.model['name']} learns in one pass, without steps: it has no learning rate to find")
    task.check_data_options(data)
    begin(registry, task, run)
    if run.recipe.freezing.changes:  # what is found is for the whole network, which most epochs train
        run = run.model_copy(update={"recipe": run.recipe.model_copy(update={"freeze": "none"})})
        task.recipe = run.recipe
    task.freeze(epoch=0)
    task.prepare(data)
    return Subject(run, data, task)


def counts_images(subject: Subject) -> bool:
    """Whether a batch is so many of a known number of images, and not of streams of text or the like."""
    return isinstance(subject.data.spec, (ImageSpec, ImageTextSpec))


def with_batch(subject: Subject, batch_size: int) -> Subject:
    """The same with another batch size."""
    subject.data.batch_size = batch_size
    recipe = subject.run.recipe.model_copy(update={"batch_size": batch_size})
    subject.task.recipe = recipe
    return replace(subject, run=subject.run.model_copy(update={"recipe": recipe}))


# ---------------------------------------------------------------------------------------------- the learning rate


@dataclass(frozen=True)
class RangeTest:
    """What the loss did while the rate rose by the same factor at each step (Smith 2015, arXiv:1506.01186).

    Attributes:
        rates: as ``recipe.lr`` would say them, one a step, rising.
        losses: of the training batch at each.
        smoothed: the same, averaged with its neighbors.
        diverged: whether the test ended because the loss grew beyond bounds.
        suggestion: a rate to train with, or None where the loss never fell.
    """

    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    diverged: bool
    suggestion: float | None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def range_test(subject: Subject, lowest: float = LOWEST, highest: float = HIGHEST, steps: int = STEPS) -> RangeTest:
    """Train while the rate of every parameter group rises from ``lowest`` to ``highest``, until the loss diverges.

    Raises:
        Diverged: the first loss is no finite number, whatever the rate.
    """
    run, task = subject.run, deepcopy(subject.task)
    constant = {"schedule": "constant", "warmup_epochs": 0.0, "epochs": steps * run.recipe.accumulate_grad_batches + 1}
    task.recipe = run.recipe.model_copy(update=constant)
    rising = _Rising(run.recipe.lr, lowest, highest, steps)
    fit(run.model_copy(update={"recipe": task.recipe}), subject.data, task, {"limit_val_batches": 0}, [rising])
    if not rising.losses:
        raise Diverged(f"the loss of {run.model['name']} is not finite at the first step, before any rate could matter")
    return read_range_test(rising.rates[: len(rising.losses)], rising.losses, rising.diverged)


def read_range_test(rates: list[float], losses: list[float], diverged: bool) -> RangeTest:
    """The rule: the rate at which the smoothed loss is lowest, if the loss has fallen until there."""
    smoothed = smooth(losses)
    lowest = int(np.argmin(smoothed))
    fell = smoothed[lowest] < (1 - FALL) * smoothed[0]
    suggestion = float(f"{rates[lowest]:.2g}") if fell else None
    return RangeTest(rates, losses, smoothed, diverged, suggestion)


def smooth(values: list[float], deviation: float = SMOOTHED) -> list[float]:
    """A Gaussian average over neighbors on both sides, so that nothing is shifted towards later steps."""
    places = np.arange(len(values))
    weights = np.exp(-0.5 * ((places[:, None] - places) / deviation) ** 2)
    return (weights @ np.asarray(values) / weights.sum(1)).tolist()


class _Rising(L.Callback):
    """Multiplies the rate of all parameter groups by the same factor and keeps the loss of each step."""

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
    """Train a copy, with nothing recorded or saved; a loss that is no longer finite ends it."""
    trainer = build_trainer(run.trainer.model_copy(update=settings), run, logger=False, callbacks=callbacks)
    with suppress(Diverged):  # the callback has seen it too
        trainer.fit(task, datamodule=data)


# ---------------------------------------------------------------------------------------------- the batch


@dataclass(frozen=True)
class BatchTrial:
    """One batch size, tried: ``memory`` in bytes (None where nothing tells), ``seconds`` a training step."""

    batch_size: int
    memory: int | None
    seconds: float


@dataclass(frozen=True)
class BatchSearch:
    """The largest batch that fits.

    Attributes:
        largest: images a batch.
        limit: why not more: ``data`` (these are all training images), ``memory``, or ``time``: a step would take too long.
        available: bytes of memory that could be taken, or None where nothing tells.
        trials: what was tried and fits, in that order.
    """

    largest: int
    limit: str
    available: int | None
    trials: list[BatchTrial]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def search_batch(subject: Subject) -> BatchSearch:
    """Double the batch until it does not fit, then halve the interval, with real steps of training and of validation.

    On a GPU, what does not fit is an exception. On a processor it would be the end of the process, so a batch is tried only if
    what the smaller ones took, carried on in a straight line, stays within ``SHARE_OF_MEMORY`` of what is available.

    Raises:
        UserError: not even the smallest batch fits, or the data is not counted in images.
    """
    if not counts_images(subject):
        raise UserError(f"a batch of {subject.run.data['name']} is not so many images: its size is not searched, take --only lr")
    with only_new_garbage():
        return _Search(subject, len(subject.data.splits["train"])).result()


class _Search:
    def __init__(self, subject: Subject, images: int) -> None:
        self.subject, self.images = subject, images
        self.device = build_trainer(subject.run.trainer, subject.run, logger=False, callbacks=[]).strategy.root_device
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
            raise UserError(f"not even a batch of {size} fits into memory: take a smaller model, or smaller images")
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
        """Whether a processor's memory would not do, as far as the trials tell."""
        known = sorted((trial.batch_size, trial.memory) for trial in self.trials if trial.memory is not None)
        if self.device.type != "cpu" or self.available is None or not known:
            return False
        (first, least), (last, most) = known[0], known[-1]
        an_image = (most - least) / (last - first) if last > first else most / last
        return most + max(0.0, an_image) * (size - last) > SHARE_OF_MEMORY * self.available

    def _steps(self, size: int) -> float:
        """Seconds of a training step, after one that does not count; a batch of validation follows."""
        run, data = self.subject.run, self.subject.data
        recipe = run.recipe.model_copy(
            update={"batch_size": size, "accumulate_grad_batches": 1, "epochs": 2 if 2 * size > self.images else 1}
        )
        former, data.batch_size = data.batch_size, size
        clock = _Clock(self.device)
        task = deepcopy(self.subject.task)
        try:
            limits = {"limit_train_batches": 2, "limit_val_batches": 1}
            fit(run.model_copy(update={"recipe": recipe}), data, task, limits, [clock])
        finally:
            data.batch_size = former
        return clock.seconds


class _Clock(L.Callback):
    """Seconds of the last training step."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds, self._began = device, 0.0, 0.0

    def on_train_batch_start(self, *_: Any) -> None:
        self._began = self._now()

    def on_train_batch_end(self, *_: Any) -> None:
        self.seconds = self._now() - self._began

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.monotonic()
