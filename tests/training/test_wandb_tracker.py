"""The W&B tracker: what an offline run holds, and that no server, dead or half dead, gets in the way of a training."""

from __future__ import annotations

import gzip
import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image

from zoo.callbacks import findings
from zoo.config.recipe import WandbSettings, resolve
from zoo.registry.registry import scan
from zoo.tasks.samples import SampleImage, Samples
from zoo.training.building import build_task, open_data
from zoo.training.run_folder import RunFolder
from zoo.training.tracking import tracker as tracker_module
from zoo.training.tracking import wandb_tracker
from zoo.training.tracking.guest import OPENING_SECONDS, Guest
from zoo.training.tracking.trackers import Trackers
from zoo.training.tracking.wandb_tracker import WandbTracker

REGISTRY = scan()
DIRECTIONS = {"val/accuracy": "max", "train/loss": "min"}


class FakeServer:
    """As much of a W&B server as a run needs; ``hangs`` says which requests (parts of path or query) it never answers.

    It keeps the history of one run, which may be resumed, and its alerts.
    """

    def __init__(self) -> None:
        self.hangs: tuple[str, ...] = ()
        self.is_broken = False  # answers 500
        self.requests: list[str] = []
        self.lines: dict[str, list[str]] = {}  # of the files of the one run
        self.alerts: list[dict[str, Any]] = []
        self.released = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.reply(b"")

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self.reply(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)

            do_PUT = do_POST

            def reply(self, body: bytes) -> None:
                request = f"{self.path} {body.decode('latin1')}"
                outer.requests.append(request)
                if any(part in request for part in outer.hangs):
                    outer.released.wait()
                    self.close_connection = True
                    return
                if outer.is_broken:
                    self.send_error(500)
                    return
                data = outer.graphql(json.loads(body)) if self.path == "/graphql" else {}
                if "/file_stream" in self.path:
                    outer.keep(json.loads(body))
                answer = json.dumps(data).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.http.handle_error = lambda *args: None
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def keep(self, sent: dict[str, Any]) -> None:
        """Put lines of the run's files where they belong: a resumed run sends those after what is there."""
        for name, part in (sent.get("files") or {}).items():
            at = part["offset"]
            self.lines.setdefault(name, [])[at : at + len(part["content"])] = part["content"]

    @property
    def history(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines.get("wandb-history.jsonl", ())]

    def graphql(self, request: dict[str, Any]) -> dict[str, Any]:
        query, variables = request["query"], request.get("variables") or {}
        project = {"id": "p", "name": "bestiary", "entity": {"id": "e", "name": "someone"}}
        if "query RunResumeStatus" in query and self.lines:
            lines = self.lines["wandb-history.jsonl"]
            counts = {"historyLineCount": len(lines), "eventsLineCount": 0, "logLineCount": 0}
            tails = {"historyTail": json.dumps(lines[-1:]), "eventsTail": "[]"}
            kept = {"config": "{}", "summaryMetrics": "{}", "wandbConfig": "{}", "tags": [], "displayName": "mlp-digits"}
            return {"data": {"model": {**project, "bucket": {"id": "b", "name": variables["name"], **counts, **tails, **kept}}}}
        if "upsertBucket" in query:
            lines = len(self.lines.get("wandb-history.jsonl", ()))
            names = {"name": variables["name"], "displayName": variables["displayName"]}
            bucket = {"id": "b", **names, "project": project, "historyLineCount": lines}
            return {"data": {"upsertBucket": {"bucket": bucket, "inserted": not self.lines}}}
        if "createRunFiles" in query:
            files = [{"name": name, "uploadUrl": f"{self.url}/upload/{name}"} for name in variables["files"]]
            return {"data": {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}}
        if "notifyScriptableRunAlert" in query:
            self.alerts.append(variables)
            return {"data": {"notifyScriptableRunAlert": {"success": True}}}
        return {"data": {"model": None, "viewer": None, "serverInfo": None, "entity": None}}

    def stop(self) -> None:
        self.released.set()
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def server() -> Iterator[FakeServer]:
    server = FakeServer()
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def own_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """wandb with no traces of whoever runs the tests, and none left for the next test."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name in ("HOME", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "home" / "netrc"))
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # whatever goes wrong, nothing leaves this machine
    (tmp_path / "home").mkdir()
    yield
    if "wandb" in sys.modules:
        sys.modules["wandb"].teardown()


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


def records(folder: Path) -> list[Any]:
    """What the one ``.wandb`` file of a run folder holds: protocol buffers in LevelDB's log format."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = folder.glob("wandb/*run-*/*.wandb")
    content, at, parts, found = path.read_bytes(), 7, b"", []
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        parts += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            found.append(Record.FromString(parts))
            parts = b""
    return found


