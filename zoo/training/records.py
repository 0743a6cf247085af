"""The recorded metrics of a run as columns of numbers: hundreds of thousands of records take little memory."""

from __future__ import annotations

import statistics
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from zoo.core.json_lines import POSITION, Record

if TYPE_CHECKING:
    import numpy as np

IDLE_SECONDS = 60.0  # between two records, in which no run counts as paused
BEST = "best"  # stage of the validation metric of the best checkpoint, recorded at the end of a run without a test
ENDS = ("test", BEST)  # stages that are recorded once, at the end


class Metrics:
    """The metrics of those records that have a step and an epoch; null is what was not finite, other values are left out.

    Attributes:
        times: of the records, Unix time in seconds.
    """

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self.times = array("d")
        self._numbers: dict[str, array[float]] = {}  # step, epoch and value of each record that has the metric
        for record in records:
            self.add(record)

    def add(self, record: Record) -> None:
        step, epoch = record.get("step"), record.get("epoch")
        if step is None or epoch is None:
            return
        if record.get("time") is not None:
            self.times.append(record["time"])
        for name, value in record.items():
            if name not in POSITION and (value is None or is_number(value)):
                if name not in self._numbers:
                    self._numbers[name] = array("d")
                self._numbers[name].extend((step, epoch, to_float(value)))

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def names(self) -> list[str]:
        """Of the metrics, in the order of their first records."""
        return list(self._numbers)

    def of_stages(self, *stages: str) -> list[str]:
        """The names that begin with one of the stages, as in ``val``."""
        return [name for name in self._numbers if name.partition("/")[0] in stages]

    @property
    def has_end(self) -> bool:
        """Whether the run has ended as it should, with a test or without."""
        return bool(self.of_stages(*ENDS))

    def steps(self, name: str) -> array[float]:
        return self._numbers[name][::3]

    def epochs(self, name: str) -> array[float]:
        return self._numbers[name][1::3]

    def values(self, name: str) -> array[float]:
        """The values of a metric, nan where it was not finite."""
        return self._numbers[name][2::3]

    def table(self, name: str) -> np.ndarray:
        """Steps, epochs and values of a metric, float64 [3, n]."""
        import numpy as np

        return np.array(self._numbers[name]).reshape(-1, 3).T

    def last(self, *names: str) -> tuple[float, float]:
        """The step and the epoch of the last record of any of these metrics."""
        return max((self._numbers[name][-3], self._numbers[name][-2]) for name in names)


class Standing(NamedTuple):
    """A finding that was not withdrawn: its first and its last record, and how many there were."""

    first: Record
    last: Record
    times: int


class StandingFindings:
    """The findings of a run that stand, each once by its name and place, in the order of their last records."""

    def __init__(self) -> None:
        self._standing: dict[tuple[str, str], Standing] = {}

    def add(self, record: Record) -> None:
        """Take in a record of the monitors: a finding, the withdrawal of one, or any other, which changes nothing."""
        kind = record.get("kind")
        if kind not in ("finding", "withdrawal"):
            return
        key = str(record.get("name") or ""), str(record.get("where") or "")
        former = self._standing.pop(key, None)
        if kind == "finding":
            self._standing[key] = Standing(former.first, record, former.times + 1) if former else Standing(record, record, 1)

    def __iter__(self) -> Iterator[Standing]:
        return iter(self._standing.values())


def longest_interval(seconds: Sequence[float]) -> float:
    """The seconds between two records of a run at work, given those between some: after more, it was paused or has stopped."""
    return max(IDLE_SECONDS, 10 * statistics.median(seconds)) if seconds else IDLE_SECONDS


def is_number(value: Any) -> bool:
    return type(value) in (int, float)


def to_float(value: Any) -> float:
    """A number of a record; nan for anything else, and for integers that are too large."""
    try:
        return float(value) if is_number(value) else float("nan")
    except OverflowError:
        return float("nan")
