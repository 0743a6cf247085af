"""Any signal at any moment, to any process of a run, stops all of them with what was saved, and the rest follows exactly.

The command runs in processes of their own, forked from a server that has already imported everything.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from zoo.core.signals import NUMBERS, REPEAT_SECONDS

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["zoo.cli", "zoo.commands.train", "zoo.training.engine", "zoo.models.mlp", "zoo.datamodules.digits"]
)
BATCHES = 6  # an epoch
SETTINGS = {
    "model.hidden_sizes": "[16]", "recipe.epochs": 2, "recipe.batch_size": 32, "recipe.accumulate_grad_batches": 2,
    "recipe.ema_decay": 0.9, "trainer.limit_train_batches": BATCHES, "trainer.limit_val_batches": 3,
    "trainer.limit_test_batches": 3, "trainer.log_every_n_steps": 2, "trainer.monitor_every_n_steps": 2,
    "trainer.accelerator": "cpu",
}  # fmt: skip
COMMAND = ["train", "mlp", *(part for key, value in SETTINGS.items() for part in ("--set", f"{key}={value}"))]
PLACES = ("reading data", "step", "accumulation", "last batch", "validation", "save", "test")
VOLATILE = {"time", "seconds", "train/samples_per_second"}  # of a record


def send_at(place: str, number: int) -> None:
    """Send a signal to this process once, in the second epoch or in the test of the first training."""
    from zoo.datamodules.loading.loader import BatchLoader, from_the_start
    from zoo.tasks.task import Task
    from zoo.training.saving import Checkpoints

    is_sent: list[bool] = []

    def send(when: bool) -> None:
        if when and not is_sent:
            is_sent.append(True)
            os.kill(os.getpid(), number)

    def send_again() -> bool:
        send(True)
        time.sleep(REPEAT_SECONDS + 0.1)
        os.kill(os.getpid(), number)
        time.sleep(30)
        return False

    def before(owner: type, name: str, when: Callable[..., bool]) -> None:
        original = getattr(owner, name)

        def sending(self: Any, *arguments: Any, **named: Any) -> Any:
            send(when(self, *arguments))
            return original(self, *arguments, **named)

        setattr(owner, name, sending)

    def reading(self: BatchLoader) -> Any:
        for count, batch in enumerate(self.batches(*self.position())):
            send(self.position is not from_the_start and self.position()[0] == 1 and count == 2)
            yield batch

    def in_second(task: Task) -> bool:
        return task.trainer.current_epoch == 1

    match place:
        case "reading data":
            BatchLoader.__iter__ = reading
        case "step":
            before(Task, "on_after_backward", lambda task: in_second(task) and task.trainer.fit_loop.batch_idx == 3)
        case "accumulation":
            before(Task, "on_train_batch_end", lambda task, outputs, batch, index: in_second(task) and index == 2)
        case "last batch":
            before(Task, "on_train_batch_start", lambda task, batch, index: in_second(task) and index == BATCHES - 1)
        case "validation":
            before(Task, "on_validation_batch_start", lambda task, batch, index: in_second(task) and index == 1)
        case "save":
            before(Checkpoints, "on_save_checkpoint", lambda self, trainer, *_: trainer.current_epoch == 0)
        case "twice":
            before(Task, "on_after_backward", lambda task: in_second(task) and send_again())
        case "test":
            before(Task, "on_test_batch_start", lambda task, batch, index: index == 1)


def run_command(
    arguments: list[str],
    rank: int,
    processes: int,
    port: int,
    sends: tuple[str, int] | None,
    log: str,
    environment: dict[str, str],
) -> None:
    os.environ.update(environment)
    if processes > 1:
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), LOCAL_RANK=str(rank), NODE_RANK="0")
    for stream in (1, 2):
        os.dup2(os.open(f"{log}-{rank}", os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    if sends:
        send_at(*sends)
    sys.argv = ["zoo", *arguments]
    from zoo.__main__ import main

    main()


def command(
    *arguments: str, processes: int = 1, sends: tuple[str, int] | None = None, to: int = 0, **environment: str
) -> tuple[list[int], str]:
    """The command in as many processes, one of which sends itself a signal: their exit codes, and what they printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = [*arguments, *(["--devices", str(processes)] if processes > 1 else [])]
    log = f"output-{port}"
    started = [
        SERVER.Process(
            target=run_command, args=(arguments, rank, processes, port, sends if rank == to else None, log, environment)
        )
        for rank in range(processes)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(120)
        process.kill()
    return [process.exitcode for process in started], "".join(Path(f"{log}-{rank}").read_text() for rank in range(processes))


def records(run: str, file: str) -> list[dict[str, Any]]:
    lines = (json.loads(line) for line in Path("runs", run, file).read_text().splitlines())
    return [
        {key: value for key, value in line.items() if key not in VOLATILE} for line in lines if line.get("kind") != "throughput"
    ]


def last(run: str) -> dict[str, Any]:
    return torch.load(f"runs/{run}/checkpoints/last.ckpt", weights_only=True)


def assert_equal(first: Any, second: Any, where: str) -> None:
    if isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first:
            assert_equal(first[key], second[key], f"{where}.{key}")
    elif isinstance(first, torch.Tensor):
        assert torch.equal(first, second), where
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second), where
        for one, other in zip(first, second, strict=True):
            assert_equal(one, other, where)
    else:
        assert first == second, where


