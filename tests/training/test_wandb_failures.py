"""No W&B server, dead or half dead, and no failure of wandb gets in the way of a training."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import matplotlib
import pytest
import torch

from tests.training.wandb_tracking import DIRECTIONS, classified, monitored, tracker, wandb_sync, warnings_of
from tests.wandb_records import history
from zoo.config.run import WandbSettings
from zoo.training.run_folder import RunFolder
from zoo.training.tracking import wandb_server as server_module
from zoo.training.tracking import wandb_tracker
from zoo.training.tracking.guest import OPENING_SECONDS, Guest
from zoo.training.tracking.trackers import Trackers
from zoo.training.tracking.wandb_tracker import WandbTracker

pytestmark = pytest.mark.usefixtures("own_wandb")


def test_silent_server_costs_seconds_and_one_warning(tmp_path, wandb_server, monkeypatch, caplog):
    monkeypatch.setattr(server_module, "PROBE_SECONDS", 0.5)
    wandb_server.hangs = ("/",)
    log = tracker(tmp_path, mode="online")
    start = time.monotonic()
    log.open()
    log.log_metrics({"train/loss": 2.0}, 1)
    log.close()
    assert time.monotonic() - start < 10
    (warning,) = warnings_of(caplog)
    assert wandb_server.url in warning and f"wandb sync {tmp_path}" in warning and "\n" not in warning
    assert history(tmp_path)[0]["train/loss"] == 2.0
    assert len(wandb_server.requests) == 1  # the probe, and nothing of wandb's


@pytest.mark.parametrize("cause", ["refused", "no key", "bad key", "server error"])
def test_no_way_online_means_offline(tmp_path, wandb_server, monkeypatch, caplog, cause):
    if cause == "refused":
        monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    elif cause == "no key":
        monkeypatch.delenv("WANDB_API_KEY")
    elif cause == "bad key":
        monkeypatch.setenv("WANDB_API_KEY", "too-short")
    else:
        monkeypatch.setattr(wandb_server, "graphql", lambda request: {"errors": [{"message": "permission denied"}]})
    log = tracker(tmp_path, mode="online", run_id="kept1234")
    log.open()
    log.log_metrics({"train/loss": 2.0}, 1)
    log.close()
    assert len(warnings_of(caplog)) == 1
    assert log.run_id == "kept1234"
    assert any(tmp_path.glob("wandb/offline-run-*-kept1234"))


def test_init_that_hangs_after_the_probe_is_given_up(tmp_path, wandb_server, monkeypatch, caplog):
    wandb_server.hangs = ("/graphql",)
    monkeypatch.setattr(wandb_tracker, "INIT_SECONDS", 1.0)
    log = tracker(tmp_path, mode="online")
    start = time.monotonic()
    log.open()
    log.log_metrics({"train/loss": 2.0}, 1)
    log.close()
    assert time.monotonic() - start < 10
    assert len(warnings_of(caplog)) == 1
    assert log.run_id and any(tmp_path.glob(f"wandb/offline-run-*-{log.run_id}"))


@pytest.mark.slow
def test_server_that_dies_during_the_run_holds_up_neither_tables_nor_the_end(tmp_path, wandb_server, monkeypatch, caplog):
    monkeypatch.setattr(wandb_tracker, "FINISH_SECONDS", 2.0)
    monkeypatch.setattr(wandb_tracker, "TABLE_SECONDS", 1.0)
    monkeypatch.setattr(WandbTracker, "closing_seconds", 4.0)
    log = tracker(tmp_path, mode="online", artifacts="weights")
    log.open()
    log.log_metrics({"train/loss": 2.0}, 1)
    wandb_server.hangs = ("/",)
    start = time.monotonic()
    log.log_samples("val/samples", classified(torch.zeros(1, 1, 8, 8, dtype=torch.uint8)))
    log.log_metrics({"train/loss": 1.0}, 2)
    log.upload(RunFolder(tmp_path))
    log.close()
    assert time.monotonic() - start < 12
    assert losses(tmp_path) == [2.0, 1.0]
    (warning,) = warnings_of(caplog)
    assert "images and tables" in warning and f"wandb sync --include-online {tmp_path}" in warning


def losses(folder: Path) -> list[float]:
    """The training losses that a run recorded."""
    return [row["train/loss"] for row in history(folder) if "train/loss" in row]


@pytest.mark.parametrize("fault", ["answers 500", *(pytest.param(fault, marks=pytest.mark.slow) for fault in ("hangs", "dies"))])
def test_a_server_that_fails_midway_leaves_a_whole_record_that_can_be_synced(tmp_path, wandb_server, monkeypatch, caplog, fault):
    monkeypatch.setattr(wandb_tracker, "FINISH_SECONDS", 2.0)
    monkeypatch.setattr(wandb_tracker, "TABLE_SECONDS", 1.0)
    monkeypatch.setattr(WandbTracker, "closing_seconds", 4.0)
    waited = []
    wait = Guest._wait
    monkeypatch.setattr(Guest, "_wait", lambda self, *limit: (waited.append(limit[1]), wait(self, *limit))[1])
    log = WandbTracker(WandbSettings(mode="online"), tmp_path, "mlp-digits", {}, None, DIRECTIONS)
    trackers = Trackers({"wandb": log})
    with trackers.opened(RunFolder(tmp_path)):
        trackers.log_metrics({"train/loss": 3.0}, 1)
        if fault == "hangs":
            wandb_server.hangs = ("/",)
        elif fault == "dies":
            wandb_server.http.shutdown()
            wandb_server.http.server_close()
        wandb_server.is_broken = fault == "answers 500"
        for step in (2, 3):
            trackers.log_metrics({"train/loss": 4.0 - step}, step)
        trackers.log_samples("val/samples", classified(torch.zeros(1, 1, 8, 8, dtype=torch.uint8)))
        trackers.log_monitors(monitored(tmp_path / "monitors.jsonl"))
    assert waited == [OPENING_SECONDS, 4.0], "nothing else holds up a training"
    for _ in range(600):  # the service writes the last of it while it ends, which takes seconds
        if len(losses(tmp_path)) == 3:
            break
        time.sleep(0.1)
    assert losses(tmp_path) == [3.0, 2.0, 1.0]
    (warning,) = warnings_of(caplog)
    (folder,) = (path for path in (tmp_path / "wandb").glob("run-*") if path.is_dir())
    command = warning.partition("wandb sync ")[2]
    assert command == f"--include-online {folder}"
    if fault == "answers 500":  # and works again
        wandb_server.is_broken = False
        done = wandb_sync(*command.split())
        assert done.returncode == 0, done.stderr
        assert [row["train/loss"] for row in wandb_server.history if "train/loss" in row] == [3.0, 2.0, 1.0]


@pytest.mark.slow
def test_interpreter_starts_without_wandb_and_ends_though_the_server_hangs(tmp_path, wandb_server):
    wandb_server.hangs = ("file_stream", "createRunFiles")
    program = f"""
