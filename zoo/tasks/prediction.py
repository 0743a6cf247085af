"""Prediction for an image, as plain values that commands print, write and send."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from zoo.core.errors import UserError


@dataclass(frozen=True)
class Prediction:
    """Named values predicted for one image, as in ``Prediction({"caption": "a red circle", "log_probability": -3.1})``."""

    values: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return self.values

    def to_columns(self) -> dict[str, Any]:
        """Columns of a CSV file, the same for all predictions of one call."""
        return self.values

    def to_row(self) -> dict[str, str]:
        """Columns of a table."""
        return {name.replace("_", "-"): _cell(value) for name, value in self.values.items()}

    @property
    def name(self) -> str:
        """The prediction itself: the class, the caption, the answer."""
        return str(next(iter(self.values.values())))

    @property
    def probability(self) -> float | None:
        """Its probability, where there is one."""
        value = self.values.get("probability")
        return None if value is None else float(value)

    def __str__(self) -> str:
        return next(iter(self.to_row().values()))


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Ranking(Prediction):
    """The most probable of several names, best first.

    Args:
        values: name -> probability.
        kind: what the names are, as in "class".
    """

    values: dict[str, float]
    kind: str

    @property
    def name(self) -> str:
        return next(iter(self.values))

    @property
    def probability(self) -> float:
        return self.values[self.name]

    def to_dict(self) -> dict[str, Any]:
        top = [{self.kind: name, "probability": probability} for name, probability in self.values.items()]
        return {**top[0], "top": top}

    def to_columns(self) -> dict[str, Any]:
        columns = {}
        for place, (name, probability) in enumerate(self.values.items(), 1):
            suffix = f"_{place}" if place > 1 else ""
            columns |= {self.kind + suffix: name, f"probability{suffix}": f"{probability:.6f}"}
        return columns

    def to_row(self) -> dict[str, str]:
        _, *others = (f"{name} {probability:.4f}" for name, probability in self.values.items())
        return {self.kind: self.name, "probability": f"{self.probability:.4f}", "then": "  ".join(others)}


def rank(probabilities: Tensor, names: Sequence[str], kind: str, top: int) -> list[Prediction]:
    """The ``top`` most probable names of each row of probabilities, [N, names]."""
    if top < 1:
        raise UserError(f"--top {top}: must be at least 1")
    best = probabilities.topk(min(top, len(names)))
    rows = zip(best.values.tolist(), best.indices.tolist(), strict=True)
    return [Ranking({names[i]: value for value, i in zip(values, indices, strict=True)}, kind) for values, indices in rows]
