"""Throughput, data loading time and memory during training."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch

from zoo.callbacks.recording import Monitor


class Throughput(Monitor):
    """Records, over the steps since the last record, ``steps_per_second``; ``data_loading``, the fraction of the time spent
    waiting for the next batch; and ``memory``, the peak in bytes: allocated on a GPU, resident in a process on a CPU.

    Put it last among the callbacks: what others do after it at the end of a step counts as data loading, except while it is
    ``paused``.

    A GPU runs asynchronously, so waiting for data need not slow it down: ``data_loading`` is then an upper bound.
    """

    kind = "throughput"

    def start(self) -> None:
        super().start()
        self._started = self._waited = self._ended = self._paused = 0.0
        self._step = -1  # of the last record

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._started = self._ended = time.perf_counter()
        self._waited, self._step = 0.0, trainer.global_step - 1

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        now = time.perf_counter()
        self._started += now - self._ended  # what happens between two epochs, such as saving, does not count either
        self._ended = now

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        self._waited += time.perf_counter() - self._ended

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = self._ended = time.perf_counter()
        step = trainer.global_step - 1
        if step > self._step and self.is_due(step):
            elapsed = now - self._started
            values = {
                "steps_per_second": (step - self._step) / elapsed,
                "data_loading": self._waited / elapsed,
                "memory": peak_memory(pl_module.device),
            }
            self.emit(trainer, step, values)
            self._started, self._waited, self._step = now, 0.0, step

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out the time inside, such as that of saving a checkpoint."""
        start = time.perf_counter()
        yield
        self._leave_out(start)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._paused = time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._leave_out(self._paused)

    def _leave_out(self, start: float) -> None:
        elapsed = time.perf_counter() - start
        self._started += elapsed
        self._ended += elapsed


def peak_memory(device: torch.device) -> int:
    """Peak memory in bytes: allocated on a GPU, else resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
