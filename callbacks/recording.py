"""Base of all monitors: which steps are recorded, where records go, reduction over processes, and the cost of recording."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import lightning as L
import torch
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch import Tensor, distributed, nn
from torch.optim import Optimizer

Record = dict[str, Any]
MAX_RECORDS = 500  # of a run
POWERS = {2**n for n in range(20)}


class CollectiveError(RuntimeError):
    """An exchange between the processes failed, after which they are no longer in step."""


class Guarded(L.Callback):
    """Base class of callbacks that never end a training: what cannot be measured is left out, with one warning that names it."""

    def start(self) -> None:
        """Forget everything about a previous training."""
        self._unmeasured: set[str] = set()  # names

    @contextmanager
    def guarded(self, what: str) -> Iterator[None]:
        """Turn an exception inside into a warning, and leave out what it names from then on."""
        try:
            yield
        except CollectiveError:
            raise
        except Exception as error:
            self.leave_out(what, f"{type(error).__name__}: {error}".partition("\n")[0])

    def leave_out(self, what: str, reason: str) -> None:
        """Warn once that something cannot be measured."""
        if what not in self._unmeasured:
            self._unmeasured.add(what)
            warnings.warn(f"{type(self).__name__} leaves out {what}: {reason}", stacklevel=2)


class RecordListener(L.Callback):
    """Base class of callbacks that are called with each record of every monitor of the same ``Trainer``, in any order of them."""

    def on_record(self, trainer: L.Trainer, record: Record) -> None:
        """Called on rank zero."""
        raise NotImplementedError(f"{type(self).__name__} does not take records")


class Monitor(Guarded):
    """Base class of callbacks that record some training steps and leave all others alone.

    Steps are those of the optimizer. Recorded are every ``every``-th step, the last one, and, since most happens at the start,
    the powers of two before ``every``.

    Args:
        every: steps between records; more in a run that would have over 500 records.
        layers: globs of names; what matches none is left out.
        write: called with each record on rank zero, a dict of plain numbers; by default they go to the Trainer's loggers. A
            ``RecordListener`` such as ``Diagnosis`` gets them in any case.

    Attributes:
        seconds: total cost of recording so far, on this process.
    """

    kind: ClassVar[str]

    def __init__(self, every: int = 200, layers: tuple[str, ...] = ("*",), write: Callable[[Record], None] | None = None) -> None:
        if every < 1:
            raise ValueError(f"every={every}: must be at least 1")
        self.every, self.layers, self.write = every, layers, write
        self.start()

    def start(self) -> None:
        super().start()
        self.seconds = 0.0
        self._interval = self.every  # longer in a long training
        self._last = -1  # step of the training, if that is known
        self._recent = 0.0  # seconds since the last record
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit":
            self.start()

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        steps = float("inf")
        with self.guarded("the last step, as their number is unknown"):  # where accumulation changes by epoch, for example
            steps = trainer.estimated_stepping_batches
        if steps < float("inf"):
            self._interval, self._last = max(self.every, math.ceil(steps / MAX_RECORDS)), int(steps) - 1

    def is_due(self, step: int) -> bool:
        """Whether a step, counted from 0, is recorded."""
        return step % self._interval == 0 or step == self._last or (step < self._interval and step in POWERS)

    def is_selected(self, name: str) -> bool:
        """Whether a name matches one of ``layers``."""
        return any(fnmatchcase(name, pattern) for pattern in self.layers)

    @contextmanager
    def timed(self, device: torch.device) -> Iterator[None]:
        """Count the time inside as the cost of recording; a GPU, which runs asynchronously, is timed by its own clock."""
        if device.type == "cuda":
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            yield
            end.record()
            self._events.append((start, end))
        else:
            start_time = time.perf_counter()
            yield
            self._recent += time.perf_counter() - start_time

    @contextmanager
    def measuring(self, what: str, device: torch.device) -> Iterator[None]:
        """Measure inside: guarded and timed, without gradients, and unseen by function modes."""
        with (
            self.timed(device),
            self.guarded(what),
            torch._C.DisableTorchFunction(),
            torch.inference_mode(False),
            torch.no_grad(),
        ):
            yield

    def emit(self, trainer: L.Trainer, step: int, values: Record) -> None:
        """Write a record; ``values`` are on the host, so the GPU has finished."""
        self._recent += sum(start.elapsed_time(end) for start, end in self._events) / 1000
        self.seconds += self._recent
        record = {"step": step, "epoch": trainer.current_epoch, "kind": self.kind, "seconds": round(self._recent, 6), **values}
        self._recent, self._events = 0.0, []
        if not trainer.is_global_zero:
            return
        if self.write is not None:
            self.write(record)
        else:
            for logger in trainer.loggers:
                logger.log_metrics(scalars(record), step=step)
        for callback in callbacks_of(trainer):
            if isinstance(callback, RecordListener):
                callback.on_record(trainer, record)

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds = state_dict["seconds"]


def callbacks_of(trainer: L.Trainer) -> list[L.Callback]:
    """All callbacks of a trainer, an attribute that it does not declare."""
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return callbacks


def scalars(record: Record) -> dict[str, float]:
    """The scalars of a record under names as in ``activations/layer1/mean``."""
    return dict(_flatten(record, record["kind"]))


def histograms(record: Record) -> dict[str, list[int]]:
    """The histograms of a record, under names as in ``activations/layer1/histogram``."""
    rows = {**record.get("layers", {}), **record.get("parameters", {})}
    return {f"{record['kind']}/{name}/histogram": row["histogram"] for name, row in rows.items()}


def _flatten(values: Record, path: str) -> Iterator[tuple[str, float]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flatten(value, path if key in ("layers", "parameters") else f"{path}/{key}")
        elif isinstance(value, (int, float)) and key not in ("step", "epoch"):
            yield f"{path}/{key}", value


@contextmanager
def _exchange() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise CollectiveError(str(error)) from error


def all_reduce(values: Tensor, operation: str = "SUM") -> Tensor:
    """Reduce a tensor, in place, over all processes, where it must have the same shape."""
    if distributed.is_available() and distributed.is_initialized():
        with _exchange():
            distributed.all_reduce(values, getattr(distributed.ReduceOp, operation))
    return values


def common(names: Iterable[str]) -> list[str]:
    """The names, sorted, that all processes have."""
    own = sorted(names)
    if not (distributed.is_available() and distributed.is_initialized()):
        return own
    of_all: list[list[str]] = [[]] * distributed.get_world_size()
    with _exchange():
        distributed.all_gather_object(of_all, own)
    return sorted(set(own).intersection(*of_all))


def is_sharded(trainer: L.Trainer) -> bool:
    """Whether each process holds a shard of every parameter, as in FSDP."""
    return isinstance(trainer.strategy, (FSDPStrategy, ModelParallelStrategy))


def optimized_parameters(*optimizers: Optimizer) -> set[int]:
    """The ``id`` of each parameter in the optimizers."""
    return {id(parameter) for optimizer in optimizers for group in optimizer.param_groups for parameter in group["params"]}


@contextmanager
def uncompiled(module: nn.Module) -> Iterator[None]:
    """Run modules that were compiled in place eagerly inside, so that hooks are called."""
    compiled = {each: call for each in module.modules() if (call := each._compiled_call_impl) is not None}
    for each in compiled:
        each._compiled_call_impl = None
    try:
        yield
    finally:
        for each, call in compiled.items():
            each._compiled_call_impl = call