def assert_same_end(run: str, where: str) -> None:
    whole, other = last("whole"), last(run)
    for key in ("state_dict", "current_model_state", "optimizer_states", "lr_schedulers", "global_step", "epoch"):
        assert_equal(whole[key], other[key], f"{where}: {key}")
    for file in ("metrics.jsonl", "monitors.jsonl"):
        assert records("whole", file) == records(run, file), f"{where}: {file}"


def assert_stops_and_goes_on(place: str, number: signal.Signals, processes: int, to: int, *settings: str) -> None:
    where = f"{number.name} at {place} to {to} of {processes}"
    run = f"{number.name}-{to}"
    codes, printed = command(*COMMAND, *settings, "--name", run, processes=processes, sends=(place, number), to=to)
    assert codes == [130] * processes, f"{where}: {printed}"
    lines = [line for line in printed.splitlines() if "interrupted" in line]
    assert lines == [f"interrupted, and saved. To continue: zoo train --resume {run}"], f"{where}: {printed}"
    assert "Traceback" not in printed, f"{where}: {printed}"
    codes, printed = command("train", "--resume", run, processes=processes)
    assert codes == [0] * processes, f"{where}: {printed}"
    assert_same_end(run, where)


@pytest.mark.parametrize("place", ["validation", pytest.param("last batch", marks=pytest.mark.slow)])
def test_a_signal_stops_a_run_that_goes_on_exactly(place: str) -> None:
    command(*COMMAND, "--name", "whole")
    assert_stops_and_goes_on(place, signal.SIGTERM, processes=1, to=0)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("place", PLACES)
def test_any_signal_at_any_place_stops_a_run_that_goes_on_exactly(place: str, processes: int) -> None:
    assert command(*COMMAND, "--name", "whole", processes=processes)[0] == [0] * processes
    for turn, number in enumerate(NUMBERS):
        assert_stops_and_goes_on(place, number, processes, to=turn % processes)


@pytest.mark.slow
def test_three_processes_whose_sums_depend_on_their_order_go_on_exactly() -> None:
    longer = ("--epochs", "3")  # a step follows the validation in which the run stops
    assert command(*COMMAND, *longer, "--name", "whole", processes=3)[0] == [0] * 3
    assert_stops_and_goes_on("accumulation", signal.SIGTERM, 3, 1, *longer)
    assert_stops_and_goes_on("validation", signal.SIGINT, 3, 2, *longer)