def history(folder: Path) -> list[dict[str, Any]]:
    rows = [record.history.item for record in records(folder) if record.HasField("history")]
    return [{item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in row} for row in rows]


def run_record(folder: Path) -> Any:
    return next(record.run for record in records(folder) if record.HasField("run"))


def tables(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The rows of all tables, by the key that they are logged under."""
    found = {}
    for artifact in (record.artifact for record in records(folder) if record.HasField("artifact")):
        for entry in artifact.manifest.contents:
            if entry.path.endswith(".table.json"):
                content = json.loads(Path(entry.local_path).read_text())
                rows = [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]
                found[entry.path.removesuffix(".table.json")] = rows
    return found


def panels(folder: Path) -> dict[str, dict[str, Any]]:
    """How each custom chart is drawn, by its key."""
    updates = [item for record in records(folder) if record.HasField("config") for item in record.config.update]
    charts = {
        item.nested_key[2]: json.loads(item.value_json) for item in updates if item.nested_key[:2] == ["_wandb", "visualize"]
    }
    return {key: chart["panel_config"] for key, chart in charts.items()}


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Our own; wandb's go to its log files, and from there to pytest, but not to the terminal."""
    ours = [record for record in caplog.records if record.name == tracker_module.__name__]
    return [record.getMessage() for record in ours if record.levelno >= logging.WARNING]


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


def test_silent_server_costs_seconds_and_one_warning(tmp_path, server, monkeypatch, caplog):
    server.hangs = ("/",)
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    log = tracker(tmp_path, mode="online")
    start = time.monotonic()
    log.open()
    log.log_metrics({"train/loss": 2.0}, 1)
    log.close()
    assert time.monotonic() - start < 10
    (warning,) = warnings_of(caplog)
    assert server.url in warning and f"wandb sync {tmp_path}" in warning and "\n" not in warning
    assert history(tmp_path)[0]["train/loss"] == 2.0
    assert len(server.requests) == 1  # the probe, and nothing of wandb's


@pytest.mark.parametrize("cause", ["refused", "no key", "bad key", "server error"])
def test_no_way_online_means_offline(tmp_path, server, monkeypatch, caplog, cause):
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    if cause == "refused":
        monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    elif cause == "no key":
        monkeypatch.delenv("WANDB_API_KEY")
    elif cause == "bad key":
        monkeypatch.setenv("WANDB_API_KEY", "too-short")
    else:
        monkeypatch.setattr(server, "graphql", lambda request: {"errors": [{"message": "permission denied"}]})
    log = tracker(tmp_path, mode="online", run_id="kept1234")
    log.open()
    log.log_metrics({"train/loss": 2.0}, 1)
    log.close()
    assert len(warnings_of(caplog)) == 1
    assert log.run_id == "kept1234"
    assert any(tmp_path.glob("wandb/offline-run-*-kept1234"))


def test_init_that_hangs_after_the_probe_is_given_up(tmp_path, server, monkeypatch, caplog):
    server.hangs = ("/graphql",)
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setattr(wandb_tracker, "INIT_SECONDS", 1.0)
    log = tracker(tmp_path, mode="online")
    start = time.monotonic()
    log.open()
    log.log_metrics({"train/loss": 2.0}, 1)
    log.close()
    assert time.monotonic() - start < 10
    assert len(warnings_of(caplog)) == 1
    assert log.run_id and any(tmp_path.glob(f"wandb/offline-run-*-{log.run_id}"))


def wandb_sync(*parts: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "wandb", "sync", *map(str, parts)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, stdin=subprocess.DEVNULL)


@pytest.mark.slow
@pytest.mark.parametrize("modes", [("offline", "offline"), ("online", "offline"), ("online", "online")])
def test_a_resumed_run_arrives_whole_with_steps_that_rise(tmp_path, server, monkeypatch, caplog, modes):
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
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
    assert [(row["trainer/step"], row["train/loss"]) for row in server.history] == [(step, 9.0 - step) for step in range(6)]
    own = [row["_step"] for row in server.history]
    assert own == sorted(set(own)), "W&B drops a step that it has"


def test_online_run_sends_its_history(tmp_path, server, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    log = tracker(tmp_path, mode="online", run_id="kept1234")
    log.open()
    log.log_metrics({"train/loss": 2.0}, 7)
    log.close()
    sent = [request for request in server.requests if request.startswith("/files/") and "train/loss" in request]
    assert sent and "kept1234/file_stream" in sent[0] and "trainer/step" in "".join(sent)
    assert any("RunResumeStatus" in request for request in server.requests)  # it goes on if it is there
    assert not warnings_of(caplog)


def test_server_that_dies_during_the_run_holds_up_neither_tables_nor_the_end(tmp_path, server, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setattr(wandb_tracker, "FINISH_SECONDS", 2.0)
    monkeypatch.setattr(wandb_tracker, "TABLE_SECONDS", 1.0)
    monkeypatch.setattr(WandbTracker, "closing_seconds", 4.0)
    log = tracker(tmp_path, mode="online", artifacts=True)
    log.open()
    log.log_metrics({"train/loss": 2.0}, 1)
    server.hangs = ("/",)
    start = time.monotonic()
    log.log_samples("val/samples", classified(torch.zeros(1, 1, 8, 8, dtype=torch.uint8)))
    log.log_metrics({"train/loss": 1.0}, 2)
    checkpoint = tmp_path / "last.ckpt"
    checkpoint.write_bytes(b"weights")
    log.upload(tmp_path / "best.ckpt", checkpoint)
    log.close()
    assert time.monotonic() - start < 12
    assert [row["train/loss"] for row in history(tmp_path) if "train/loss" in row] == [2.0, 1.0]
    (warning,) = warnings_of(caplog)
    assert "images and tables" in warning and f"wandb sync --include-online {tmp_path}" in warning


@pytest.mark.parametrize("fault", ["hangs", "answers 500", "dies"])
def test_a_server_that_fails_in_the_middle_leaves_a_whole_record_that_can_be_synced(tmp_path, server, monkeypatch, caplog, fault):
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
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
            server.hangs = ("/",)
        elif fault == "dies":
            server.http.shutdown()
            server.http.server_close()
        server.is_broken = fault == "answers 500"
        for step in (2, 3):
            trackers.log_metrics({"train/loss": 4.0 - step}, step)
        trackers.log_samples("val/samples", classified(torch.zeros(1, 1, 8, 8, dtype=torch.uint8)))
        trackers.log_monitors(monitored(tmp_path / "monitors.jsonl"))
    assert waited == [OPENING_SECONDS, 4.0], "nothing else holds up a training"
    assert [row["train/loss"] for row in history(tmp_path) if "train/loss" in row] == [3.0, 2.0, 1.0]
    (warning,) = warnings_of(caplog)
    (folder,) = (path for path in (tmp_path / "wandb").glob("run-*") if path.is_dir())
    command = warning.partition("wandb sync ")[2]
    assert command == f"--include-online {folder}"
    if fault == "answers 500":  # and works again
        server.is_broken = False
        done = wandb_sync(*command.split())
        assert done.returncode == 0, done.stderr
        assert [row["train/loss"] for row in server.history if "train/loss" in row] == [3.0, 2.0, 1.0]


def test_interpreter_starts_without_wandb_and_ends_though_the_server_hangs(tmp_path, server):
    server.hangs = ("file_stream", "createRunFiles")
    program = f"""
import sys
from pathlib import Path
from zoo.config.recipe import WandbSettings
from zoo.training.tracking import wandb_tracker
wandb_tracker.FINISH_SECONDS = 2.0
log = wandb_tracker.WandbTracker(WandbSettings(mode="online"), Path({str(tmp_path)!r}), "n", {{}}, None, {{}})
assert "wandb" not in sys.modules
log.open()
log.log_metrics({{"train/loss": 2.0}}, 1)
"""
    fonts = matplotlib.get_cachedir()  # which it would else build, and say so, in the empty home
    environment = {**os.environ, "WANDB_BASE_URL": server.url, "MPLCONFIGDIR": fonts}
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


def test_errors_are_alerts_and_warnings_are_not(tmp_path, server, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    log = WandbTracker(WandbSettings(mode="online", inside="off"), tmp_path, "mlp-digits", {}, None, DIRECTIONS)
    trackers = Trackers({"wandb": log})
    finding = {"kind": "finding", "step": 4, "epoch": 0, "where": "relu", "evidence": "all are zero", "try": "less"}
    with pytest.raises(ValueError, match="nan"), trackers.opened(RunFolder(tmp_path)):
        trackers.log_record({**finding, "name": "dead-units", "severity": "error"})
        trackers.log_record({**finding, "name": "initial-loss", "severity": "warning"})
        raise ValueError("the loss is nan at step 5")
    told = [(alert["title"], alert["text"], alert["severity"]) for alert in server.alerts]
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
from zoo.config.recipe import WandbSettings
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


def test_environment_may_only_lower_the_mode(tmp_path, server, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
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
    assert not server.requests and not warnings_of(caplog)


def test_other_ranks_do_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    settings = WandbSettings(mode="online", artifacts=True)
    trackers = Trackers({"wandb": WandbTracker(settings, tmp_path, "mlp-digits", {}, None, DIRECTIONS)})
    with trackers.opened(RunFolder(tmp_path)):
        trackers.log_metrics({"train/loss": 2.0}, 1)
        trackers.log_samples("val/samples", classified(torch.zeros(1, 1, 8, 8, dtype=torch.uint8)))
        trackers.log_monitors(monitored(tmp_path / "monitors.jsonl"), ["cat"], [[1]])
    assert not trackers.run_ids and not (tmp_path / "wandb").exists()


@pytest.mark.parametrize("asked", [True, False])
def test_checkpoints_are_two_versions_of_one_artifact_when_asked_for(tmp_path, asked):
    for name in ("best", "last"):
        (tmp_path / f"{name}.ckpt").write_bytes(name.encode())
    log = tracker(tmp_path, artifacts=asked)
    log.open()
    log.upload(tmp_path / "best.ckpt", tmp_path / "last.ckpt")
    log.close()
    artifacts = [record.artifact for record in records(tmp_path) if record.HasField("artifact")]
    versions = [(a.type, a.name, sorted(a.aliases), [f.path for f in a.manifest.contents]) for a in artifacts]
    name = f"mlp-digits-{log.run_id}"
    both = [("model", name, ["best", "latest"], ["best.ckpt"]), ("model", name, ["last", "latest"], ["last.ckpt"])]
    assert versions == (both if asked else [])


def test_a_whole_training_leaves_config_history_summary_and_table_offline(zoo):
    quick = ["--epochs", "2", "--set", "trainer.accelerator=cpu"]
    answer = zoo("train", "softmax", *quick, "--wandb", "offline", "--name", "seen", "--set", "wandb.tags=[a,b]")
    assert answer.code == 0, answer.err
    folder = Path("runs/seen")
    config = {item.key: json.loads(item.value_json) for item in run_record(folder).config.update}
    assert config["model"] == {"name": "softmax"} and config["recipe"]["epochs"] == 2
    assert config["environment"]["parameters"] == 64 * 10 + 10 and "torch" in config["environment"]["versions"]
    assert list(run_record(folder).tags) == ["a", "b"]
    own = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    names = ("train/", "val/accuracy", "val/loss")
    theirs = [{key: value for key, value in row.items() if key.startswith(names)} for row in history(folder)]
    for record in own:
        expected = {key: value for key, value in record.items() if key.startswith(("train/", "val/"))}
        assert not expected or expected in theirs
    found, charts = tables(folder), panels(folder)
    assert len(found["val/samples"]) == 16
    assert [row["layer"] for row in found["layers"]] == ["linear"] and found["layers"][0]["type"] == "Linear"
    assert [row["parameter"] for row in found["parameters"]] == ["linear.weight", "linear.bias"]
    assert set(charts) == {"depth/spread", "depth/updates", "test/confusion"}
    pairs = {(row["Actual"], row["Predicted"]): row["nPredictions"] for row in found["test/confusion_table"]}
    right = sum(pairs[name, name] for name in map(str, range(10)))
    assert len(metric_names(folder)) < 60
    assert len(pairs) == 100 and right / sum(pairs.values()) == pytest.approx(own[-1]["test/accuracy"])
    assert set(own[-1]) == {"step", "epoch", "time", "test/accuracy", "test/loss"}, "a guest changes no record"
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["bestiary"]["trackers"] == {"wandb": run_record(folder).run_id}


def test_a_resumed_training_goes_on_in_the_same_wandb_run(zoo, monkeypatch):
    from zoo.core.signals import stop
    from zoo.training.saving import Checkpoints

    save = Checkpoints.save

    def stop_after_the_first(self, trainer, best=False):
        save(self, trainer, best)
        stop.requested = True

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", stop_after_the_first)
        answer = zoo("train", "softmax", "--epochs", "2", "--wandb", "offline", "--name", "seen")
    assert answer.code == 130 and "zoo train --resume seen" in answer.err
    first = run_record(Path("runs/seen")).run_id
    (Path("runs/seen") / "wandb").rename("former")
    assert zoo("train", "--resume", "seen").code == 0
    assert run_record(Path("runs/seen")).run_id == first


LAYERS = {
    "conv": {"type": "Conv2d", "mean": 0.5, "signal": 2.0, "dead": None, "saturated": None, "rank": 7.0, "histogram": [0] * 65},
    "relu": {"type": "ReLU", "mean": 0.5, "dead": 0.25, "histogram": [0] * 33 + [7] + [0] * 31},
    "relu2": {"type": "ReLU", "mean": 0.5, "dead": 0.75, "histogram": [0] * 65},
    "head": {"type": "Linear", "mean": 0.5, "signal": float("nan"), "dead": None, "rank": 3.0, "histogram": [0] * 65},
}
PARAMETERS = {
    "conv.weight": {"norm": 3.0, "update_ratio": 0.01, "zero": 0.5, "histogram": [1] * 65},
    "conv.bias": {"norm": 1.0, "update_ratio": 1e-9, "zero": 0.0, "histogram": [1] * 65},
    "head.weight": {"norm": 2.0, "update_ratio": 0.001, "zero": 0.0, "histogram": [1] * 65},
}


def log_inside(folder: Path, **settings: Any) -> dict[str, Any]:
    """What the history holds of two records and a finding, by name."""
    log = tracker(folder, **settings)
    log.open()
    log.log_record({"kind": "activations", "step": 4, "epoch": 0, "seconds": 0.1, "layers": LAYERS})
    log.log_record({"kind": "gradients", "step": 4, "epoch": 0, "seconds": 0.1, "norm": 3.5, "parameters": PARAMETERS})
    finding = {"kind": "finding", "step": 4, "epoch": 0, "name": "dead-units", "severity": "warning", "where": "relu2"}
    log.log_record({**finding, "evidence": "most are zero"})
    log.close()
    return {key: value for row in history(folder) for key, value in row.items() if not key.startswith("_")}


def summary(folder: Path) -> dict[str, Any]:
    updates = [item for record in records(folder) if record.HasField("summary") for item in record.summary.update]
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in updates}


def metric_names(folder: Path) -> set[str]:
    """All names that W&B has to keep: of the history, the summary and the definitions."""
    defined = {record.metric.name for record in records(folder) if record.HasField("metric") and record.metric.name}
    rows = [*history(folder), summary(folder)]
    tables = {
        key.removesuffix("._type") for row in rows for key in row if key.endswith("._type")
    }  # each is one, with all its fields
    return defined | {next((table for table in tables if key.startswith(f"{table}.")), key) for row in rows for key in row}


def test_of_the_records_of_monitors_totals_and_the_worst_layers_are_sent(tmp_path):
    sent = log_inside(tmp_path)
    assert str(sent.pop("worst/signal_min")) == str(sent.pop("worst/signal_max")) == "nan"  # worse than any other
    assert sent == {
        "trainer/step": 4, "activations/seconds": 0.1, "gradients/seconds": 0.1, "gradients/norm": 3.5,
        "worst/dead_units": 0.75, "worst/rank": 3.0, "worst/gradient_norm_min": 1.0, "worst/gradient_norm_max": 3.0,
        "worst/update_ratio_min": 0.001, "worst/update_ratio_max": 0.01, "worst/zero_gradient": 0.5,
    }  # fmt: skip
    told = summary(tmp_path)
    assert (told["worst/dead_units/where"], told["worst/signal_max/where"]) == ("relu2", "head")
    assert (told["worst/update_ratio_min/where"], told["worst/gradient_norm_min/where"]) == ("head.weight", "conv.bias")
    assert told["finding/dead-units"] == "relu2: most are zero"


def test_chosen_layers_are_sent_in_full_when_asked_for(tmp_path):
    sent = log_inside(tmp_path, inside="full", layers=("relu", "head*"))
    assert (sent["activations/relu/mean"], sent["gradients/head.weight/norm"]) == (0.5, 2.0)
    assert "activations/relu/saturated" not in sent
    assert sum(key.startswith("activations/relu/histogram") for key in sent) > 1
    assert {key.split("/")[1] for key in sent if key.count("/") > 1} == {"relu", "head", "head.weight"}
    assert sent["worst/gradient_norm_max"] == 3.0, "the worst of all, chosen or not"


def test_nothing_from_inside_is_sent_when_it_is_off(tmp_path):
    assert log_inside(tmp_path, inside="off") == {}
    assert not [key for key in summary(tmp_path) if not key.startswith("_")]


def layer_records(task: torch.nn.Module) -> list[dict[str, Any]]:
    """Records of all monitors, as a training of this network gives them, and a finding of each kind."""
    layers = [name for name, module in task.named_modules() if name and (not list(module.children()) or module._parameters)]
    values = dict.fromkeys(("mean", "std", "min", "max", "zero", "signal", "dead", "saturated", "rank"), 0.5)
    of_parameter = dict.fromkeys(("norm", "weight_norm", "update_ratio", "cosine", "zero"), 0.5)
    at = {"step": 0, "epoch": 0, "seconds": 0.1}
    totals = dict.fromkeys(("norm", "clipped", "noise_scale", "decay"), 0.5)
    counted = {"histogram": [1] * 65}
    rows = {name: {"type": "Linear", **values, **counted, "quantiles": [0.0] * 5, "input": {"mean": 0.5}} for name in layers}
    own = {name: {**of_parameter, **counted} for name, _ in task.named_parameters()}
    source = "".join((Path(findings.__file__).parent / name).read_text() for name in ("findings.py", "diagnosis.py"))
    kinds = set(re.findall(r'"([a-z]+(?:-[a-z]+)+)", *"(?:error|warning)"', source))
    assert len(kinds) >= 20
    told = [{"kind": "finding", **at, "name": name, "severity": "error", "where": "x", "evidence": "y"} for name in kinds]
    return [
        {"kind": "activations", **at, "layers": rows},
        {"kind": "gradients", **at, **totals, "without": [], "parameters": own},
        {"kind": "throughput", **at, **dict.fromkeys(("steps_per_second", "data_loading", "memory"), 0.5)},
        *told,
    ]


TASKS = sorted({entry.task for entry in REGISTRY.models.values()})


@pytest.mark.slow
@pytest.mark.parametrize("kind", TASKS)
def test_any_model_of_the_registry_has_under_100_metric_names(tmp_path, kind):
    log, most = tracker(tmp_path), 0
    log.open()
    for name in (name for name, entry in REGISTRY.models.items() if entry.task == kind):
        run = resolve(REGISTRY, name, {}, [])
        with torch.device("meta"):
            task = build_task(REGISTRY, run, open_data(REGISTRY, run).spec)
        shown = {f"{stage}/{metric}": 0.5 for stage in ("train", "val", "test") for metric in task.directions}
        log.log_metrics({**shown, "train/lr": 0.1, "train/loss": 1.0, "train/samples_per_second": 1.0, "epoch": 0}, 0)
        written = layer_records(task)
        most = max(most, sum(len(record.get("layers", ())) + len(record.get("parameters", ())) for record in written))
        for record in written:
            log.log_record(record)
        lines = [record for record in written if record["kind"] != "throughput"]
        (tmp_path / "monitors.jsonl").write_text("".join(json.dumps(record) + "\n" for record in lines))
    classes = ["cat", "dog"]
    log.log_monitors(tmp_path / "monitors.jsonl", classes, [[3, 1], [0, 2]])
    log.log_samples("val/samples", classified(torch.zeros(1, 1, 8, 8, dtype=torch.uint8)))
    log.close()
    assert most > 3 and 30 < len(metric_names(tmp_path)) < 100  # of all models of the task together


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


def test_what_monitors_recorded_becomes_tables_and_charts_by_depth(tmp_path, caplog):
    log = tracker(tmp_path)
    log.open()
    log.log_metrics({"train/loss": 2.0}, 90)
    log.log_monitors(monitored(tmp_path / "monitors.jsonl"), ["cat", "dog"], [[3, 1], [0, 2]])
    log.close()
    found = tables(tmp_path)
    told = [(row["step"], row["severity"], row["name"], row["where"], row["evidence"]) for row in found["findings"]]
    assert told == [(20, "error", "no-gradient", "second", "seen at 20"), (10, "warning", "dead-units", "second", "seen at 10")]
    assert (found["findings"][0]["cause"], found["findings"][0]["try"]) == ("rate", "less")
    first = {
        "place": 0, "layer": "first", "type": "Linear", "mean": 80, "std": 1.0, "signal": 0.5, "dead": None, "saturated": None,
        "rank": 2.5,
    }  # fmt: skip
    assert found["layers"][0] == first and found["layers"][1]["dead"] == 0.5
    names = [(row["place"], row["parameter"], row["update_ratio"]) for row in found["parameters"]]
    assert names == [(0, "first.weight", 0.001), (1, "first.bias", 0.1), (2, "second.weight", 0.0)]
    spread = [tuple(row.values()) for row in found["depth/spread_table"]]
    assert [value for place, _, value in spread if place == 1] == [0, -2, -3, -5, -6, -8], "of nine records six, with both ends"
    assert sorted({line for _, line, _ in spread}) == [f"step {step:02}" for step in (0, 20, 30, 50, 60, 80)]
    updates = [tuple(row.values()) for row in found["depth/updates_table"]]
    assert {(place, round(value, 9)) for place, _, value in updates} == {(0, -3)}, "neither biases nor what did not move"
    assert [tuple(row.values()) for row in found["test/confusion_table"]] == [
        ("cat", "cat", 3), ("cat", "dog", 1), ("dog", "cat", 0), ("dog", "dog", 2),
    ]  # fmt: skip
    charts = panels(tmp_path)
    drawn = {key: chart["panelDefId"] for key, chart in charts.items()}
    assert drawn == {
        "depth/spread": "wandb/lineseries/v0",
        "depth/updates": "wandb/lineseries/v0",
        "test/confusion": "wandb/confusion_matrix/v1",
    }
    for key, chart in charts.items():  # every field of a chart is a column of the table that is sent with it
        assert set(chart["fieldSettings"].values()) <= set(found[f"{key}_table"][0])
        assert f"{key}_table" in json.dumps(chart["userQuery"])
    assert {row["trainer/step"] for row in history(tmp_path)} == {90} and not warnings_of(caplog)
    (artifact,) = [record.artifact for record in records(tmp_path) if record.artifact.type == "monitors"]
    (entry,) = artifact.manifest.contents
    assert (artifact.name, entry.path) == (f"mlp-digits-{log.run_id}-inside", "monitors.jsonl.gz")
    assert gzip.decompress(Path(entry.local_path).read_bytes()) == (tmp_path / "monitors.jsonl").read_bytes()


def test_a_training_without_records_sends_no_tables(tmp_path, caplog):
    log = tracker(tmp_path)
    log.open()
    log.log_monitors(tmp_path / "monitors.jsonl")
    log.close()
    assert not tables(tmp_path) and not panels(tmp_path) and not warnings_of(caplog)


def test_a_server_that_dies_holds_up_one_table_and_no_more(tmp_path, server, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setattr(wandb_tracker, "FINISH_SECONDS", 1.0)
    monkeypatch.setattr(wandb_tracker, "TABLE_SECONDS", 0.5)
    waited = []
    within = wandb_tracker.within
    monkeypatch.setattr(wandb_tracker, "within", lambda seconds, work: (waited.append(seconds), within(seconds, work))[1])
    log = tracker(tmp_path, mode="online")
    log.open()
    server.hangs = ("/",)
    log.log_monitors(monitored(tmp_path / "monitors.jsonl"), ["cat", "dog"], [[3, 1], [0, 2]])
    log.log_monitors(monitored(tmp_path / "monitors.jsonl"))
    log.log_metrics({"train/loss": 1.0}, 2)
    log.close()
    assert waited.count(0.5) == 1
    assert "images and tables" in warnings_of(caplog)[0]
    assert [row["train/loss"] for row in history(tmp_path) if "train/loss" in row] == [1.0]


def test_strange_records_are_left_out_and_tables_that_fail_are_one_warning(tmp_path, caplog, monkeypatch):
    (tmp_path / "monitors.jsonl").write_text(
        '{"step": 0, "kind": "activations"}\n{"kind": "gradients", "parameters": {"a": 3}}\n'
    )
    log = tracker(tmp_path)
    log.open()
    log.log_monitors(tmp_path / "monitors.jsonl")
    assert not warnings_of(caplog)

    def fail(monitors):
        raise KeyError("layers")

    monkeypatch.setattr("zoo.training.tracking.wandb_tables.monitor_tables", fail)
    log.log_monitors(tmp_path / "monitors.jsonl")
    log.close()
    (warning,) = warnings_of(caplog)
    assert "layers" in warning
