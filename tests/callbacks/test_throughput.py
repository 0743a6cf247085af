"""How fast a training is, and how much of its time it waits for data, by a clock that only the test moves."""

from __future__ import annotations

from typing import Any

import lightning as L
import pytest
from everything import Everything, data, trainer

from zoo.callbacks import throughput
from zoo.callbacks.throughput import Throughput

STEP, SAVING, READING = 1.0, 100.0, 3.0  # seconds


class Clock(L.Callback):
    """Goes on by a second in each step, and by a hundred between two epochs, as where a checkpoint is written."""

    def __init__(self) -> None:
        self.now = 0.0

    def on_before_backward(self, *_: Any) -> None:
        self.now += STEP

    def on_train_epoch_end(self, *_: Any) -> None:
        self.now += SAVING


class SlowlyRead(list):
    """Batches that take three seconds each to be read."""

    clock: Clock

    def __iter__(self):
        for batch in super().__iter__():
            self.clock.now += READING
            yield batch


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: clock.now)
    return clock


def recorded(clock: Clock, batches: Any) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    trainer(clock, Throughput(every=1, write=records.append), max_epochs=3).fit(Everything(), batches)
    return records


def test_what_is_done_between_two_epochs_is_no_waiting_for_data(clock: Clock) -> None:
    records = recorded(clock, data())
    assert len(records) == 12
    assert all(record["data_loading"] == 0 and record["steps_per_second"] == 1 / STEP for record in records)


def test_a_loader_that_takes_its_time_is_waited_for(clock: Clock) -> None:
    batches = SlowlyRead(data())
    batches.clock = clock
    waiting = [record["data_loading"] for record in recorded(clock, batches)]
    assert waiting == [READING / (READING + STEP)] * 12
