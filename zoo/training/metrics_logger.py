"""The Lightning logger that writes ``metrics.jsonl``, whatever the tracker."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from zoo.core.files import replace_file
from zoo.training.records import read_metrics


class MetricsLog(Logger):
    """Appends each record with its ``step`` (of the optimizer), ``epoch`` and ``time`` (seconds since 1970).

    A value that is not finite is null, since JSON has no other word for it.

    Attributes:
        latest: the newest value of every metric, for whoever shows them.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
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
        values = {key: value if math.isfinite(value) else None for key, value in metrics.items() if key != "epoch"}
        record = {"step": step, "epoch": metrics.get("epoch"), "time": round(time.time(), 3), **values}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, allow_nan=False) + "\n")

    @rank_zero_only
    def rewind(self, step: int) -> None:
        """Drop what lies after ``step``, the test at the end, and a half written line: a resumed run goes through it again."""
        kept = [line for line in read_metrics(self.path) if line["step"] <= step and not any("test/" in key for key in line)]
        replace_file(self.path, "".join(json.dumps(line) + "\n" for line in kept).encode())
