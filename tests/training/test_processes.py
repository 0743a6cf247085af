"""Processes of a run find each other or say why not, and none is left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from zoo.core.errors import Failure, Interrupted
from zoo.core.signals import stop
from zoo.training import processes
from zoo.training.trainer import arrange_buckets

PROGRAM = "from zoo.__main__ import main; main()"
LAUNCH = ["train", "mlp", "--name", "pair", "--devices", "2", "--accelerator", "cpu", "--epochs", "100000"]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def strategy(rank: int, seconds: float) -> SimpleNamespace:
    """As much of a strategy of two machines as is asked before the process group is formed."""
    environment = SimpleNamespace(main_address="127.0.0.1", main_port=free_port())
    return SimpleNamespace(
        set_world_ranks=lambda: None, cluster_environment=environment, _timeout=timedelta(seconds=seconds), global_rank=rank,
        world_size=2, local_rank=0, num_processes=1, num_nodes=2, root_device=torch.device("cpu"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("rank", "missing"), [(0, "1 of 2 processes (nodes 1 of 2), at 127.0.0.1:"), (1, "the first process, at 127.0.0.1:")]
)
def test_a_machine_that_never_comes_is_waited_for_in_words_and_for_a_limited_time(
    rank: int, missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(processes, "QUIET_SECONDS", 0.1)
    with pytest.raises(Failure, match="trainer.timeout_minutes") as failure:
        processes.connect_processes(strategy(rank, 0.4))
    assert missing in str(failure.value)
    assert capsys.readouterr().err.count(f"waiting for {missing}") == 1


def test_a_loader_that_loses_a_worker_to_a_signal_is_interrupted_and_to_a_fault_is_not() -> None:
    lost = RuntimeError("DataLoader worker (pid 7) is killed by signal: Terminated. ")
    trainer = SimpleNamespace(world_size=1, strategy=SimpleNamespace(launcher=None))
    with pytest.raises(Interrupted), processes.supervised(trainer), stop.raising(None):
        os.kill(os.getpid(), signal.SIGTERM)
        raise lost
    with pytest.raises(RuntimeError, match="pid 7"), processes.supervised(trainer):
        raise lost


def test_a_process_that_ends_before_it_comes_is_not_waited_for() -> None:
    started = time.monotonic()
    with pytest.raises(torch.distributed.DistError) as error:
        processes.connect_processes(strategy(0, 60.0), lambda: {1: -signal.SIGTERM})
    assert time.monotonic() - started < 5 and processes._is_loss(error.value)


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ((), "MASTER_ADDR, MASTER_PORT, NODE_RANK not set"),
        (("MASTER_ADDR", "NODE_RANK"), "trainer.num_nodes=2: MASTER_PORT not set"),
    ],
)
def test_missing_variables_of_a_launcher_are_named_at_once(zoo, monkeypatch, given: tuple[str, ...], missing: str) -> None:
    for name in given:
        monkeypatch.setenv(name, "0")
    assert zoo("train", "mlp", "--nodes", "2", "--name", "wide").is_one_line_error(missing, "srun or torchrun")
    assert not Path("runs").exists()


def test_a_machine_beyond_the_last_is_refused_and_any_machine_tells_its_errors(zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "NODE_RANK": "2"}.items():
        monkeypatch.setenv(name, value)
    wide = ("--nodes", "2", "--name", "wide")
    assert zoo("train", "mlp", *wide).is_one_line_error("NODE_RANK=2: must be below --nodes (trainer.num_nodes=2)")
    monkeypatch.setenv("NODE_RANK", "1")
    assert zoo("train", "mpl", *wide).is_one_line_error("no model 'mpl'")
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    "name", ["ddp_spawn", "ddp_fork", "ddp_notebook", "fsdp", "deepspeed", "deepspeed_stage_3", "xla", "single_device"]
)
def test_a_strategy_that_does_not_work_is_refused(zoo, name: str) -> None:
    answer = zoo("train", "mlp", "--devices", "2", "--accelerator", "cpu", "--strategy", name)
    assert answer.is_one_line_error("no strategy (trainer.strategy)", repr(name)) and not Path("runs").exists()


def test_batch_norm_is_not_synchronized_on_cpus(zoo) -> None:
    arguments = ("train", "resnet20", "--devices", "2", "--accelerator", "cpu", "--set", "trainer.sync_batchnorm=true")
    assert zoo(*arguments).is_one_line_error("trainer.sync_batchnorm=true", "GPUs") and not Path("runs").exists()


def test_gradient_buckets_are_arranged_before_the_first_step_without_a_trace() -> None:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Dropout())
        before, random = {key: value.clone() for key, value in network.state_dict().items()}, torch.get_rng_state()
        model = DistributedDataParallel(network)
        arrange_buckets(model)
        assert all(parameter.grad is None for parameter in network.parameters())
        assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
        assert torch.equal(random, torch.get_rng_state())
        model(torch.ones(4, 3)).sum().backward()
        assert model._has_rebuilt_buckets
        assert all(parameter.grad is not None for parameter in network.parameters())
    finally:
        distributed.destroy_process_group()


def launched(act: Callable[[subprocess.Popen], None], *settings: str) -> tuple[int, str, list[int]]:
    """Train in two processes until they have saved, act, and wait: exit code, standard error, processes that are left."""
    Path("zoo_command.py").write_text(PROGRAM)
    started = subprocess.Popen(
        [sys.executable, "zoo_command.py", *LAUNCH, *settings], stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    while not Path("runs/pair/checkpoints/last.ckpt").exists() and started.poll() is None:
        time.sleep(0.2)
    act(started)
    try:
        error = started.communicate(timeout=180)[1]
    finally:
        left = subprocess.run(["pgrep", "-s", str(started.pid)], capture_output=True, text=True).stdout.split()
        for process in left:
            os.kill(int(process), signal.SIGKILL)
    return started.returncode, error, left


def other(launcher: subprocess.Popen) -> int:
    return int(subprocess.run(["pgrep", "-P", str(launcher.pid), "-f", "zoo_command"], capture_output=True, text=True).stdout)


@pytest.mark.slow
@pytest.mark.parametrize(
    "act",
    [
        lambda launcher: launcher.terminate(),
        lambda launcher: os.kill(other(launcher), signal.SIGUSR1),
        lambda launcher: os.killpg(launcher.pid, signal.SIGINT),
    ],
    ids=["launcher", "other", "group"],
)
def test_a_signal_to_any_launched_process_stops_all(act: Callable[[subprocess.Popen], None]) -> None:
    code, error, left = launched(act)
    lines = [line for line in error.splitlines() if "interrupted" in line]
    assert (code, lines, left) == (130, ["interrupted, and saved. To continue: zoo train --resume pair"], []), error
    assert "Traceback" not in error


@pytest.mark.slow
def test_the_loss_of_a_process_is_one_line_and_ends_the_others() -> None:
    code, error, left = launched(lambda launcher: os.kill(other(launcher), signal.SIGKILL))
    assert (code, left) == (1, []), error
    assert "error: process 1 of 2 was killed by SIGKILL. To resume: zoo train --resume pair\n" in error
    assert "Traceback" not in error and "gloo" not in error


@pytest.mark.slow
def test_a_process_that_no_longer_answers_is_waited_for_in_words_and_for_a_limited_time() -> None:
    code, error, left = launched(
        lambda launcher: os.kill(other(launcher), signal.SIGSTOP), "--set", "trainer.timeout_minutes=0.4", "--set",
        "trainer.monitor_every_n_steps=0",
    )  # fmt: skip
    assert (code, left) == (1, []), error
    assert "no batch has ended for 12 seconds" in error and "To resume: zoo train --resume pair\n" in error
    assert "Traceback" not in error
