"""Which checkpoint of a run is the best."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any


class Selection:
    """Selects the best checkpoint of a run by the one-standard-error rule (Breiman et al. 1984, section 3.4.3).

    Of all epochs whose metric is within one standard error of the best value so far, which may be luck, that with the lowest
    validation loss is the best, and of equals the later one.

    Args:
        monitor: metric that decides.
        direction: of that metric, "max" or "min".

    Attributes:
        best: the metric of the best checkpoint; None before the first.
    """

    def __init__(self, monitor: str, direction: str) -> None:
        self.monitor, self.sign = monitor, 1 if direction == "max" else -1
        self.best: float | None = None
        self.loss = self.extreme = math.nan  # validation loss of the best checkpoint; best value of any epoch
        self.error = 0.0  # standard error of that value

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "loss": self.loss, "extreme": self.extreme, "error": self.error}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.loss, self.extreme, self.error = (state_dict[name] for name in ("best", "loss", "extreme", "error"))

    def is_best(self, metrics: Mapping[str, Any], standard_error: Callable[[float], float]) -> bool:
        """Whether the epoch with these metrics is the best so far; nan is worse than any number.

        Args:
            standard_error: of the metric, given its value in this epoch.
        """
        value, loss = float(metrics.get(self.monitor, math.nan)), float(metrics.get("val/loss", math.nan))
        former = math.nan if self.best is None else self.best
        if not math.isnan(value) and (math.isnan(self.extreme) or self.sign * (value - self.extreme) > 0):
            self.extreme, self.error = value, standard_error(value)
        least = self.sign * self.extreme - self.error
        if math.isnan(value) and not math.isnan(former):
            return False
        if self.sign * value >= least and self.sign * former >= least:  # a near-tie
            by_loss = not (math.isnan(loss) or math.isnan(self.loss))
            improved = loss <= self.loss if by_loss else self.sign * (value - former) >= 0
        else:
            improved = math.isnan(former) or self.sign * value >= least
        if improved:
            self.best, self.loss = None if math.isnan(value) else value, loss
        return improved
