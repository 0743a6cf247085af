"""The W&B tracker: what a run holds, offline and online, and what it takes from W&B's own environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image

from tests.training.wandb_tracking import DIRECTIONS, classified, monitored, tracker, wandb_sync, warnings_of
from tests.wandb_records import history, records, run_record
from zoo.config.run import WandbSettings
from zoo.training.run_folder import RunFolder
from zoo.training.tracking.trackers import Trackers
from zoo.training.tracking.wandb_tracker import WandbTracker

pytestmark = pytest.mark.usefixtures("own_wandb")


def test_offline_run_holds_config_history_directions_and_table(tmp_path, capfd, caplog):
    log = tracker(tmp_path)
    log.open()
    log.log_metrics({"train/loss": 2.0, "epoch": 0}, 10)
    log.log_metrics({"val/accuracy": 0.5, "epoch": 0}, 20)
    log.log_metrics({"val/accuracy": 0.25}, 20)
    images = torch.arange(20 * 3 * 8 * 6).remainder(256).to(torch.uint8).view(20, 3, 8, 6)
    log.log_samples("val/samples", classified(images))
    log.log_samples("val/samples", classified(images[:2, :1]))
    log.log_metrics({"test/accuracy": 0.5}, 0)  # a test of an earlier checkpoint does not turn the steps back
    log.log_metrics({"test/accuracy": 0.75}, None)
    log.close()

    run = run_record(tmp_path)
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert (config["model"], config["commit"]) == ({"name": "mlp", "width": 64}, "abc")
    assert (run.project, run.display_name, run.run_id) == ("bestiary", "mlp-digits", log.run_id)
    rows = history(tmp_path)
    assert [row["trainer/step"] for row in rows] == [10, 20, 20, 20, 20, 20, 20]
    assert (rows[0]["train/loss"], rows[1]["val/accuracy"], rows[6]["test/accuracy"]) == (2.0, 0.5, 0.75)
    defined = {record.metric.name: record.metric for record in records(tmp_path) if record.HasField("metric")}
    assert defined["val/accuracy"].summary.max and not defined["val/accuracy"].summary.min
    assert defined["train/loss"].summary.min and not defined["train/loss"].summary.max
    assert defined["val/accuracy"].step_metric == "trainer/step"
    globs = [record.metric for record in records(tmp_path) if record.metric.glob_name == "*"]
    assert globs[0].step_metric == "trainer/step"
    assert [rows[at]["val/samples.nrows"] for at in (3, 4)] == [20, 2]
    artifact = next(record.artifact for record in records(tmp_path) if record.HasField("artifact"))
    files = {Path(entry.path): Path(entry.local_path) for entry in artifact.manifest.contents}
    content = json.loads(files.pop(Path("val/samples.table.json")).read_text())
    assert content["columns"] == ["image", "label", "prediction", "probability"]
    assert content["data"][0][1:] == ["cat", "dog", 0.75] and len(content["data"]) == 20
    picture = Image.open(files[Path(content["data"][0][0]["path"])])
    assert torch.equal(torch.from_numpy(np.array(picture)).permute(2, 0, 1), images[0])
    assert not [record for record in records(tmp_path) if record.artifact.type == "model"]
    assert capfd.readouterr() == ("", "") and not warnings_of(caplog)


@pytest.mark.slow
@pytest.mark.parametrize("modes", [("offline", "offline"), ("online", "offline"), ("online", "online")])
def test_a_resumed_run_arrives_whole_with_steps_that_rise(tmp_path, wandb_server, monkeypatch, caplog, modes):
    run_id = None
    for part, mode in enumerate(modes):
        log = tracker(tmp_path, mode=mode, run_id=run_id)
        log.open()
        for step in range(3):
            log.log_metrics({"train/loss": 9.0 - 3 * part - step}, 3 * part + step)
        log.close()
        run_id = log.run_id
        time.sleep(1.1)  # folders are named by the second
    assert not warnings_of(caplog)
    if modes[1] == "offline":
        parts = log.remains().partition("wandb sync ")[2].split()
        assert len(parts) == modes.count("offline")
        done = wandb_sync(*parts)
        assert done.returncode == 0, done.stderr
    assert [(row["trainer/step"], row["train/loss"]) for row in wandb_server.history] == [(step, 9.0 - step) for step in range(6)]
    own = [row["_step"] for row in wandb_server.history]
    assert own == sorted(set(own)), "W&B drops a step that it has"


def test_online_run_sends_its_history(tmp_path, wandb_server, monkeypatch, caplog):
    log = tracker(tmp_path, mode="online", run_id="kept1234")
    log.open()
    log.log_metrics({"train/loss": 2.0}, 7)
    log.close()
    sent = [request for request in wandb_server.requests if request.startswith("/files/") and "train/loss" in request]
    assert sent and "kept1234/file_stream" in sent[0] and "trainer/step" in "".join(sent)
    assert any("RunResumeStatus" in request for request in wandb_server.requests)  # it goes on if it is there
    assert not warnings_of(caplog)


def test_environment_fills_what_is_not_set(tmp_path, monkeypatch):
    variables = {"PROJECT": "birds", "ENTITY": "team", "RUN_GROUP": "group", "TAGS": "one,two", "JOB_TYPE": "sweep"}
    for name, value in variables.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    said = {"project": "fish", "entity": "me", "group": "mine", "tags": ("three",), "job_type": "train"}
    for folder, settings in (("environment", {}), ("settings", said)):
        log = tracker(tmp_path / folder, **settings)
        (tmp_path / folder).mkdir()
        log.open()
        log.close()
    run = run_record(tmp_path / "environment")
    assert (run.project, run.entity, run.run_group, run.job_type) == ("birds", "team", "group", "sweep")
    assert list(run.tags) == ["one", "two"]
    run = run_record(tmp_path / "settings")
    assert (run.project, run.entity, run.run_group, run.job_type) == ("fish", "me", "mine", "train")
    assert list(run.tags) == ["three"]


def test_errors_are_alerts_and_warnings_are_not(tmp_path, wandb_server, monkeypatch, caplog):
    log = WandbTracker(WandbSettings(mode="online", inside="off"), tmp_path, "mlp-digits", {}, None, DIRECTIONS)
    trackers = Trackers({"wandb": log})
    finding = {"kind": "finding", "step": 4, "epoch": 0, "where": "relu", "evidence": "all are zero", "try": "less"}
    with pytest.raises(ValueError, match="nan"), trackers.opened(RunFolder(tmp_path)):
        trackers.log_record({**finding, "name": "dead-units", "severity": "error"})
        trackers.log_record({**finding, "name": "initial-loss", "severity": "warning"})
        raise ValueError("the loss is nan at step 5")
    told = [(alert["title"], alert["text"], alert["severity"]) for alert in wandb_server.alerts]
    assert told == [
        ("dead-units: mlp-digits", "relu: all are zero. Try: less", "ERROR"),
        ("failed: mlp-digits", "the loss is nan at step 5", "ERROR"),
    ]
    assert not warnings_of(caplog)


def test_name_notes_id_and_folder_come_from_the_environment(tmp_path, monkeypatch):
    variables = {"NAME": "chosen", "NOTES": "why", "RUN_ID": "own12345", "RESUME": "allow", "DIR": str(tmp_path / "elsewhere")}
    for name, value in variables.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    (tmp_path / "elsewhere").mkdir()
    log = tracker(tmp_path / "run")
    log.open()
    log.close()
    run = run_record(tmp_path / "elsewhere")
    assert (run.display_name, run.notes, run.run_id, log.run_id) == ("chosen", "why", "own12345", "own12345")
    assert not (tmp_path / "run").exists() and str(tmp_path / "elsewhere") in log.remains()


@pytest.mark.slow
@pytest.mark.parametrize("console", ["wrap", "off"])
def test_console_log_and_git_are_as_wandb_itself_is_set(tmp_path, console):
    program = f"""
