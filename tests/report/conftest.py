"""Runs that are written by hand, with what goes on inside the network."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from zoo.config.resolution import resolve
from zoo.registry.registry import scan
from zoo.training.run_folder import RUNS, RunFolder

BINS = 65


def _histogram(**counts: int) -> list[int]:
    """65 counts, of which some are not zero: ``_histogram(b32=5)``."""
    return [counts.get(f"b{place}", 0) for place in range(BINS)]


def _monitors(steps: range, layers: tuple[str, ...] = ("network.first", "network.second")) -> list[dict[str, Any]]:
    """Records of activations, gradients and throughput on each of the steps, as a training writes them."""
    records: list[dict[str, Any]] = []
    for step in steps:
        activations = {
            "type": "ReLU", "mean": 0.1, "std": 1.0 + step, "min": -3.1, "max": 4.2, "quantiles": [-2, -1, 0, 1, 2],
            "zero": 0.0, "dead": 0.25, "saturated": None, "rank": 3.0, "histogram": _histogram(b32=50, b57=50),
        }  # fmt: skip
        gradients = {"norm": 0.2, "weight_norm": 3.1, "update_ratio": 0.0011, "cosine": 0.3, "histogram": _histogram(b45=100)}
        records += [
            {"step": step, "epoch": 0, "kind": "activations", "seconds": 0.01, "layers": dict.fromkeys(layers, activations)},
            {"step": step, "epoch": 0, "kind": "gradients", "seconds": 0.01, "norm": 2.3, "clipped": 0.4, "noise_scale": None,
             "parameters": {f"{name}.weight": gradients for name in layers}},
            {"step": step, "epoch": 0, "kind": "throughput", "steps_per_second": 8.1, "data_loading": 0.03, "memory": 812000000},
        ]  # fmt: skip
    return records


def _finding(step: int = 10, **words: str) -> dict[str, Any]:
    """A finding, with some of its words replaced."""
    usual = {"name": "dead-units", "severity": "warning", "where": "network.first", "evidence": "62% of 64 units"}
    return {"step": step, "epoch": 0, "kind": "finding", **usual, "cause": "a high rate", "try": "recipe.lr=0.01", **words}


def _metrics(steps: int, every: int = 10) -> list[dict[str, Any]]:
    """Records of a training of one epoch, its validation and its test."""
    training = [
        {"step": step, "epoch": 0, "time": 1000.0 + step, "train/loss": 1 / step, "train/lr": 0.1}
        for step in range(every, steps + 1, every)
    ]
    ends = {"step": steps, "time": 1000.0 + steps}
    return [
        *training,
        {**ends, "epoch": 0, "val/loss": 0.5, "val/accuracy": 0.75},
        {**ends, "epoch": 1, "test/loss": 0.6, "test/accuracy": 0.7},
    ]


@pytest.fixture
def histogram() -> Callable[..., list[int]]:
    return _histogram


@pytest.fixture
def monitors() -> Callable[..., list[dict[str, Any]]]:
    return _monitors


@pytest.fixture
def finding() -> Callable[..., dict[str, Any]]:
    return _finding


@pytest.fixture
def metrics() -> Callable[..., list[dict[str, Any]]]:
    return _metrics


@pytest.fixture
def write_run() -> Callable[..., RunFolder]:
    """A run as it lies on disk, without checkpoints: ``write_run("first", metrics(100), monitors(range(10)))``."""

    def write(name: str, metrics: list = (), monitors: list = (), settings: dict | None = None, rest: str = "") -> RunFolder:
        folder = RunFolder(RUNS / name)
        environment = {"command": f"zoo train softmax --name {name}", "device": "cpu"}
        environment |= {"parameters": 650, "trained_parameters": 65}
        folder.describe(resolve(scan(), "softmax", {}, [settings or {}]), environment)
        folder.metrics_file.write_text("".join(json.dumps(record) + "\n" for record in metrics))
        if monitors:
            lines = "".join(json.dumps(record) + "\n" for record in monitors)
            (folder.path / "monitors.jsonl").write_text(lines + rest)
        return folder

    return write
