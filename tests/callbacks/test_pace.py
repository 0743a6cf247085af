"""How fast a training is, and how much of its time it waits for data."""

from __future__ import annotations

import time
from typing import Any

import lightning as L
from everything import Everything, data, trainer

from callbacks.pace import Pace


class Saving(L.Callback):
    """Takes its time between two epochs, as a checkpoint does."""

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        time.sleep(0.3)


def recorded(*callbacks: L.Callback, batches: Any = None) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    trainer(*callbacks, Pace(every=1, write=records.append), max_epochs=3).fit(Everything(), batches or data())
    return records


def test_what_is_done_between_two_epochs_is_no_waiting_for_data() -> None:
    records = recorded(Saving())
    assert len(records) == 12 and all(record["steps_per_second"] * 0.3 > 1 for record in records)
    assert max(record["waiting"] for record in records[4:]) < 0.6


def test_a_loader_that_takes_its_time_is_waited_for() -> None:
    class Slow(list):
        def __iter__(self):
            for batch in super().__iter__():
                time.sleep(0.2)
                yield batch

    assert min(record["waiting"] for record in recorded(batches=Slow(data()))[1:]) > 0.6