@pytest.mark.slow
def test_a_job_that_slurm_starts_again_goes_on_exactly_and_touches_nothing_outside_its_run() -> None:
    slurm = {"SLURM_NTASKS": "1", "SLURM_NTASKS_PER_NODE": "1", "SLURM_NNODES": "1", "SLURM_JOB_ID": "4711"}
    slurm |= {"SLURM_JOB_NAME": "train", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
    command(*COMMAND, "--name", "whole")
    _, expected = command("test", "whole", "--json")
    Path("hpc_ckpt_1.ckpt").write_text("of another job")
    job = [*COMMAND, "--name", "job", "--resume-if-exists"]
    codes, printed = command(*job, sends=("step", signal.SIGUSR1), **slurm)
    assert codes == [130] and "interrupted, and saved" in printed
    assert command(*job, **slurm)[0] == [0]
    assert_same_end("job", "under SLURM")
    codes, printed = command(*job, **slurm)
    assert codes == [0] and "job was already finished: nothing left to train" in printed
    assert command("test", "job", "--json", **slurm) == ([0], expected)
    assert {path.name for path in Path().iterdir() if not path.name.startswith("output-")} == {"hpc_ckpt_1.ckpt", "runs"}


def test_a_run_is_continued_by_the_same_command_alone(zoo) -> None:
    job = ["train", "softmax", "--epochs", "1", "--resume-if-exists"]
    assert zoo(*job).is_one_line_error("--resume-if-exists", "--name")
    assert zoo(*job, "--name", "job").code == 0
    assert zoo(*job, "--name", "job", "--set", "recipe.lr=0.4").is_one_line_error(
        "--resume-if-exists continues a run as it is, but recipe.lr=0.4", "zoo train --config runs/job/run.yaml"
    )


@pytest.mark.parametrize("place", ["data", "weights"])
def test_a_signal_before_the_first_step_leaves_nothing(zoo, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    from zoo.tasks.task import Task
    from zoo.training import engine

    owner, name = {"data": (engine, "build_data"), "weights": (Task, "configure_optimizers")}[place]
    original = getattr(owner, name)

    def sending(*arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, sending)
        answer = zoo("train", "softmax", "--epochs", "1", "--name", "early")
    assert (answer.code, answer.out) == (130, "") and not Path("runs").exists()
    assert answer.err.splitlines()[-1] == "interrupted before the first checkpoint: nothing was kept"


def test_a_signal_during_a_test_or_an_export_is_one_line_and_leaves_nothing(zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    from zoo.export import export
    from zoo.tasks.task import Task

    def sending(*arguments: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    assert zoo("train", "softmax", "--epochs", "1", "--name", "done").code == 0
    before = sorted(Path().rglob("*"))
    with monkeypatch.context() as patch:
        patch.setattr(Task, "on_test_batch_start", sending)
        answer = zoo("test", "done")
    assert (answer.code, answer.out, answer.err) == (130, "", "interrupted\n")
    with monkeypatch.context() as patch:
        patch.setattr(export, "check_agreement", sending)
        answer = zoo("export", "done", "--to", "safetensors")
    assert (answer.code, answer.out, answer.err) == (130, "", "interrupted\n")
    assert sorted(Path().rglob("*")) == before


def test_a_run_goes_on_with_other_processes_of_the_same_global_batch(zoo) -> None:
    assert zoo("train", "softmax", "--epochs", "1", "--name", "pair", "--set", "recipe.batch_size=32").code == 0
    file = Path("runs/pair/run.yaml")
    file.write_text(file.read_text().replace("devices: 1", "devices: 2"))
    again = ("train", "--resume", "pair", "--devices", "1")
    assert zoo(*again).is_one_line_error("global batch of 64", "trainer.devices=1", "add --set recipe.batch_size=64")
    assert zoo(*again, "--set", "recipe.batch_size=64").code == 0


def test_a_second_signal_ends_the_command_at_once_with_the_last_checkpoint() -> None:
    codes, printed = command(*COMMAND, "--name", "twice", sends=("twice", signal.SIGINT))
    assert codes == [130] and "\ninterrupted. To resume: zoo train --resume twice\n" in printed
    assert last("twice")["epoch"] == 0
