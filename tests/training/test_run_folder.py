"""A run is found by its name, and what it lacks is told with what may help."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from zoo.config.resolution import resolve
from zoo.core.errors import UserError
from zoo.registry.registry import scan
from zoo.training.run_folder import RUNS, RunFolder


@pytest.fixture
def folder() -> RunFolder:
    folder = RunFolder(RUNS / "mine")
    folder.describe(resolve(scan(), "softmax", {}, []), {})
    return folder


def complaint(call, *arguments) -> str:
    with pytest.raises(UserError) as raised:
        call(*arguments)
    return str(raised.value)


def test_a_missing_checkpoint_is_told_by_what_became_of_the_run(folder: RunFolder) -> None:
    assert complaint(folder.checkpoint, "best") == "run mine has no best.ckpt yet: zoo train --resume mine"
    folder.metrics_file.write_text(json.dumps({"step": 3, "epoch": 1, "test/accuracy": 0.5}))
    assert "though it was finished, so the file is gone" in complaint(folder.checkpoint, "best")
    folder.autopsy_file.write_text("")
    assert "as its loss or a gradient was not finite before one was saved: zoo autopsy mine" in complaint(
        folder.checkpoint, "best"
    )


def test_settings_that_are_cut_off_are_told_by_their_file_and_line(folder: RunFolder) -> None:
    folder.run_file.write_text("model:\n  name: softmax\nrecipe:\n  batch_\n  epochs: 3\n")
    told = complaint(folder.read_run)
    assert told.startswith(f"{folder.run_file}: not YAML at line 5: ") and "--config" not in told and "\n" not in told


def test_a_folder_that_is_no_run_is_named_with_what_it_lacks() -> None:
    Path("runs/other").mkdir(parents=True)
    Path("runs/other/notes.txt").touch()
    assert complaint(RunFolder.find, "other") == "runs/other is not a run: it holds no run.yaml"
    assert "no run 'emty'" in complaint(RunFolder.find, "emty")
