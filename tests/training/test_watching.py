"""A run is followed through its files: half written, in progress, idle, resumed and finished."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from zoo.callbacks.sparkline import sparkline
from zoo.config.resolution import resolve
from zoo.registry.registry import scan
from zoo.training.run_folder import RunFolder
from zoo.training.watching import RunWatcher


@pytest.fixture
def folder(workplace: Path) -> RunFolder:
    """A run that has begun and recorded nothing."""
    path = workplace / "runs" / "seen"
    path.mkdir(parents=True)
    run = resolve(scan(()), "mlp", {}, [{"recipe": {"epochs": 4}}])
    (path / "run.yaml").write_text(run.to_yaml())
    return RunFolder(Path("runs/seen"))


def write(file: Path, *records: dict[str, Any]) -> None:
    with file.open("a") as stream:
        stream.writelines(json.dumps(record) + "\n" for record in records)


def two_epochs(start: float = 1000.0) -> list[dict[str, Any]]:
    """20 steps an epoch at 2 a second, and 5 seconds of validation after each."""
    records = []
    for epoch in range(2):
        began = start + 15 * epoch
        for part in (1, 2):
            time, loss = began + 5 * part, 1 / (2 * epoch + part)
            records.append({"step": 20 * epoch + 10 * part, "epoch": epoch, "time": time, "train/loss": loss})
        measured = {"val/accuracy": 0.5 + 0.2 * epoch, "val/loss": 1.0}
        records.append({"step": 20 * epoch + 20, "epoch": epoch, "time": began + 15, **measured})
    return records


def test_a_run_that_stopped_before_its_first_record_is_said_to_have_stopped(folder: RunFolder) -> None:
    began = folder.run_file.stat().st_mtime
    assert RunWatcher(folder).status(began + 5).lines()[-1] == "nothing recorded yet"
    assert RunWatcher(folder).status(began + 90).lines()[-1].startswith("idle for 1:30: it may have stopped; to resume:")
    write(folder.monitors_file, {"step": 29, "epoch": 2, "kind": "throughput", "data_loading": 0.1})
    assert RunWatcher(folder).status(began + 5).lines()[-1] == "no metrics recorded yet"
    folder.best.parent.mkdir(exist_ok=True)
    folder.best.touch()
    for content in ("", "damaged\n"):
        folder.metrics_file.write_text(content)
        assert RunWatcher(folder).status(began + 90).lines()[-1] == "metrics.jsonl is missing or damaged"


def test_the_test_at_the_end_is_no_epoch(folder: RunFolder) -> None:
    folder.run_file.unlink()
    write(folder.metrics_file, *two_epochs(), {"step": 40, "epoch": 2, "time": 1040.0, "test/accuracy": 0.8})
    status = RunWatcher(folder).status(1041.0)
    assert status.is_finished and status.epoch == 2


def test_progress_rate_and_time_left_follow_from_the_records(folder: RunFolder) -> None:
    write(folder.metrics_file, *two_epochs())
    status = RunWatcher(folder).status(1032.0)
    assert (status.epoch, status.epochs, status.step, status.steps, status.progress) == (2, 4, 40, 80, 0.5)
    assert status.steps_per_second == pytest.approx(30 / 25), "from the first record, at step 10, to the last"
    assert status.seconds_left == pytest.approx(40 / status.steps_per_second) and status.idle_seconds == 2.0
    assert not status.is_finished and not status.may_have_stopped
    lines = status.lines()
    assert lines[0] == "seen  mlp on digits  epoch 2/4  step 40/80  1.2 steps/s  0:33 left"
    assert lines[1] == "train/loss    0.25  █▃▁▁" and lines[2] == "val/accuracy  0.7  ▁█" and lines[-1] == "last record 0:02 ago"


def test_before_the_first_record_and_within_the_first_epoch_it_says_what_it_knows(folder: RunFolder) -> None:
    watcher = RunWatcher(folder)
    assert watcher.status(5.0).lines() == ["seen  mlp on digits  epoch 0/4  step 0", "nothing recorded yet"]
    write(folder.metrics_file, two_epochs()[0])
    status = watcher.status(1006.0)
    assert (status.steps, status.steps_per_second, status.seconds_left) == (None, None, None)
    assert status.lines()[0] == "seen  mlp on digits  epoch 1/4  step 10"


def test_a_pause_does_not_count_as_slowness(folder: RunFolder) -> None:
    before, after = two_epochs()[:3], two_epochs(90000.0)[3:]
    write(folder.metrics_file, *before, *after)
    status = RunWatcher(folder).status(90031.0)
    assert status.steps_per_second == pytest.approx(20 / 20), "10 steps in 10 seconds each, on either side of the pause"


def test_an_idle_run_may_have_stopped_and_a_finished_one_has_not(folder: RunFolder) -> None:
    write(folder.metrics_file, *two_epochs())
    watcher = RunWatcher(folder)
    assert not watcher.status(1030.0 + 59).may_have_stopped
    late = watcher.status(1030.0 + 3700)
    assert late.may_have_stopped and late.lines()[-1].startswith("idle for 1:01:40: it may have stopped")
    assert "zoo train --resume seen" in late.lines()[-1]
    write(folder.metrics_file, {"step": 80, "epoch": 3, "time": 1060.0, "test/accuracy": 0.8})
    done = watcher.status(9000.0)
    assert done.is_finished and not done.may_have_stopped and "finished" in done.lines()[0] and done.seconds_left is None


def test_the_worst_finding_is_shown_and_of_equals_the_last(folder: RunFolder) -> None:
    file = folder.path / "monitors.jsonl"
    finding = {"step": 30, "kind": "finding", "where": "network.stage1", "evidence": "62% are 0", "try": "a lower rate"}
    write(
        file,
        {**finding, "name": "first", "severity": "warning"},
        {"kind": "throughput", "data_loading": 0.4},
        {"kind": "unheard-of"},
    )
    watcher = RunWatcher(folder)
    assert "warning: first in network.stage1 at step 30: 62% are 0; try: a lower rate" in watcher.status(0.0).lines()
    assert "data loading 40%" in watcher.status(0.0).lines()[0]
    write(file, {**finding, "name": "bad", "severity": "error"}, {**finding, "name": "last", "severity": "warning"})
    assert watcher.status(0.0).finding["name"] == "bad"
    write(file, {"step": 31, "kind": "activations", "layers": {}})
    assert watcher.status(0.0).step == 31
    write(file, {"kind": "finding", "name": "bare", "severity": "error"}, {"kind": "finding", "severity": "note"})
    assert "error: bare: " in watcher.status(0.0).lines()


def test_a_sparkline_has_the_least_at_the_bottom_and_the_greatest_at_the_top() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert sparkline([3, 3]) == "▁▁" and sparkline([]) == ""
    assert sparkline([0.0, float("nan"), 1.0]) == "▁ █"
    assert sparkline(list(range(1000)), 4) == "▁▃▆█" and len(sparkline(range(25), 24)) == 24


def test_a_real_run_is_shown_once_where_nobody_looks(zoo) -> None:
    zoo("train", "softmax", "--name", "real", "--epochs", "2")
    answer = zoo("watch", "real")
    assert answer.code == 0 and answer.out == zoo("watch", "runs/real", "--once").out
    assert answer.out.startswith("real  softmax on digits  epoch 2/2  step ") and "finished" in answer.out
    given = json.loads(zoo("watch", "real", "--json").out)
    tested = json.loads(zoo("test", "real", "--json").out)["test/accuracy"]
    assert given["metrics"]["test/accuracy"] == tested and given["is_finished"] and given["step"] == given["steps"]


def test_a_non_finite_run_is_reported_until_it_is_resumed(zoo, folder: RunFolder) -> None:
    wild = ["--set", "recipe.optimizer=sgd", "--set", "recipe.lr=1e9", "--set", "recipe.schedule=constant"]
    zoo("train", "mlp", "--name", "wild", *wild)
    assert zoo("watch", "wild").out.endswith("error: the loss or a gradient is not finite; to find out where: zoo autopsy wild\n")
    write(folder.metrics_file, *two_epochs())
    (folder.path / "autopsy.pt").touch()
    os.utime(folder.path / "autopsy.pt", (1029, 1029))
    assert not RunWatcher(folder).status(1032.0).is_non_finite, "it has recorded more since"


def test_a_run_that_is_none_is_one_line(zoo, folder: RunFolder) -> None:
    assert zoo("watch", "sen").is_one_line_error("no run 'sen': did you mean 'seen'?")
    Path("runs/claimed").mkdir()
    assert zoo("watch", "runs/claimed").is_one_line_error("no run.yaml and no metrics.jsonl and no monitors.jsonl")


def test_a_run_whose_settings_cannot_be_read_is_shown_without_them(zoo, folder: RunFolder) -> None:
    write(folder.metrics_file, *two_epochs())
    for content in ("model: {", "model: {name: mlp}\nunheard: 1\n", None):
        folder.run_file.write_text(content) if content else folder.run_file.unlink()
        answer = zoo("watch", "seen")
        assert answer.code == 0 and "run.yaml cannot be read" in answer.out and "epoch 2/?" in answer.out
        assert "val/accuracy" in answer.out and json.loads(zoo("watch", "seen", "--json").out)["step"] == 40


def test_a_terminal_follows_the_run_to_its_end(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    from zoo.commands import watch

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def meanwhile(seconds: float) -> None:
        write(folder.metrics_file, *(steps.pop(0)))

    records = two_epochs()
    steps = [records[:3], records[3:], [{"step": 80, "epoch": 3, "time": 1060.0, "test/accuracy": 0.8}]]
    monkeypatch.setattr(watch, "sleep", meanwhile)
    monkeypatch.setenv("TERM", "xterm")
    shown = Terminal()
    monkeypatch.setattr(sys, "stdout", shown)
    watch.watch("seen", once=False, json=False)
    told = shown.getvalue()
    assert not steps and "nothing recorded yet" in told and "step 40/80" in told and "━" * 60 in told and "test/accuracy" in told
