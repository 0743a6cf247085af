"""Lightning's loggers as trackers: what they hold equals the records, they stop no training, and a plugin brings one."""

from __future__ import annotations

import csv
import html
import json
import logging
import math
import re
import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from zoo.core.json_lines import read_json_lines
from zoo.training.tracking import guest as guest_module
from zoo.training.tracking import tracker as tracker_module
from zoo.training.tracking.guest import Guest
from zoo.training.tracking.loggers import mlflow_name
from zoo.training.tracking.rendering import code, markdown, markdown_table
from zoo.training.tracking.tables import Table
from zoo.training.tracking.tracker import Tracker

TRAIN = ("train", "mlp", "--set", "trainer.accelerator=cpu", "--set", "trainer.log_every_n_steps=5")
Points = dict[str, list[tuple[int, float]]]  # metric -> (step, value)


def recorded(folder: Path) -> Points:
    """What metrics.jsonl holds."""
    points: Points = defaultdict(list)
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        for key, value in record.items():
            if key not in ("step", "time"):
                points[key].append((record["step"], value))
    return points


def equal(theirs: Points, own: Points) -> None:
    for name, points in own.items():
        assert [step for step, _ in theirs[name]] == [step for step, _ in points], name
        for (_, first), (_, second) in zip(theirs[name], points, strict=True):
            assert math.isclose(first, second, rel_tol=1e-6), name  # TensorBoard has single precision


@pytest.mark.slow
def test_three_loggers_hold_the_metrics_of_the_run(zoo, monkeypatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    answer = zoo(*TRAIN, "--epochs", "2", "--name", "seen", *("--logger", "csv", "--logger", "tensorboard", "--logger", "mlflow"))
    assert answer.code == 0, answer.err
    folder = Path("runs/seen")
    own = recorded(folder)
    assert own["train/loss"] and own["val/accuracy"] and own["test/accuracy"]
    equal(csv_points(folder / "csv/from-0/metrics.csv"), own)

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"), {"scalars": 0, "images": 0, "tensors": 0, "histograms": 0})
    events.Reload()
    tags = events.Tags()
    equal({tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags["scalars"]}, own)
    assert sum(tag.startswith("val/samples/") for tag in tags["images"]) == 16
    assert {"depth/spread", "depth/updates"} <= set(tags["images"])
    assert {f"{key}/text_summary" for key in ("layers", "parameters", "test/confusion")} <= set(tags["tensors"])
    histogram = next(tag for tag in tags["histograms"] if tag.startswith("activations/"))
    assert sum(events.Histograms(histogram)[-1].histogram_value.bucket) > 0

    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{Path('runs/mlflow.db').absolute()}")
    (run,) = client.search_runs([client.get_experiment_by_name("bestiary").experiment_id])
    assert run.info.status == "FINISHED" and run.data.params["model/name"] == "mlp"
    equal({name: mlflow_points(client, run.info.run_id, name) for name in own}, own)
    samples = [each.path for each in client.list_artifacts(run.info.run_id, "val/samples")]
    assert "val/samples/00.png" in samples and "val/samples/00.txt" in samples
    kept = Path(client.download_artifacts(run.info.run_id, "."))
    assert {path.name for path in (kept / "depth").iterdir()} == {"spread.png", "updates.png"}
    last = [record for record in read_json_lines(folder / "monitors.jsonl") if record["kind"] == "activations"][-1]["layers"]
    with (kept / "layers.csv").open() as file:
        layers = list(csv.DictReader(file))
    assert [(row["layer"], row["type"]) for row in layers] == [(name, row["type"]) for name, row in last.items()]
    assert [float(row["std"]) for row in layers] == [row["std"] for row in last.values()]
    with (kept / "test/confusion.csv").open() as file:
        tested = sum(int(row["nPredictions"]) for row in csv.DictReader(file))
    assert tested == 359, "all test images"


def csv_points(path: Path) -> Points:
    points: Points = defaultdict(list)
    with path.open() as file:
        for row in csv.DictReader(file):
            for key, value in row.items():
                if value and key != "step":
                    points[key].append((int(row["step"]), float(value)))
    return points


def mlflow_points(client: Any, run_id: str, name: str) -> list[tuple[int, float]]:
    return [(each.step, each.value) for each in client.get_metric_history(run_id, name)]


def test_an_unknown_logger_is_refused_with_the_nearest_name(zoo) -> None:
    assert zoo("train", "mlp", "--logger", "tensorbord").is_one_line_error("tensorbord", "tensorboard")
    assert not Path("runs").exists()


def test_a_missing_library_is_named_with_the_extra_before_the_first_step(zoo, monkeypatch) -> None:
    def missing(*args: Any, **kwargs: Any) -> None:
        raise ModuleNotFoundError("No module named 'mlflow'")

    monkeypatch.setattr("zoo.training.tracking.loggers.MLFlowLogger", missing)
    assert zoo("train", "mlp", "--logger", "mlflow").is_one_line_error("mlflow", "pip install 'bestiary[mlflow]'")
    assert not Path("runs/mlp-digits").exists()


PLUGIN = """
import json
from lightning.pytorch.loggers.logger import Logger
from zoo import register_logger


class Lines(Logger):
    name, version = "lines", 7

    def __init__(self, folder):
        self.file = folder / "lines.txt"

    def log_hyperparams(self, params):
        self.file.write_text(params["model"]["name"] + chr(10))

    def log_metrics(self, metrics, step=None):
        if "val/loss" in metrics:
            raise OSError("the disk" + chr(10) + "is full")
        with self.file.open("a") as file:
            file.write(json.dumps([step, *metrics]) + chr(10))


@register_logger("lines")
def lines(folder, run_id, step):
    return Lines(folder)
"""


def test_a_plugin_brings_a_logger_and_its_failure_is_one_warning(zoo, workplace: Path, caplog) -> None:
    (workplace / "mine.py").write_text(PLUGIN)
    assert "lines" in zoo("--plugin", "mine.py", "list", "--loggers").out
    answer = zoo("--plugin", "mine.py", *TRAIN, "--epochs", "2", "--name", "seen", "--logger", "lines")
    assert answer.code == 0, answer.err
    lines = Path("runs/seen/lines.txt").read_text().splitlines()
    assert lines[0] == "mlp" and any("train/loss" in line for line in lines)
    warnings = [record.getMessage() for record in caplog.records if record.name == tracker_module.__name__]
    assert warnings == ["lines stops: the disk"]
    assert len(recorded(Path("runs/seen"))["val/loss"]) == 2


class Silent(Tracker):
    title = "silent"
    closing_seconds = 0.2

    def __init__(self) -> None:
        self.released = threading.Event()
        self.logged: list[Any] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None) -> None:
        self.released.wait(60)
        self.logged.append(step)

    def remains(self) -> str:
        return "records are in the cellar"