from pathlib import Path
from zoo.config.run import WandbSettings
from zoo.training.tracking.wandb_tracker import WandbTracker
log = WandbTracker(WandbSettings(mode="offline"), Path({str(tmp_path)!r}), "n", {{}}, None, {{}})
log.open()
print("epoch 1/2")
print(log._run.settings.disable_git)
log.close(0)
"""  # in a process of its own: pytest puts streams of its own in place of those that wandb wraps
    own = {"WANDB_CONSOLE": console, "WANDB_DISABLE_GIT": str(console == "off"), "MPLCONFIGDIR": matplotlib.get_cachedir()}
    done = subprocess.run([sys.executable, "-c", program], env={**os.environ, **own}, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"epoch 1/2\n{console == 'off'}\n", "")
    lines = "".join(record.output_raw.line + record.output.line for record in records(tmp_path))
    assert ("epoch 1/2" in lines) == (console == "wrap")


def test_environment_may_only_lower_the_mode(tmp_path, wandb_server, monkeypatch, caplog):
    for variable, mode, record in (
        ("disabled", "online", None),
        ("offline", "online", "offline"),
        ("online", "offline", "offline"),
    ):
        monkeypatch.setenv("WANDB_MODE", variable)
        folder = tmp_path / f"{variable}-{mode}"
        folder.mkdir()
        log = tracker(folder, mode=mode)
        log.open()
        log.log_metrics({"train/loss": 2.0}, 1)
        log.close()
        found = [path.name.split("-run-")[0] for path in folder.glob("wandb/*run-*") if not path.is_symlink()]
        assert [name for name in found if name != "latest-run"] == ([record] if record else []), variable
    assert not wandb_server.requests and not warnings_of(caplog)


def test_other_ranks_do_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    settings = WandbSettings(mode="online", artifacts="weights")
    trackers = Trackers({"wandb": WandbTracker(settings, tmp_path, "mlp-digits", {}, None, DIRECTIONS)})
    with trackers.opened(RunFolder(tmp_path)):
        trackers.log_metrics({"train/loss": 2.0}, 1)
        trackers.log_samples("val/samples", classified(torch.zeros(1, 1, 8, 8, dtype=torch.uint8)))
        trackers.log_monitors(monitored(tmp_path / "monitors.jsonl"), ["cat"], [[1]])
    assert not trackers.run_ids and not (tmp_path / "wandb").exists()


def test_records_are_with_the_run_where_wandb_dir_cannot_be_written(tmp_path, caplog, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "file" / "inside"))
    log = tracker(tmp_path)
    log.open()
    log.close()
    assert run_record(tmp_path).run_id == log.run_id
    (line,) = warnings_of(caplog)
    assert line.startswith(f"WANDB_DIR={tmp_path}/file/inside cannot be written") and line.endswith(f"{tmp_path}/wandb")
