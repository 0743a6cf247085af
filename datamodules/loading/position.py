"""Where a training stands: a loader that asks starts there, so that a resumed run sees what it would have seen."""

from __future__ import annotations

import lightning as L


def position_of(trainer: L.Trainer | None) -> tuple[int, int]:
    """The epoch and the batch within it that come next; the very beginning without a trainer."""
    return (trainer.current_epoch, trainer.fit_loop.epoch_loop.batch_idx + 1) if trainer else (0, 0)
