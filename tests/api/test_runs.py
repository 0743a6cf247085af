"""Lists of runs: states, best values, differing settings, filters and order, whatever is left of a run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from zoo.api.runs import list_runs
from zoo.core.errors import UserError
from zoo.training.run_folder import RunFolder

RECORDS = [
    {"step": 10, "epoch": 0, "time": 1010.0, "train/loss": 2.0},
    {"step": 10, "epoch": 0, "time": 1011.0, "val/accuracy": 0.75, "val/loss": 1.0},
    {"step": 20, "epoch": 1, "time": 1021.0, "val/accuracy": 0.5, "val/loss": 0.5},
]
TEST = {"step": 20, "epoch": 2, "time": 1022.0, "test/accuracy": 0.625, "test/loss": 0.75}


def make(name: str, records: list[dict[str, Any]] = RECORDS, epochs: int = 3, lr: float = 0.1, **environment: Any) -> RunFolder:
    folder = RunFolder(Path("runs") / name)
    folder.path.mkdir(parents=True)
    folder.run_file.write_text(f"model: {{name: mlp}}\ndata: {{name: digits}}\nrecipe: {{epochs: {epochs}, lr: {lr}}}\n")
    about = {"started": 1000.0, "monitor": "val/accuracy", "goal": "max", **environment}
    (folder.path / "environment.json").write_text(json.dumps(about))
    folder.metrics_file.write_text("".join(json.dumps(each, separators=(",", ":")) + "\n" for each in records))
    return folder


def test_a_run_is_summarized_from_its_files() -> None:
    folder = make("seen", [*RECORDS, TEST])
    finding = {"step": 10, "kind": "finding", "severity": "warning", "where": "head"}
    records = [
        {**finding, "name": "dead-units"},
        {**finding, "name": "overfitting"},
        {"kind": "withdrawal", "name": "dead-units"},
    ]
    records[-1].update(step=20, where="head")
    folder.monitors_file.write_text("".join(json.dumps(each, separators=(",", ":")) + "\n" for each in records))
    (run,) = list_runs()
    assert (run.name, run.model, run.data, run.state) == ("seen", "mlp", "digits", "finished")
    assert (run.metric, run.best, run.test) == ("val/accuracy", 0.75, 0.625)
    assert (run.epoch, run.epochs, run.started, run.updated, run.seconds) == (2, 3, 1000.0, 1022.0, 22.0)
    assert run.findings == ("overfitting",) and run.settings["recipe.lr"] == 0.1 and not run.varied


def test_the_best_is_the_lowest_where_that_is_the_goal() -> None:
    make("seen", monitor="val/loss", goal="min")
    assert [(run.best, run.test) for run in list_runs()] == [(0.5, None)]


def test_states() -> None:
    make("tested", [*RECORDS, TEST])
    make("untested", epochs=2)
    make("stopped")
    make("burst").autopsy_file.write_bytes(b"")
    make("damaged").run_file.write_text("model: [")
    make("bare").run_file.unlink()
    busy = make("busy")
    with busy.locked():
        states = {run.name: run.state for run in list_runs()}
    assert states == {
        "tested": "finished", "untested": "finished", "stopped": "resumable", "burst": "non-finite", "damaged": "broken",
        "bare": "broken", "busy": "running",
    }  # fmt: skip
    assert [run.name for run in list_runs(state="broken")] == ["bare", "damaged"]
    assert "line 1" in next(run.problem for run in list_runs() if run.name == "damaged")
    with busy.locked():  # nothing was left locked
        pass


def test_runs_differ_in_the_settings_of_the_same_model_and_data(monkeypatch) -> None:
    make("slow", lr=0.01)
    make("fast", lr=0.1)
    make("other").run_file.write_text("model: {name: cnn}\ndata: {name: digits}\nrecipe: {lr: 3}\n")
    varied = {run.name: run.varied for run in list_runs()}
    assert varied == {"slow": {"recipe.lr": 0.01}, "fast": {"recipe.lr": 0.1}, "other": {}}
    assert [run.name for run in list_runs(where={"recipe.lr": 0.1})] == ["fast"]
    with pytest.raises(UserError, match=r"recipe\.rate.*did you mean"):
        list_runs(where={"recipe.rate": 1})


def test_order_and_pattern() -> None:
    make("a1", RECORDS[:2])
    make("b", [{**RECORDS[1], "val/accuracy": 0.9, "time": 5000.0}])
    make("a2", [])
    assert [run.name for run in list_runs(sort="name")] == ["a1", "a2", "b"]
    assert [run.name for run in list_runs()] == ["b", "a1", "a2"]
    assert [run.name for run in list_runs(sort="metric")] == ["b", "a1", "a2"]
    assert (
        [run.name for run in list_runs("a*", sort="name")]
        == [run.name for run in list_runs("a", sort="name")[:2]]
        == ["a1", "a2"]
    )
    for wrong in ({"state": "runing"}, {"sort": "metrics"}):
        with pytest.raises(UserError, match="did you mean"):
            list_runs(**wrong)


def test_the_command_prints_a_table_names_and_json(zoo) -> None:
    assert zoo("runs").is_one_line_error("runs/", "zoo train mlp")
    make("first", [*RECORDS, TEST])
    make("second", lr=0.01)
    answer = zoo("runs")
    lines = answer.out.splitlines()
    assert answer.code == 0 and lines[0].split()[:4] == ["run", "model", "data", "state"]
    assert "0.75" in lines[1] and "recipe.lr=" in lines[1] and "zoo train --resume second" in lines[-1]
    assert zoo("runs", "--names", "--sort", "name").out.split() == ["first", "second"]
    assert [run["state"] for run in json.loads(zoo("runs", "--json", "--sort", "name").out)] == ["finished", "resumable"]
    assert zoo("runs", "third").is_one_line_error("third", "zoo runs")
    assert zoo("runs", "--runs-dir", "none here").is_one_line_error("`zoo train mlp --runs-dir 'none here'` makes one")
    elsewhere = zoo("runs", "third", "--runs-dir", "runs")
    assert elsewhere.is_one_line_error("matches third: `zoo runs --runs-dir runs` lists all")
    assert "zoo train --resume runs/second" in zoo("runs", "--runs-dir", "runs").out.splitlines()[-1]
    assert zoo("runs", "--where", "recipe.lr=0.01", "--names").out.split() == ["second"]
    assert zoo("runs", "--where", "recipe.lr").is_one_line_error("--where recipe.lr: write it as section.key=value")


def test_watch_without_a_name_takes_the_run_that_is_trained(zoo) -> None:
    assert zoo("watch").is_one_line_error("no run is being trained")
    make("idle", [*RECORDS, TEST])
    assert zoo("watch").is_one_line_error("no run is being trained", "zoo watch idle")
    with make("busy").locked():
        assert "busy" in zoo("watch", "--once").out


def test_a_report_takes_a_pattern(zoo) -> None:
    make("mlp-1", [*RECORDS, TEST])
    make("mlp-2", [*RECORDS, TEST])
    make("elsewhere", [*RECORDS, TEST])
    assert zoo("report", "mlp-*", "--no-samples").code == 0
    page = Path("report.html").read_text()
    assert "mlp-1" in page and "mlp-2" in page and "elsewhere" not in page
    assert zoo("report", "xyz*").is_one_line_error("xyz*")


def test_listing_runs_imports_no_torch(tmp_path) -> None:
    program = "import sys; from zoo.cli import app; sys.argv = ['zoo', 'runs']; app(standalone_mode=False); "
    program += "print('torch' in sys.modules)"
    make("seen")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
