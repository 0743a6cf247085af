"""The Lightning logger that writes ``metrics.jsonl`` with any tracker, or none."""

from __future__ import annotations

import time
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from zoo.core.json_lines import JsonLinesWriter


class MetricsLogger(Logger):
    """Append each record with its ``step`` (of the optimizer), ``epoch`` and ``time`` (Unix time in seconds).

    Non-finite values become null.

    Attributes:
        latest: the latest value of every metric, for progress bars.
        is_exact: asks tasks to log their metrics as they are, which Lightning would round.
    """

    is_exact = True

    def __init__(self, file: JsonLinesWriter) -> None:
        super().__init__()
        self.file = file
        self.latest: dict[str, float] = {}

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """The resolved Run is in ``run.yaml``."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.latest.update(metrics)
        values = {key: value for key, value in metrics.items() if key != "epoch"}
        self.file.append({"step": step, "epoch": metrics.get("epoch"), "time": round(time.time(), 3), **values})
