"""What a run has recorded, read in one pass however long it is, and thinned to what a page can show without losing extremes.

Half written lines, records of other versions and values that are no numbers are left out: a report shows what can be read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

BINS = 65  # of a histogram: 32 negative magnitudes, the largest first, one around zero, 32 positive ones, the smallest first
SMALLEST = -24  # magnitude k holds 2^(k-24) <= |x| < 2^(k-23)
ACTIVATIONS = ("mean", "std", "signal", "least", "most", "zero", "dead", "saturated", "rank")
GRADIENTS = ("norm", "weight", "update", "cosine")
FINDING = ("name", "severity", "where", "evidence", "cause", "try")
SEVERITIES = ("error", "warning")  # the worst first; others come after these
MOST_POINTS = 300  # of a line, and columns of a heat map


@dataclass(frozen=True)
class Table:
    """Values of many layers or parameters on the steps that were recorded.

    Attributes:
        steps: increasing, int64 [n].
        names: of the rows, in the order in which they were first seen, which is that of the network.
        types: of the layers, as in ``Conv2d``; empty where it was not recorded.
        values: statistic -> float64 [rows, n]; what was not recorded is not a number.
        histograms: name -> (places among ``steps``, int64 [m]; counts, float32 [m, BINS]).
    """

    steps: np.ndarray
    names: list[str]
    types: dict[str, str]
    values: dict[str, np.ndarray]
    histograms: dict[str, tuple[np.ndarray, np.ndarray]]

    def recorded(self, statistic: str) -> np.ndarray:
        """Whether each row has any value of that statistic, [rows]."""
        return np.isfinite(self.values[statistic]).any(1)


@dataclass(frozen=True)
class Finding:
    """What was found to be wrong in one place, from the first step where it was seen to the last.

    Attributes:
        told: the words of the last time, by the keys of ``FINDING``.
        times: how often it was seen.
    """

    told: dict[str, str]
    first: int
    last: int
    times: int


@dataclass
class History:
    """All that a run has recorded about its training.

    Attributes:
        metrics: the records of ``metrics.jsonl`` that have a step and an epoch, with their numbers alone.
        series: statistic -> (steps, values), of the whole network: ``norm``, ``noise_scale``, ``clipped``, ``steps_per_second``,
            ``waiting``, ``memory``.
        findings: the worst first.
        unread: lines that could not be read, by file.
    """

    metrics: list[dict[str, float]] = field(default_factory=list)
    activations: Table | None = None
    gradients: Table | None = None
    series: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    has_monitors: bool = False
    unread: dict[str, int] = field(default_factory=dict)


def read_history(folder: Path) -> History:
    """What lies in ``metrics.jsonl`` and ``monitors.jsonl`` of a run's folder, either of which may be missing."""
    history = History(has_monitors=(folder / "monitors.jsonl").exists())
    for record in _records(folder / "metrics.jsonl", history.unread):
        # null is what was not finite
        numbers = {name: _float(value) for name, value in record.items() if value is None or _is_number(value)}
        if all(math.isfinite(numbers.get(name, math.nan)) for name in ("step", "epoch")):
            history.metrics.append(numbers)
    layers, parameters = _Rows(ACTIVATIONS), _Rows(GRADIENTS)
    series: dict[str, dict[int, float]] = {}
    findings: list[tuple[int, dict[str, str]]] = []
    for record in _records(folder / "monitors.jsonl", history.unread):
        step, kind = record.get("step"), record.get("kind")
        if not _is_number(step) or not math.isfinite(step) or (kind == "finding" and not record.get("name")):
            history.unread["monitors.jsonl"] = history.unread.get("monitors.jsonl", 0) + 1
            continue
        step = int(step)
        if kind == "activations":
            layers.add(step, record.get("layers"))
        elif kind == "gradients":
            parameters.add(step, record.get("parameters"))
        elif kind == "finding":
            findings.append((step, {key: str(record.get(key) or "") for key in FINDING}))
        for name in {"gradients": ("norm", "clipped", "noise_scale"), "pace": ("steps_per_second", "waiting", "memory")}.get(
            kind if isinstance(kind, str) else "", ()
        ):
            if _is_number(record.get(name)):
                series.setdefault(name, {})[step] = float(record[name])
    history.activations, history.gradients = layers.table(), parameters.table()
    for name, values in series.items():
        steps = sorted(values)
        history.series[name] = (np.array(steps), np.array([values[step] for step in steps]))
    history.findings = _summed_up(findings)
    return history


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _float(value: Any) -> float:
    return float(value) if type(value) in (int, float) else math.nan


