"""Where training and testing stop when a signal asks for it: between two batches, the same ones in all processes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import lightning as L
import torch

from zoo.core.signals import Stopped, stop

SECONDS = 1.0  # between two agreements


class Agreement:
    """Agrees over all processes whether any of them wants something.

    Asking synchronizes the processes and their devices. So they ask about once a second, at batches that follow from the duration
    of those before, the same in all processes.

    Attributes:
        called_at: when this process last came to the end of a batch.
    """

    def __init__(self) -> None:
        self.batch = self.next_batch = self.last_batch = 0
        self.asked_at = self.called_at = time.monotonic()

    def any(self, trainer: L.Trainer, *wishes: bool, now: bool = False) -> tuple[bool, ...]:
        """Whether any process has each wish; called by all processes after the same batches, or ``now``, in any case."""
        if trainer.world_size == 1:
            return wishes
        self.called_at = time.monotonic()
        self.batch += 1
        if self.batch < self.next_batch and not now:
            return (False,) * len(wishes)
        seconds = (time.monotonic() - self.asked_at) / (self.batch - self.last_batch)
        values = torch.tensor([*map(float, wishes), seconds], dtype=torch.float32, device=trainer.strategy.root_device)
        *agreed, slowest = trainer.strategy.reduce(values, reduce_op="max").tolist()
        self.last_batch, self.asked_at = self.batch, time.monotonic()
        self.next_batch = self.batch + max(1, min(int(SECONDS / max(slowest, 1e-6)), trainer.log_every_n_steps))
        return tuple(map(bool, agreed))


class Stopping(L.Callback):
    """Stops a test on request: at once, or, with several processes, after a batch that all of them agree on."""

    def __init__(self) -> None:
        self.agreement = Agreement()

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.world_size > 1:
            stop.error = None

    def on_test_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self.stop_if_requested(trainer)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.stop_if_requested(trainer, now=True)
        stop.release(Stopped)

    def stop_if_requested(self, trainer: L.Trainer, now: bool = False, save: Callable[[], None] = lambda: None) -> None:
        """Stop in all processes if a signal has asked any of them to, after ``save``.

        Raises:
            Stopped: after saving.
        """
        if self.agreement.any(trainer, stop.requested, now=now)[0]:
            save()
            raise Stopped