import sys
from pathlib import Path
from zoo.config.run import WandbSettings
from zoo.training.tracking import wandb_server as server_module
from zoo.training.tracking import wandb_tracker
wandb_tracker.FINISH_SECONDS = 2.0
log = wandb_tracker.WandbTracker(WandbSettings(mode="online"), Path({str(tmp_path)!r}), "n", {{}}, None, {{}})
assert "wandb" not in sys.modules
log.open()
log.log_metrics({{"train/loss": 2.0}}, 1)
"""
    fonts = matplotlib.get_cachedir()  # which it would else build, and say so, in the empty home
    environment = {**os.environ, "MPLCONFIGDIR": fonts}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert history(tmp_path)[0]["train/loss"] == 2.0


def test_failure_inside_wandb_is_one_warning(tmp_path, monkeypatch, caplog):
    log = tracker(tmp_path)
    log.open()
    import wandb

    def broken(*args: Any, **kwargs: Any) -> None:
        raise OSError("disk full\nand more")

    monkeypatch.setattr(wandb.Run, "log", broken)
    for step in range(3):
        log.log_metrics({"train/loss": 2.0}, step)
    monkeypatch.setattr(wandb.Run, "finish", broken)
    log.log_samples("val/samples", classified(torch.zeros(1, 1, 8, 8, dtype=torch.uint8)))
    log.close()
    (warning,) = warnings_of(caplog)
    assert "disk full" in warning and "\n" not in warning


def test_failure_to_open_is_one_warning(tmp_path, monkeypatch, caplog):
    import wandb

    def broken(*args: Any, **kwargs: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(wandb, "init", broken)
    log = tracker(tmp_path, run_id="kept1234")
    log.open()
    log.log_metrics({"train/loss": 2.0}, 1)
    log.close()
    assert warnings_of(caplog) == ["W&B cannot be started: disk full"]
    assert log.run_id == "kept1234"


def test_a_server_that_dies_holds_up_one_table_and_no_more(tmp_path, wandb_server, monkeypatch, caplog):
    monkeypatch.setattr(wandb_tracker, "FINISH_SECONDS", 1.0)
    monkeypatch.setattr(wandb_tracker, "TABLE_SECONDS", 0.5)
    waited = []
    within = wandb_tracker.within
    monkeypatch.setattr(wandb_tracker, "within", lambda seconds, work: (waited.append(seconds), within(seconds, work))[1])
    log = tracker(tmp_path, mode="online")
    log.open()
    wandb_server.hangs = ("/",)
    log.log_monitors(monitored(tmp_path / "monitors.jsonl"), ["cat", "dog"], [[3, 1], [0, 2]])
    log.log_monitors(monitored(tmp_path / "monitors.jsonl"))
    log.log_metrics({"train/loss": 1.0}, 2)
    log.close()
    assert waited.count(0.5) == 1
    assert "images and tables" in warnings_of(caplog)[0]
    assert losses(tmp_path) == [1.0]