def _records(path: Path, unread: dict[str, int]) -> Iterator[dict[str, Any]]:
    """The objects of a file with one on each line; what cannot be read is counted, but for a last line that was cut off."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        for line in file:
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                record = None
            if isinstance(record, dict):
                yield record
            elif line.endswith(b"\n") and line.strip():
                unread[path.name] = unread.get(path.name, 0) + 1


class _Rows:
    """Gathers what was recorded of each layer; of a step that was recorded twice the later record counts."""

    def __init__(self, statistics: tuple[str, ...]) -> None:
        self.statistics = statistics
        self.types: dict[str, str] = {}
        self.values: dict[int, dict[str, list[float]]] = {}
        self.histograms: dict[int, dict[str, np.ndarray]] = {}

    def add(self, step: int, rows: Any) -> None:
        if not isinstance(rows, dict):
            return
        described = {name: row for name, row in rows.items() if isinstance(row, dict)}
        for name, row in described.items():
            if name not in self.types:
                self.types[name] = str(row.get("type") or "")
        self.values[step] = {name: [_float(row.get(key)) for key in self.statistics] for name, row in described.items()}
        self.histograms[step] = _histograms({name: row.get("histogram") for name, row in described.items()})

    def table(self) -> Table | None:
        if not self.types:
            return None
        steps, names = sorted(self.values), list(self.types)
        blank = [math.nan] * len(self.statistics)
        values = np.array([[self.values[step].get(name, blank) for step in steps] for name in names])  # [rows, n, statistics]
        histograms = {}
        for name in names:
            places = [place for place, step in enumerate(steps) if name in self.histograms[step]]
            if places:
                histograms[name] = (np.array(places), np.stack([self.histograms[steps[place]][name] for place in places]))
        by_statistic = {key: values[:, :, number] for number, key in enumerate(self.statistics)}
        return Table(np.array(steps), names, self.types, by_statistic, histograms)


def _histograms(counts: dict[str, Any]) -> dict[str, np.ndarray]:
    """Those that are histograms, each float32 [BINS]; all of a step are read at once, which is much faster."""
    lists = {name: each for name, each in counts.items() if isinstance(each, list) and len(each) == BINS}
    try:
        array = np.array(list(lists.values()), dtype=np.float32)
    except (ValueError, TypeError):
        array = np.empty(0)
    if array.shape != (len(lists), BINS):  # one of them is no histogram
        return {n: found for n in lists for found in _histograms({n: lists[n]}).values()} if len(lists) > 1 else {}
    sound = np.isfinite(array).all(1) & (array >= 0).all(1)
    return {name: row for name, row, is_sound in zip(lists, array, sound, strict=True) if is_sound}


def _summed_up(findings: Iterable[tuple[int, dict[str, str]]]) -> list[Finding]:
    """One for each name and place, the worst severity first, then in the order of the steps."""
    seen: dict[tuple[str, str], Finding] = {}
    for step, told in findings:
        key = (told["name"], told["where"])
        former = seen.get(key)
        seen[key] = Finding(told, former.first if former else step, step, former.times + 1 if former else 1)

    def order(finding: Finding) -> tuple[int, int]:
        severity = finding.told["severity"]
        return SEVERITIES.index(severity) if severity in SEVERITIES else len(SEVERITIES), finding.first

    return sorted(seen.values(), key=order)


# ------------------------------------------------------------------ thinning


def thin(x: np.ndarray, y: np.ndarray, most: int = MOST_POINTS) -> tuple[np.ndarray, np.ndarray]:
    """At most ``most`` of the points of a line, in order, among them the first, the last, the smallest and the largest.

    The line is cut into equal parts, of each of which the smallest and the largest value stay. What is not a number breaks a
    line: a part without any number keeps its first point.
    """
    if len(x) <= most:
        return x, y
    kept = {0, len(x) - 1}
    for part in np.array_split(np.arange(len(x)), max(1, (most - 2) // 2)):
        numbers = part[np.isfinite(y[part])]
        kept |= {int(numbers[y[numbers].argmin()]), int(numbers[y[numbers].argmax()])} if len(numbers) else {int(part[0])}
    places = sorted(kept)
    return x[places], y[places]


@dataclass(frozen=True)
class Columns:
    """Steps as columns of equal width: a heat map's.

    Attributes:
        start, end: the steps at which the first column begins and the last one ends.
        count: how many there are.
        of: to which column each recorded step belongs, int64 [n].
    """

    start: float
    end: float
    count: int
    of: np.ndarray


def columns(steps: np.ndarray, most: int = MOST_POINTS) -> Columns:
    """One column for each record where they are evenly spaced and few; else several records share one."""
    gap = float(np.median(np.diff(steps))) if len(steps) > 1 else 1.0
    start, end = float(steps[0]), float(steps[-1]) + gap
    count = max(1, min(most, round((end - start) / gap)))
    return Columns(start, end, count, np.minimum(((steps - start) / (end - start) * count + 1e-9).astype(np.int64), count - 1))


def heat(values: np.ndarray, where: Columns) -> np.ndarray:
    """[rows, columns] of values, [rows, n]: of records that share a column the one farthest from the row's median.

    A column without a record shows the one before it; what is not a finite number is nan.
    """
    result = np.full((len(values), where.count), np.nan)
    for row, line in enumerate(values):
        places = np.flatnonzero(np.isfinite(line))
        if not len(places):
            continue
        nearest_first = places[np.argsort(np.abs(line[places] - np.median(line[places])), kind="stable")]
        result[row, where.of[nearest_first]] = line[nearest_first]  # the last of several stays
    filled = np.zeros(where.count, dtype=bool)
    filled[where.of] = True
    before = np.maximum.accumulate(np.where(filled, np.arange(where.count), 0))
    return result[:, before]


def magnitudes(places: np.ndarray, counts: np.ndarray, where: Columns) -> np.ndarray:
    """Shares of the values of one layer in each bin, [BINS, columns], from histograms, [m, BINS], of the steps at ``places``.

    Records that share a column are added up; a column without any shows the one before it, or nothing in front of the first.
    """
    summed = np.zeros((where.count, counts.shape[1]))
    np.add.at(summed, where.of[places], counts)
    totals = summed.sum(1)
    before = np.maximum.accumulate(np.where(totals > 0, np.arange(where.count), 0))
    return (summed / np.maximum(totals, 1)[:, None])[before].T
