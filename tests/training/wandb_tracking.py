"""A W&B tracker in the hands of a test, and what to give it."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from zoo.config.run import WandbSettings
from zoo.tasks.samples import SampleImage, Samples
from zoo.training.tracking import tracker as tracker_module
from zoo.training.tracking.guest import Guest
from zoo.training.tracking.wandb_tracker import WandbTracker


class Tracked(Guest):
    """A guest whose methods are those of its tracker."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("log_"):
            return lambda *arguments: self.call(name, *arguments).wait(30)
        return getattr(self.tracker, name)


def tracker(folder: Path, mode: str = "offline", run_id: str | None = None, **settings: Any) -> Tracked:
    config = {"model": {"name": "mlp", "width": 64}, "commit": "abc"}
    return Tracked(WandbTracker(WandbSettings(mode=mode, **settings), folder, "mlp-digits", config, run_id, DIRECTIONS))


def classified(images: torch.Tensor) -> Samples:
    return Samples(images=[SampleImage(image, "cat", "dog", False, 0.75) for image in images])


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Our own; wandb's go to its log files, and from there to pytest, but not to the terminal."""
    ours = [record for record in caplog.records if record.name == tracker_module.__name__]
    return [record.getMessage() for record in ours if record.levelno >= logging.WARNING]


def wandb_sync(*parts: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "wandb", "sync", *map(str, parts)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, stdin=subprocess.DEVNULL)


def monitored(path: Path) -> Path:
    """A ``monitors.jsonl`` of a network of two layers, nine records of each kind, and three findings, one of them twice."""

    def layer(**values: Any) -> dict[str, Any]:
        return {"type": "Linear", "mean": 0.0, "dead": None, "saturated": None, "rank": 2.5, "histogram": [], **values}

    def finding(step: int, severity: str, name: str) -> dict[str, Any]:
        told = {"where": "second", "evidence": f"seen at {step}", "cause": "rate", "try": "less"}
        return {"step": step, "epoch": 0, "kind": "finding", "name": name, "severity": severity, **told}

    written = [finding(10, "warning", "dead-units"), finding(20, "error", "no-gradient"), finding(30, "warning", "dead-units")]
    for step in range(0, 90, 10):
        layers = {
            "first": layer(std=1.0, mean=step, signal=0.5),
            "second": layer(type="ReLU", std=10.0 ** (-step / 10), dead=0.5, rank=None),
        }
        rows = {
            "first.weight": {"norm": 1.0, "weight_norm": 2.0, "update_ratio": 0.001, "cosine": None},
            "first.bias": {"update_ratio": 0.1},
        }
        rows["second.weight"] = {"norm": 0.0, "weight_norm": 2.0, "update_ratio": 0.0 if step else None, "cosine": -0.5}
        written += [{"step": step, "epoch": 0, "kind": "activations", "layers": layers}]
        written += [{"step": step, "epoch": 0, "kind": "gradients", "norm": 1.0, "parameters": rows}]
        written += [{"step": step, "epoch": 0, "kind": "throughput", "data_loading": 0.5}]
    path.write_text("".join(json.dumps(record) + "\n" for record in written) + '{"step": 90, "ki')
    return path


DIRECTIONS = {"val/accuracy": "max", "train/loss": "min"}
