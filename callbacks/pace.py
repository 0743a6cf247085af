"""How fast a training goes, how long it waits for data, and how much memory it takes."""

from __future__ import annotations

import re
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning as L
import torch

from zoo.callbacks.recording import Monitor


class Pace(Monitor):
    """Records, over the steps since the record before: ``steps_per_second``; ``waiting``, the share of time in which the loop
    waited for the next batch; and ``memory``, bytes: of a GPU the most that was taken at once, of a processor what
    the process holds.

    Put it last among the callbacks: it takes what others do after it at the end of a step for waiting.

    A GPU works behind the loop, so there a loop that waits need not slow it down: ``waiting`` is then an upper bound.
    """

    kind = "pace"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._started = self._waited = self._ended = self._paused = 0.0
        self._step = -1  # of the record before

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._started = self._ended = time.perf_counter()
        self._waited, self._step = 0.0, trainer.global_step - 1

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        now = time.perf_counter()
        self._started += now - self._ended  # what happens between two epochs, as saving, is no part of the pace either
        self._ended = now

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        self._waited += time.perf_counter() - self._ended

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = self._ended = time.perf_counter()
        step = trainer.global_step - 1
        if step > self._step and self.is_due(step):
            passed = now - self._started
            values = {
                "steps_per_second": (step - self._step) / passed,
                "waiting": self._waited / passed,
                "memory": memory(pl_module.device),
            }
            self.emit(trainer, step, values)
            self._started, self._waited, self._step = now, 0.0, step

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._paused = time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        away = time.perf_counter() - self._paused  # validation is not part of the pace of training
        self._started += away
        self._ended += away


def memory(device: torch.device) -> int | None:
    """Bytes, or None where nothing tells."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError):
        found = re.search(r"^VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
        return int(found[1]) * 1024 if found else None
    return None
