"""A record of a monitor in few numbers, however deep the network: its totals, and the worst layer or parameter of each kind.

A tracker's pages slow down with the number of metrics, and a deep network has thousands of statistics in each record.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from zoo.callbacks.recording import Record

# statistic of a layer or parameter -> metric of its lowest, and of its highest value; None where that is not a problem
ACTIVATIONS = {
    "dead": (None, "worst/dead_units"),
    "saturated": (None, "worst/saturated"),
    "signal": ("worst/signal_min", "worst/signal_max"),
    "rank": ("worst/rank", None),
}
GRADIENTS = {
    "norm": ("worst/gradient_norm_min", "worst/gradient_norm_max"),
    "update_ratio": ("worst/update_ratio_min", "worst/update_ratio_max"),
    "zero": (None, "worst/zero_gradient"),
}
STATISTICS = {"activations": ("layers", ACTIVATIONS), "gradients": ("parameters", GRADIENTS)}


@dataclass(frozen=True)
class Worst:
    """The layer or parameter with the lowest or highest value of a statistic."""

    metric: str
    where: str
    value: float


def worst(record: Record) -> Iterator[Worst]:
    """The worst of each kind; a value that is not finite is worse than any other.

    Biases have no lowest update-to-weight ratio: they start at zero, so theirs says little.
    """
    rows, statistics = STATISTICS.get(record["kind"], ("", {}))
    for statistic, (lowest, highest) in statistics.items():
        measured = {name: row[statistic] for name, row in record.get(rows, {}).items() if row.get(statistic) is not None}
        if statistic == "update_ratio":
            measured = {name: value for name, value in measured.items() if "bias" not in name.rpartition(".")[2]}
        for metric, sign in ((lowest, -1), (highest, 1)):
            if metric and measured:
                where = max(measured, key=lambda name: (not math.isfinite(measured[name]), sign * measured[name]))
                yield Worst(metric, where, measured[where])


def totals(record: Record) -> Record:
    """The record without its layers and parameters."""
    return {key: value for key, value in record.items() if key not in ("layers", "parameters")}


def selected(record: Record, patterns: tuple[str, ...]) -> Record:
    """The record with those layers and parameters whose names match a glob."""

    def chosen(rows: dict[str, Any]) -> dict[str, Any]:
        return {name: row for name, row in rows.items() if any(fnmatchcase(name, pattern) for pattern in patterns)}

    return {key: chosen(value) if key in ("layers", "parameters") else value for key, value in record.items()}
