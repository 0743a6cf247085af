"""What all monitors share: which steps are recorded, where records go, how they are summed over processes, what that costs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import lightning as L
import torch
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch import Tensor, distributed, nn
from torch.optim import Optimizer

Record = dict[str, Any]
MOST = 500  # records of a training
POWERS = {2**n for n in range(20)}


class Monitor(L.Callback):
    """Base of callbacks that look into some steps of a training, and into no other.

    Steps are those of the optimizer. Recorded are every ``every``-th, the last, and, since most happens at the start, before that
    those that are a power of two.

    Args:
        every: steps from one record to the next; more in a training that would have over 500 records.
        layers: globs of names; what matches none is left out.
        write: is given each record on rank zero, a dict of plain numbers; the default sends its numbers to the Trainer's loggers.

    Attributes:
        seconds: what recording has taken so far, on this process.
    """

    kind: ClassVar[str]

    def __init__(self, every: int = 200, layers: tuple[str, ...] = ("*",), write: Callable[[Record], None] | None = None) -> None:
        if every < 1:
            raise ValueError(f"every={every}: must be at least 1")
        self.every, self.layers, self.write = every, layers, write
        self.seconds = 0.0
        self._last = -1  # step of the training, if that is known
        self._recent = 0.0  # seconds since the last record
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        steps = trainer.estimated_stepping_batches
        if steps < float("inf"):
            self.every, self._last = max(self.every, math.ceil(steps / MOST)), int(steps) - 1

    def is_due(self, step: int) -> bool:
        """Whether the step of that number, from 0, is recorded."""
        return step % self.every == 0 or step == self._last or (step < self.every and step in POWERS)

    def chosen(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self.layers)

    @contextmanager
    def measured(self, device: torch.device) -> Iterator[None]:
        """Count what happens inside as the cost of recording; a GPU, which works later, is timed by its own clock."""
        if device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            yield
            end.record()
            self._events.append((start, end))
        else:
            start_time = time.perf_counter()
            yield
            self._recent += time.perf_counter() - start_time

    def emit(self, trainer: L.Trainer, step: int, values: Record) -> None:
        """Hand on a record; ``values`` are on the host, so what the GPU was given is done."""
        self._recent += sum(start.elapsed_time(end) for start, end in self._events) / 1000
        self.seconds += self._recent
        record = {"step": step, "epoch": trainer.current_epoch, "kind": self.kind, "seconds": round(self._recent, 6), **values}
        self._recent, self._events = 0.0, []
        if not trainer.is_global_zero:
            return
        if self.write is not None:
            self.write(record)
            return
        for logger in trainer.loggers:
            logger.log_metrics(dict(numbers_of(record)), step=step)

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds = state_dict["seconds"]


def numbers_of(record: Record) -> Iterator[tuple[str, float]]:
    """The single numbers of a record under names as in ``activations/layer1/mean``."""
    return _numbers(record, record["kind"])


def histograms_of(record: Record) -> Iterator[tuple[str, list[int]]]:
    """The histograms of a record, likewise."""
    for name, each in {**record.get("layers", {}), **record.get("parameters", {})}.items():
        yield f"{record['kind']}/{name}/histogram", each["histogram"]


def _numbers(values: Record, path: str) -> Iterator[tuple[str, float]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _numbers(value, path if key in ("layers", "parameters") else f"{path}/{key}")
        elif isinstance(value, (int, float)) and key not in ("step", "epoch"):
            yield f"{path}/{key}", value


def over_processes(values: Tensor, operation: str = "SUM") -> Tensor:
    """The tensor, which is of the same shape everywhere, reduced over all processes."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(values, getattr(distributed.ReduceOp, operation))
    return values


def holds_parts(trainer: L.Trainer) -> bool:
    """Whether each process holds a part of every parameter, as in FSDP."""
    return isinstance(trainer.strategy, (FSDPStrategy, ModelParallelStrategy))


def parameters_of(*optimizers: Optimizer) -> set[int]:
    """The ``id`` of each parameter that they move."""
    return {id(parameter) for optimizer in optimizers for group in optimizer.param_groups for parameter in group["params"]}


@contextmanager
def eager(module: nn.Module) -> Iterator[None]:
    """Inside, modules that were compiled in place run as they were written, so that hooks are called."""
    compiled = {each: call for each in module.modules() if (call := each._compiled_call_impl) is not None}
    for each in compiled:
        each._compiled_call_impl = None
    try:
        yield
    finally:
        for each, call in compiled.items():
            each._compiled_call_impl = call
