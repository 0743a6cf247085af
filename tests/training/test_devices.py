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
import torch

from zoo.training.run_folder import RunFolder, read_metrics

PROGRAM = "import sys; from cli import app; app()"
ODD = '''
from torch import nn
from zoo import register_model
from zoo.tasks.classification import Classifier


class Odd(nn.Module):
    def forward(self, labels):
        return (labels[:1] != 7).float().log()


@register_model("odd", task="classification", recipe={"epochs": 5, "batch_size": 16})
class OddOne(Classifier):
    """Breaks as soon as the first of a batch is a seven, which no two processes meet at once."""

    def __init__(self, spec, recipe):
        super().__init__(spec, recipe)
        self.odd = Odd()
        self.head = nn.Linear(spec.channels * spec.height * spec.width, len(spec.classes))

    def stages(self):
        return {"head": self.head}

    def forward(self, images):
        return self.head(images.flatten(1))

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) * (1 + 0 * self.odd(batch["labels"]).sum())
'''


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
    for other in figures[1:]:
        assert all(other[name] == figures[0][name] for name in ("classes", "confusion")), "they are counted"
        assert other["test/calibration_error"] == pytest.approx(figures[0]["test/calibration_error"], abs=1e-5)
    assert sum(map(sum, figures[0]["confusion"])) == 359
    told = next(record for record in records if "test/accuracy" in record)
    assert told["test/accuracy"] == figures[0]["test/accuracy"]


def test_a_text_has_the_same_loss_on_any_number_of_processes() -> None:
    settings = ["--set", "model.hidden=16", "--set", "data.chunk=32", "--set", "recipe.batch_size=8"]
    settings += ["--set", "trainer.limit_train_batches=6", "--epochs", "1", "--accelerator", "cpu"]
    zoo("train", "char-gru", "--name", "text", "--devices", "2", *settings)
    kept = torch.load("runs/text/checkpoints/last.ckpt", weights_only=True)
    assert kept["stream_state"].shape == (2, 2, 8, 16), "the states of both processes"
    figures = [json.loads(zoo("test", "text", "--devices", str(n), "--accelerator", "cpu", "--json")) for n in (1, 2, 3)]
    for other in figures[1:]:
        assert other["test/loss"] == pytest.approx(figures[0]["test/loss"], abs=1e-6)


def test_dialogues_are_ranked_alike_on_any_number_of_processes() -> None:
    settings = [
        "model.hidden=8", "model.encoder_options={channels: [4, 8]}", "data.pictures=44", "data.rounds=3", "recipe.batch_size=4",
    ]  # fmt: skip
    arguments = [part for text in settings for part in ("--set", text)]
    arguments += ["--name", "talks", "--devices", "2", "--epochs", "1", "--accelerator", "cpu"]
    zoo("train", "dialogue-discriminative", *arguments)
    figures = [json.loads(zoo("test", "talks", "--devices", str(n), "--accelerator", "cpu", "--json")) for n in (1, 2, 3)]
    assert {"test/r1", "test/mrr", "test/r1_history", "test/mrr_history"} < figures[0].keys()
    for other in figures[1:]:
        loss = other.pop("test/loss")
        assert loss == pytest.approx(figures[0]["test/loss"], rel=1e-6)
        assert other == {name: value for name, value in figures[0].items() if name != "test/loss"}, "ranks are counted"


def test_a_memory_has_the_same_figures_on_any_number_of_processes() -> None:
    settings = ["--set", "model.hidden=8", "--set", "data.length=6", "--set", "data.sequences=640", "--epochs", "1"]
    zoo("train", "gru", "--name", "memory", "--devices", "2", "--accelerator", "cpu", *settings)
    figures = [json.loads(zoo("test", "memory", "--devices", str(n), "--accelerator", "cpu", "--json")) for n in (1, 2, 3)]
    assert set(figures[0]) == {"test/loss", "test/solved"}
    for other in figures[1:]:
        assert other["test/solved"] == figures[0]["test/solved"]
        assert other["test/loss"] == pytest.approx(figures[0]["test/loss"], rel=1e-6)


def test_questions_have_the_same_figures_on_any_number_of_processes() -> None:
    settings = ["--set", "data.pictures=64", "--set", "recipe.batch_size=84", "--set", "model.hidden=16", "--epochs", "1"]
    zoo("train", "vqa-attention", "--name", "asked", "--devices", "2", "--accelerator", "cpu", *settings)
    figures = [json.loads(zoo("test", "asked", "--devices", str(n), "--accelerator", "cpu", "--json")) for n in (1, 2)]
    assert "test/accuracy_related exists" in figures[0]
    for name, figure in figures[0].items():
        assert figures[1][name] == pytest.approx(figure, rel=1e-6)


