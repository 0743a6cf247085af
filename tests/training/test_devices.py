"""Figures do not depend on the number of processes, and a launched run is one run.

Each case is the real command in processes of its own: as Lightning's launcher starts it again for every rank, or as torchrun
starts them together, which then run many commands one after the other, since most of the time of one goes into imports.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from zoo.core.json_lines import read_json_lines
from zoo.training.run_folder import RunFolder

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["zoo.training.engine", "zoo.models.resnet", "zoo.datamodules.digits"])
PROGRAM = "import sys; from zoo.cli import app; app()"
COMMANDS = """
import json, shlex, sys
from zoo.cli import app

for command in json.loads(sys.argv[1]):
    sys.argv = ["zoo", *shlex.split(command)]
    try:
        app()
    except SystemExit as stop:
        assert not stop.code, command
"""
SMALL = "--epochs 1 --accelerator cpu"
QUICK = "--accelerator cpu --set trainer.limit_train_batches=3 --set recipe.batch_size=32"
TRAINED = {  # on two processes
    "text": f"train char-gru {SMALL} --set model.hidden_size=16 --set data.seq_len=32 --set recipe.batch_size=8"
    " --set trainer.limit_train_batches=6",
    "memory": f"train gru {SMALL} --set model.hidden_size=8 --set data.length=6 --set data.num_sequences=640",
    "talks": f"train dialogue-discriminative {SMALL} --set model.hidden_size=8 --set 'model.encoder_options={{channels: [4, 8]}}'"
    " --set data.num_images=44 --set data.num_rounds=3 --set recipe.batch_size=4",
    "asked": f"train vqa-attention {SMALL} --set data.num_images=64 --set recipe.batch_size=5 --set model.hidden_size=16",
    # 64 test images make 13 batches, which neither 2 nor 3 divides
    "told": f"train captioner-attention {SMALL} --set data.num_images=64 --set recipe.batch_size=5 --set model.hidden_size=16"
    " --set 'model.encoder_options={channels: [4, 8, 8]}' --set model.num_beams=2",
    # 200 make 13 of 16, too
    "labels": f"train mlp --data shapes-labels {SMALL} --set data.num_images=200 --set recipe.batch_size=16",
    "numbers": f"train mlp --data shapes-numbers {SMALL} --set data.num_images=200 --set recipe.batch_size=16",
    "agent": f"train navigator {SMALL} --set data.num_houses=2 --set data.num_starts=2 --set model.hidden_size=8"
    " --set 'model.channels=[4,4]'",
    "base": f"train resnet20 --epochs 1 --set model.width=4 {QUICK}",
    "head": f"finetune base --freeze backbone --epochs 3 {QUICK}",
    "thawed": f"finetune base --freeze epochs:1+1 --epochs 3 {QUICK}",
    "shared": "train knn --accelerator cpu --set recipe.batch_size=100",
}
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


def launched(*arguments: str) -> str:
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
    out = launched("train", "resnet20", *arguments, "--set", "model.width=4", "--set", "recipe.batch_size=52", "--json")
    assert json.loads(out)["run"] == "runs/pair", "only rank zero speaks"
    return RunFolder(Path("runs/pair"))


@pytest.mark.slow
def test_two_processes_make_one_run_and_any_number_tests_it_alike(two_processes: RunFolder) -> None:
    assert [path.name for path in Path("runs").iterdir()] == ["pair"]
    records = list(read_json_lines(two_processes.metrics_file))
    assert [record["epoch"] for record in records if "val/accuracy" in record] == [0, 1], "each record is written once"
    figures = [
        json.loads(launched("test", "pair", "--devices", str(devices), "--accelerator", "cpu", "--json")) for devices in (1, 2, 3)
    ]
    for metric in ("test/accuracy", "test/balanced_accuracy", "test/f1_macro"):
        assert figures[0][metric] == figures[1][metric] == figures[2][metric]
    assert figures[1]["test/loss"] == pytest.approx(figures[0]["test/loss"], rel=1e-6)
    assert figures[2]["test/loss"] == pytest.approx(figures[0]["test/loss"], rel=1e-6)
    for other in figures[1:]:
        assert all(other[name] == figures[0][name] for name in ("classes", "confusion")), "they are counted"
        assert other["test/calibration_error"] == pytest.approx(figures[0]["test/calibration_error"], abs=1e-5)
    assert sum(map(sum, figures[0]["confusion"])) == 359
    told = next(record for record in records if "test/accuracy" in record)
    assert told["test/accuracy"] == figures[0]["test/accuracy"]


def run_rank(rank: int, port: int, arguments: list[str]) -> None:
    places = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": 0, "LOCAL_RANK": rank}
    os.environ.update({name: str(value) for name, value in places.items()})
    sys.argv = ["zoo", *arguments]
    from zoo.cli import app

    app()


def test_one_process_measures_what_two_did(zoo) -> None:
    """Without a launcher: the processes are forked from a server that has already imported everything."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    train = ["train", "resnet20", "--devices", "2", "--accelerator", "cpu", "--name", "pair", "--epochs", "1"]
    train += ["--set", "model.depth=8", "--set", "model.width=4", "--set", "recipe.batch_size=52"]
    ranks = [SERVER.Process(target=run_rank, args=(rank, port, train)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    assert [rank.exitcode for rank in ranks] == [0, 0] and [path.name for path in Path("runs").iterdir()] == ["pair"]
    (of_two,) = (record for record in read_json_lines(Path("runs/pair/metrics.jsonl")) if "test/accuracy" in record)
    of_one = json.loads(zoo("test", "pair", "--devices", "1", "--accelerator", "cpu", "--json").out)
    assert sum(map(sum, of_one["confusion"])) == 359, "7 batches, which 2 does not divide"
    assert of_one["test/accuracy"] == of_two["test/accuracy"]
    assert of_one["test/loss"] == pytest.approx(of_two["test/loss"], rel=1e-6)


def together(processes: int, commands: list[str]) -> list[dict]:
    """Commands one after the other in as many processes; what each printed, as JSON."""
    program = Path("commands.py")
    program.write_text(COMMANDS)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] if processes > 1 else []
    commands = [f"{command} --devices {processes} --json" for command in commands]
    answer = subprocess.run(
        [sys.executable, *launcher, str(program), json.dumps(commands)],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert answer.returncode == 0 and "Warning" not in answer.stderr, answer.stderr
    printed, told = answer.stdout.strip(), []
    while printed:
        value, end = json.JSONDecoder().raw_decode(printed)
        told.append(value)
        printed = printed[end:].strip()
    assert len(told) == len(commands), "only rank zero speaks"
    return told


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where all runs of ``TRAINED`` are, and ``alone``, which one process has trained."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("devices")
        patch.chdir(folder)
        patch.setenv("ZOO_HOME", str(folder / "cache"))
        together(2, [f"{command} --name {name}" for name, command in TRAINED.items()])
        yield folder


@pytest.fixture(scope="module")
def figures(folder: Path) -> dict[str, list[dict]]:
    """Of each run, what its test says on one, two and three processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("ZOO_HOME", str(folder / "cache"))
        commands = [f"test {name} --accelerator cpu" for name in TRAINED]
        told = [together(1, ["train knn --name alone --accelerator cpu", *commands])[1:]]
        told += [together(processes, commands) for processes in (2, 3)]
    return {name: list(each) for name, *each in zip(TRAINED, *told, strict=True)}


@pytest.mark.slow
def test_a_text_has_the_same_loss_on_any_number_of_processes(folder: Path, figures: dict[str, list[dict]]) -> None:
    kept = torch.load(folder / "runs/text/checkpoints/last.ckpt", weights_only=True)
    assert kept["stream_state"].shape == (2, 2, 8, 16), "the states of both processes"
    one, *others = figures["text"]
    for other in others:
        assert other["test/loss"] == pytest.approx(one["test/loss"], abs=1e-6)


@pytest.mark.slow
def test_dialogues_are_ranked_alike_on_any_number_of_processes(figures: dict[str, list[dict]]) -> None:
    one, *others = figures["talks"]
    assert {"test/r1", "test/mrr", "test/r1_history", "test/mrr_history"} < one.keys()
    for other in others:
        assert other["test/loss"] == pytest.approx(one["test/loss"], rel=1e-6)
        assert {**other, "test/loss": one["test/loss"]} == one, "ranks are counted"


@pytest.mark.slow
def test_a_memory_has_the_same_figures_on_any_number_of_processes(figures: dict[str, list[dict]]) -> None:
    one, *others = figures["memory"]
    assert set(one) == {"test/loss", "test/solved"}
    for other in others:
        assert other["test/solved"] == one["test/solved"]
        assert other["test/loss"] == pytest.approx(one["test/loss"], rel=1e-6)


@pytest.mark.slow
def test_questions_have_the_same_figures_on_any_number_of_processes(figures: dict[str, list[dict]]) -> None:
    one, *others = figures["asked"]
    assert "test/accuracy_related exists" in one
    for other in others:
        assert other == pytest.approx(one, rel=1e-6)


@pytest.mark.slow
def test_labels_have_the_same_figures_on_any_number_of_processes(figures: dict[str, list[dict]]) -> None:
    alone, *others = figures["labels"]
    for other in others:
        for name in ("test/mAP", "test/f1_micro", "test/f1_macro", "classes"):
            assert other[name] == alone[name], "they follow from all scores"
        assert other["test/loss"] == pytest.approx(alone["test/loss"], rel=1e-6)


@pytest.mark.slow
def test_numbers_have_the_same_figures_on_any_number_of_processes(figures: dict[str, list[dict]]) -> None:
    alone, *others = figures["numbers"]
    for other in others:
        for name in ("test/r2", "test/mae", "test/rmse", "test/loss"):
            assert other[name] == pytest.approx(alone[name], rel=1e-6)


@pytest.mark.slow
def test_captions_have_the_same_figures_on_any_number_of_processes(figures: dict[str, list[dict]]) -> None:
    one, *others = figures["told"]
    for other in others:
        assert other.keys() == one.keys()
        for name in ("bleu4", "rouge_l", "cider", "truth"):
            assert other[f"test/{name}"] == one[f"test/{name}"], "the very captions of one process, judged together"
        assert other["test/loss"] == pytest.approx(one["test/loss"], rel=1e-6)


@pytest.mark.slow
def test_an_agent_fares_alike_on_any_number_of_processes(figures: dict[str, list[dict]]) -> None:
    one, *others = figures["agent"]
    assert one["test/length"] > 0
    for other in others:
        assert other == pytest.approx(one, rel=1e-6)
        assert all(other[f"test/{name}"] == one[f"test/{name}"] for name in ("success", "error", "length_seen"))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "learned"), [("head", {"head"}), ("thawed", {"stage2", "stage3", "head"})])
def test_stages_thaw_alike_in_all_processes(folder: Path, figures: dict[str, list[dict]], name: str, learned: set[str]) -> None:
    begun, ended = (
        torch.load(folder / f"runs/{run}/checkpoints/last.ckpt", weights_only=True)["state_dict"] for run in ("base", name)
    )
    moved = {n.partition(".")[0] for n, value in ended.items() if n.endswith("weight") and not torch.equal(value, begun[n])}
    assert moved == learned
    one, *others = figures[name]
    assert all(other["test/accuracy"] == one["test/accuracy"] for other in others)


@pytest.mark.slow
def test_two_processes_remember_what_one_does(folder: Path, figures: dict[str, list[dict]]) -> None:
    alone, shared = (
        torch.load(folder / f"runs/{name}/checkpoints/best.ckpt", weights_only=True)["state_dict"] for name in ("alone", "shared")
    )
    assert all(torch.equal(value, shared[name]) for name, value in alone.items())


@pytest.mark.slow
def test_the_process_whose_batch_breaks_the_numbers_is_heard() -> None:
    Path("odd.py").write_text(ODD)
    Path("zoo_command.py").write_text(PROGRAM)
    start = [sys.executable, "zoo_command.py", "--plugin", "odd.py"]
    train = ["train", "odd", "--name", "odd", "--data", "digits", "--devices", "2", "--accelerator", "cpu"]
    answer = subprocess.run([*start, *train], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    lines = [line for line in answer.stderr.splitlines() if line.startswith("error: ")]
    assert answer.returncode == 2 and len(lines) == 1, answer.stderr
    assert "log in odd (Odd) returned 1 inf" in lines[0] and "zoo autopsy odd" in lines[0]
    content = torch.load("runs/odd/autopsy.pt", weights_only=True)
    assert content["batch"]["labels"][0] == 7
    again = subprocess.run([*start, "autopsy", "odd"], capture_output=True, text=True)
    assert again.returncode == 1 and again.stdout.endswith("repeated: the same fault occurs\n"), again.stderr