def test_a_tracker_that_never_answers_costs_its_time_limit_and_one_warning(caplog, monkeypatch) -> None:
    monkeypatch.setattr(guest_module, "MOST_WAITING", 3)
    tracker = Silent()
    guest = Guest(tracker)
    guest.open()
    for step in range(10):
        guest.call("log_metrics", {}, step)
    guest.close()
    tracker.released.set()
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert warnings == ["silent stops: no response, 3 records wait; records are in the cellar"]


@pytest.mark.parametrize("error", [OSError("full"), SystemExit(3), KeyError("no such run")])
def test_whatever_a_tracker_raises_the_training_goes_on(caplog, error: BaseException) -> None:
    class Broken(Tracker):
        closed = 0

        def open(self) -> None:
            raise error

        def close(self, exit_code: int) -> None:
            Broken.closed += 1

    guest = Guest(Broken())
    guest.open()
    guest.call("log_metrics", {}, 1)
    guest.close()
    assert len(caplog.records) == 1 and "cannot be started" in caplog.text and Broken.closed == 1


@pytest.mark.parametrize(
    "name", ["activations//tanh12/mean", "gradients/stage1.0.conv/norm", "../a/./b/..", "größe: <x>/a", "val/loss"]
)
def test_mlflow_takes_the_name_of_any_metric(name: str) -> None:
    from mlflow.utils.validation import _validate_metric_name

    assert mlflow_name("val/loss") == "val/loss" and mlflow_name("activations//tanh12/mean") == "activations/tanh12/mean"
    _validate_metric_name(mlflow_name(name))


def test_tensorboard_shows_texts_as_they_are() -> None:
    from tensorboard.plugin_util import markdown_to_safe_html

    text = "1. *a* _b_ # <b>c</b> [d](e) `f` \\n & {g} ![h](i)\n# head | x |\n- y"
    shown = html.unescape(markdown_to_safe_html(markdown(text)))
    assert shown.removeprefix("<p>").removesuffix("</p>") == text.replace("\n", "<br>\n")
    shown = html.unescape(markdown_to_safe_html(markdown_table(Table(("a_b", "c"), [["x | *y*", 0.123456], [None, "<b>"]]))))
    assert re.findall("<t[hd]>(.*?)</t[hd]>", shown) == ["a_b", "c", "x | *y*", "0.1235", "", "<b>"]
    aligned = "input   3  <s>*7*\npredict 13 _"
    shown = html.unescape(markdown_to_safe_html(code(aligned)))
    assert shown == f"<pre><code>{aligned}\n</code></pre>"
