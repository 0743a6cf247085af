"""Records of a run, read in one pass and downsampled without losing extremes.

Incomplete lines, records of other versions and values that are not numbers are skipped.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from zoo.callbacks.bins import BINS
from zoo.core.json_lines import read_json_lines
from zoo.training.records import Metrics, Standing, StandingFindings, is_number, to_float

ACTIVATIONS = ("mean", "std", "signal", "min", "max", "zero", "dead", "saturated", "rank")
GRADIENTS = ("norm", "weight_norm", "update_ratio", "cosine")
SERIES = {"gradients": ("norm", "clipped", "noise_scale"), "throughput": ("steps_per_second", "data_loading", "memory")}
FINDING = ("name", "severity", "where", "evidence", "cause", "try")
SEVERITIES = ("error", "warning")  # the worst first; others come after these
MOST_POINTS = 300  # of a line, and columns of a heat map


@dataclass(frozen=True)
class Table:
    """Statistics of layers or parameters over the recorded steps.

    Attributes:
        steps: increasing, int64 [n].
        names: of the rows, in the order of the network.
        types: of the layers, as in ``Conv2d``; empty if not recorded.
        values: statistic -> float64 [rows, n]; NaN if not recorded.
        histograms: name -> (indices of ``steps``, int64 [m]; counts, float32 [m, BINS]).
    """

    steps: np.ndarray
    names: list[str]
    types: dict[str, str]
    values: dict[str, np.ndarray]
    histograms: dict[str, tuple[np.ndarray, np.ndarray]]

    def recorded(self, statistic: str) -> np.ndarray:
        """Whether each row has any value of a statistic, bool [rows]."""
        return np.isfinite(self.values[statistic]).any(1)


@dataclass(frozen=True)
class Finding:
    """A problem in one layer, with the first and the last step at which it was detected.

    Attributes:
        fields: the last record, with the keys of ``FINDING``.
        times: number of records.
    """

    fields: dict[str, str]
    first: int
    last: int
    times: int


@dataclass
class History:
    """The records of a training run.

    Attributes:
        series: statistic -> (steps, values), of the whole network: ``norm``, ``noise_scale``, ``clipped``, ``steps_per_second``,
            ``data_loading``, ``memory``.
        findings: the worst first.
        unread: lines that could not be read, by file.
    """

    metrics: Metrics = field(default_factory=Metrics)
    activations: Table | None = None
    gradients: Table | None = None
    series: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    has_monitors: bool = False
    unread: dict[str, int] = field(default_factory=dict)


def read_history(folder: Path) -> History:
    """Read ``metrics.jsonl`` and ``monitors.jsonl`` of a run, either of which may be missing."""
    history = History(has_monitors=(folder / "monitors.jsonl").exists())
    unread: Counter[str] = Counter()
    for record in read_json_lines(folder / "metrics.jsonl", lambda: unread.update(["metrics.jsonl"])):
        history.metrics.add(record)
    layers, parameters = _Rows(ACTIVATIONS), _Rows(GRADIENTS)
    series: dict[str, dict[int, float]] = {}
    findings = StandingFindings()
    for record in read_json_lines(folder / "monitors.jsonl", lambda: unread.update(["monitors.jsonl"])):
        step, kind = record.get("step"), record.get("kind")
        if step is None or (kind == "finding" and not record.get("name")):
            unread["monitors.jsonl"] += 1
            continue
        findings.add(record)
        step = int(step)
        if kind == "activations":
            layers.add(step, record.get("layers"))
        elif kind == "gradients":
            parameters.add(step, record.get("parameters"))
        for name in SERIES.get(kind if isinstance(kind, str) else "", ()):
            if is_number(record.get(name)):
                series.setdefault(name, {})[step] = to_float(record[name])
    history.activations, history.gradients = layers.table(), parameters.table()
    for name, values in series.items():
        steps = sorted(values)
        history.series[name] = (np.array(steps), np.array([values[step] for step in steps]))
    history.findings, history.unread = _worst_first(findings), dict(unread)
    return history


class _Rows:
    """Collect the records of each layer; for a step with two records the later one counts."""

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
        self.values[step] = {name: [to_float(row.get(key)) for key in self.statistics] for name, row in described.items()}
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
    """The valid histograms, float32 [BINS] each; converting all of a step at once is much faster."""
    lists = {name: each for name, each in counts.items() if isinstance(each, list) and len(each) == BINS}
    try:
        array = np.array(list(lists.values()), dtype=np.float32)
    except (ValueError, TypeError, OverflowError):
        array = np.empty(0)
    if array.shape != (len(lists), BINS):  # one of them is invalid
        return {n: found for n in lists for found in _histograms({n: lists[n]}).values()} if len(lists) > 1 else {}
    sound = np.isfinite(array).all(1) & (array >= 0).all(1)
    return {name: row for name, row, is_sound in zip(lists, array, sound, strict=True) if is_sound}


def _worst_first(findings: Iterable[Standing]) -> list[Finding]:
    """The findings, sorted by severity and first step."""

    def order(finding: Finding) -> tuple[int, int]:
        severity = finding.fields["severity"]
        return SEVERITIES.index(severity) if severity in SEVERITIES else len(SEVERITIES), finding.first

    found = [
        Finding({key: str(last.get(key) or "") for key in FINDING}, int(first["step"]), int(last["step"]), times)
        for first, last, times in findings
    ]
    return sorted(found, key=order)


# ------------------------------------------------------------------ thinning


def thin(x: np.ndarray, y: np.ndarray, most: int = MOST_POINTS) -> tuple[np.ndarray, np.ndarray]:
    """Downsample a line to at most ``most`` points, keeping the first, the last, the minimum and the maximum.

    The minimum and maximum of each of equal intervals are kept. NaN breaks a line: an interval of NaN keeps its first point.
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
    """Equal-width columns of a heat map over steps.

    Attributes:
        start, end: steps at the start of the first and the end of the last column.
        count: number of columns.
        of: column of each recorded step, int64 [n].
    """

    start: float
    end: float
    count: int
    of: np.ndarray


def columns(steps: np.ndarray, most: int = MOST_POINTS) -> Columns:
    """A column per record if there are few, evenly spaced ones; else columns of several records."""
    gap = float(np.median(np.diff(steps))) if len(steps) > 1 else 1.0
    start, end = float(steps[0]), float(steps[-1]) + gap
    count = max(1, min(most, round((end - start) / gap)))
    return Columns(start, end, count, np.minimum(((steps - start) / (end - start) * count + 1e-9).astype(np.int64), count - 1))


def heat(values: np.ndarray, where: Columns) -> np.ndarray:
    """Bin values, [rows, n], into columns, [rows, columns]: the value in a column that is farthest from the median of the row.

    A column without records repeats the previous one; values that are not finite are NaN.
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
    """Density of a layer's values per bin, [BINS, columns], from histograms, [m, BINS], of the steps at ``places``.

    Records in a column are added up; a column without records repeats the previous one.
    """
    summed = np.zeros((where.count, counts.shape[1]))
    np.add.at(summed, where.of[places], counts)
    totals = summed.sum(1)
    before = np.maximum.accumulate(np.where(totals > 0, np.arange(where.count), 0))
    return (summed / np.maximum(totals, 1)[:, None])[before].T