def test_captions_have_the_same_figures_on_any_number_of_processes() -> None:
    settings = ["--set", "data.pictures=64", "--set", "recipe.batch_size=77", "--set", "model.hidden=16", "--epochs", "1"]
    settings += ["--set", 'model.encoder_options={"channels": [4, 8, 8]}', "--set", "model.beams=2"]
    zoo("train", "captioner-attention", "--name", "told", "--devices", "2", "--accelerator", "cpu", *settings)
    # 1,000 test pictures make 13 batches, which neither 2 nor 3 divides
    figures = [json.loads(zoo("test", "told", "--devices", str(n), "--accelerator", "cpu", "--json")) for n in (1, 2, 3)]
    for other in figures[1:]:
        assert other.keys() == figures[0].keys()
        for name in ("bleu4", "rouge_l", "cider", "truth"):
            assert other[f"test/{name}"] == figures[0][f"test/{name}"], "the very captions of one process, judged together"
        assert other["test/loss"] == pytest.approx(figures[0]["test/loss"], rel=1e-6)


def test_an_agent_fares_alike_on_any_number_of_processes() -> None:
    settings = ["--set", "data.houses=2", "--set", "data.starts=2", "--set", "model.hidden=8", "--set", "model.channels=[4,4]"]
    zoo("train", "navigator", "--name", "agent", "--devices", "2", "--epochs", "1", "--accelerator", "cpu", *settings)
    figures = [json.loads(zoo("test", "agent", "--devices", str(n), "--accelerator", "cpu", "--json")) for n in (1, 2, 3)]
    assert figures[0]["test/length"] > 0
    for other in figures[1:]:
        assert other == pytest.approx(figures[0], rel=1e-6)
        assert all(other[f"test/{name}"] == figures[0][f"test/{name}"] for name in ("success", "error", "length_seen"))


@pytest.mark.parametrize("plan", ["epochs:1+1", "backbone"])
def test_stages_thaw_alike_in_all_processes(plan: str) -> None:
    quick = ["--accelerator", "cpu", "--set", "trainer.limit_train_batches=3", "--set", "recipe.batch_size=32"]
    zoo("train", "resnet20", "--name", "base", "--epochs", "1", "--set", "model.width=4", *quick)
    tuned = ["finetune", "base", "--freeze", plan, "--epochs", "3", "--devices", "2", "--name", "tuned", *quick]
    zoo(*tuned)
    begun, ended = (torch.load(RunFolder.find(name).last, weights_only=True)["state_dict"] for name in ("base", "tuned"))
    moved = {
        name.partition(".")[0] for name, value in ended.items() if name.endswith("weight") and not torch.equal(value, begun[name])
    }
    assert moved == ({"stage2", "stage3", "head"} if plan == "epochs:1+1" else {"head"})
    alone, both = (json.loads(zoo("test", "tuned", "--accelerator", "cpu", "--devices", n, "--json")) for n in ("1", "2"))
    assert alone["test/accuracy"] == both["test/accuracy"]


def test_two_processes_remember_what_one_does() -> None:
    zoo("train", "knn", "--name", "alone", "--accelerator", "cpu")
    zoo("train", "knn", "--name", "shared", "--accelerator", "cpu", "--devices", "2", "--set", "recipe.batch_size=100")
    alone, shared = (
        torch.load(f"runs/{name}/checkpoints/best.ckpt", weights_only=True)["state_dict"] for name in ("alone", "shared")
    )
    assert all(torch.equal(value, shared[name]) for name, value in alone.items())


def test_the_process_whose_batch_breaks_the_numbers_is_heard() -> None:
    Path("odd.py").write_text(ODD)
    Path("zoo_command.py").write_text(PROGRAM)
    start = [sys.executable, "zoo_command.py", "--plugin", "odd.py"]
    train = ["train", "odd", "--name", "odd", "--data", "digits", "--devices", "2", "--accelerator", "cpu"]
    answer = subprocess.run([*start, *train], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    lines = [line for line in answer.stderr.splitlines() if line.startswith("error: ")]
    assert answer.returncode == 2 and len(lines) == 1, answer.stderr
    assert "log in odd (Odd) made 1 inf" in lines[0] and "zoo autopsy odd" in lines[0]
    content = torch.load("runs/odd/autopsy.pt", weights_only=True)
    assert content["batch"]["labels"][0] == 7
    again = subprocess.run([*start, "autopsy", "odd"], capture_output=True, text=True)
    assert again.returncode == 1 and again.stdout.endswith("in the same way\n"), again.stderr
