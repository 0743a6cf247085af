"""Figures do not depend on the number of processes, and a launched run is one run.

Each case is the real command in processes of its own, as Lightning's launcher starts it again for every rank.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from zoo.training.run_folder import RunFolder, read_metrics

PROGRAM = "import sys; from cli import app; app()"


def zoo(*arguments: str) -> str:
    """The command in a process of its own; its standard output."""
    program = Path("zoo_command.py")
    program.write_text(PROGRAM)  # the launcher needs a file that it can start again
    answer = subprocess.run(
        [sys.executable, str(program), *arguments], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


@pytest.fixture
def two_processes() -> RunFolder:
    """resnet20 with batch norm, trained on two processes; 359 test images make 7 batches, which neither 2 nor 3 divides."""
    arguments = ["--devices", "2", "--accelerator", "cpu", "--name", "pair", "--epochs", "2"]
    out = zoo("train", "resnet20", *arguments, "--set", "model.width=4", "--set", "recipe.batch_size=52", "--json")
    assert json.loads(out)["run"] == "runs/pair", "only rank zero speaks"
    return RunFolder(Path("runs/pair"))


def test_two_processes_make_one_run_and_any_number_tests_it_alike(two_processes: RunFolder) -> None:
    assert [path.name for path in Path("runs").iterdir()] == ["pair"]
    records = read_metrics(two_processes.metrics_file)
    assert [record["epoch"] for record in records if "val/accuracy" in record] == [0, 1], "each record is written once"
    figures = [
        json.loads(zoo("test", "pair", "--devices", str(devices), "--accelerator", "cpu", "--json")) for devices in (1, 2, 3)
    ]
    assert figures[0]["test/accuracy"] == figures[1]["test/accuracy"] == figures[2]["test/accuracy"]
    assert figures[1]["test/loss"] == pytest.approx(figures[0]["test/loss"], rel=1e-6)
    assert figures[2]["test/loss"] == pytest.approx(figures[0]["test/loss"], rel=1e-6)
    told = next(record for record in records if "test/accuracy" in record)
    assert told["test/accuracy"] == figures[0]["test/accuracy"]
