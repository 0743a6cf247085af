"""Runs that are written by hand, for pictures of what is recorded."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from zoo.config.resolution import resolve
from zoo.registry.registry import scan
from zoo.training.run_folder import RUNS, RunFolder


@pytest.fixture
def write_run() -> Callable[..., RunFolder]:
    """A run as it lies on disk, without checkpoints: ``write_run("first", records, model="plain20")``."""

    def write(name: str, records: list, model: str = "softmax", data: str = "digits", rest: str = "", **recipe) -> RunFolder:
        folder = RunFolder(RUNS / name)
        folder.describe(resolve(scan(), model, {}, [{"data": {"name": data}, "recipe": recipe}]), {})
        folder.metrics_file.write_text("".join(json.dumps(record) + "\n" for record in records) + rest)
        return folder

    return write
