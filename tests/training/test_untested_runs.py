"""``--no-test``: the test split stays untouched, the run is finished all the same, and can be tested later."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from zoo.core.json_lines import read_json_lines
from zoo.datamodules.bases.images import ImageData
from zoo.training.run_folder import RunFolder
from zoo.training.watching import RunWatcher

QUICK = ("--set", "trainer.accelerator=cpu", "--set", "trainer.limit_train_batches=2")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The splits of which batches were made."""
    splits: list[str] = []
    build = ImageData.build_loader
    monkeypatch.setattr(ImageData, "build_loader", lambda self, split: (splits.append(split), build(self, split))[1])
    return splits


def summary(zoo: Any) -> dict[str, Any]:
    (run,) = json.loads(zoo("runs", "--json").out)
    return run


def test_a_run_ends_without_a_test_and_is_tested_later(zoo, reads: list[str]) -> None:
    answer = zoo("train", "softmax", *QUICK, "--epochs", "2", "--name", "first", "--no-test", "--json")
    assert answer.code == 0 and set(reads) == {"train", "val"}
    printed, run = json.loads(answer.out), summary(zoo)
    assert printed == {"run": "runs/first", "val/accuracy": run["best"]}
    assert (run["state"], run["test"]) == ("finished", None)
    folder = RunFolder(Path("runs/first"))
    *_, last = read_json_lines(folder.metrics_file)
    assert last["best/accuracy"] == run["best"] and last["epoch"] == 2
    assert RunWatcher(folder).status(time.time()).is_finished

    answer = zoo("train", "--resume", "first")
    assert answer.code == 0 and "test" not in set(reads), "the run remembers that it is not tested"
    assert "val/accuracy" in answer.out and "test/" not in answer.out
    tested = json.loads(zoo("test", "first", "--json").out)
    assert "test" in reads and tested["test/accuracy"] > 0
    ended = json.loads(zoo("train", "--resume", "first", "--set", "trainer.test=true", "--json").out)
    assert ended["test/accuracy"] == tested["test/accuracy"] == summary(zoo)["test"]


def test_a_run_that_stops_early_without_a_test_is_finished(zoo) -> None:
    patience = ("--set", "recipe.early_stopping_patience=1", "--set", "recipe.lr=1e-9")
    answer = zoo("train", "softmax", *QUICK, *patience, "--epochs", "50", "--no-test")
    assert answer.code == 0 and answer.out.startswith("softmax on digits: val/accuracy ")
    run = summary(zoo)
    assert run["epoch"] < 50 and run["state"] == "finished"
