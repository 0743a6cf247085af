"""The processes of a run: how they find each other, what is said while they wait, and what happens if one is lost."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from typing import Any

import lightning as L
from lightning.fabric.utilities.distributed import _set_num_threads_if_needed
from lightning.pytorch.strategies import ParallelStrategy
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from torch import distributed

from zoo.core.errors import Failure, Interrupted, UserError
from zoo.core.signals import NUMBERS, Stopped, stop
from zoo.training.stopping import Stopping

QUIET_SECONDS = 10.0  # before it is said what is waited for
STALL_SECONDS = 30.0  # between two batches, before it is said
POLL_SECONDS = 0.05
END_SECONDS = 10.0  # that a process has to end after another one
LOST = re.compile(r"gloo|NCCL|[Cc]onnection (closed|reset|refused)|Broken pipe|Timed out|Socket Timeout")
MANAGERS = ("SLURM_NTASKS", "TORCHELASTIC_RUN_ID", "LSB_JOBID", "KUBERNETES_PORT")  # any of which says where all machines are
LOST_WORKER = re.compile(r"DataLoader worker .*(killed by signal|exited unexpectedly)")
UNKNOWN_LOSS = "another process ended, or cannot be reached"
INTERRUPTED = {130, *(-number for number in NUMBERS)}  # exit codes


@contextmanager
def supervised(trainer: L.Trainer) -> Iterator[None]:
    """Run Lightning inside, so that neither a signal nor the loss of a process ends in anything but its exception.

    Raises:
        Interrupted: by a signal to this process, or to one that it has started.
        Failure: another process was lost.
        UserError: a model, data set or callback ended the program, which would look like the end of the command.
    """
    launcher, error, is_done, ended = trainer.strategy.launcher, None, False, threading.Event()
    if trainer.world_size > 1 and trainer.local_rank == 0:
        threading.Thread(target=_report_stalls, args=(trainer, ended), name="stalls", daemon=True).start()
    try:
        with stop.owned(), stop.raising(Stopped):
            yield
        is_done = True
    except Stopped:
        error = Interrupted()
    except SystemExit as caught:
        if isinstance(caught.__context__, KeyboardInterrupt):  # which Lightning turns into one
            error = Interrupted()
        else:
            error = UserError(f"a model, data set or callback called sys.exit({caught.code!r})")
    except RuntimeError as caught:
        if stop.requested and LOST_WORKER.search(str(caught)):  # a signal to the group, which ends workers of a DataLoader first
            error = Interrupted()
        elif trainer.world_size == 1 or not _is_loss(caught):
            raise
        else:
            error = launcher.loss() if isinstance(launcher, Launcher) else Failure(UNKNOWN_LOSS)
    finally:
        ended.set()
        if isinstance(launcher, Launcher):
            launcher.close(is_done)
    if error is not None:
        raise error


def _report_stalls(trainer: L.Trainer, ended: threading.Event) -> None:
    """Say, once each time, that no batch has ended for long, as when the network between two machines is cut."""
    limit = trainer.strategy._timeout.total_seconds()
    seconds, reported = min(STALL_SECONDS, limit / 2), 0.0
    agreements = [callback.agreement for callback in trainer.callbacks if isinstance(callback, Stopping)]
    while agreements and not ended.wait(seconds / 10):
        last = max(agreement.called_at for agreement in agreements)
        if last != reported and agreements[0].batch and time.monotonic() - last > seconds:
            reported = last
            line = f"no batch has ended for {seconds:g} seconds; other processes are waited for at most {limit / 60:g} minutes"
            print(line, file=sys.stderr, flush=True)


def _is_loss(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, distributed.DistError) or LOST.search(str(error)):
            return True
        error = error.__context__
    return False


def require_launcher(num_nodes: int) -> None:
    """Refuse several machines that cannot find each other.

    Raises:
        UserError: names the variables that are missing, or the number of a machine that is too high.
    """
    node = next((name for name in ("NODE_RANK", "GROUP_RANK") if os.environ.get(name)), "")
    if node and int(os.environ[node]) >= num_nodes:
        raise UserError(
            f"the environment variable {node}={os.environ[node]}: must be below --nodes (trainer.num_nodes={num_nodes})"
        )
    if num_nodes == 1 or any(name in os.environ for name in MANAGERS):
        return
    needed = {"MASTER_ADDR": "MASTER_ADDR", "MASTER_PORT": "MASTER_PORT", "NODE_RANK": "GROUP_RANK"}
    if missing := [name for name, other in needed.items() if not {name, other} & set(os.environ)]:
        raise UserError(
            f"trainer.num_nodes={num_nodes}: {', '.join(missing)} not set: set MASTER_ADDR, MASTER_PORT and NODE_RANK on every "
            "machine, or start the command with srun or torchrun"
        )


def manage_processes(trainer: L.Trainer, timeout_minutes: float) -> None:
    """Connect and supervise the processes of a Trainer in our way, if it has several."""
    strategy = trainer.strategy
    if not isinstance(strategy, ParallelStrategy):
        return
    strategy._timeout = timedelta(minutes=timeout_minutes)
    connect = strategy.setup_environment

    def setup_environment() -> None:
        launcher = strategy.launcher
        connect_processes(strategy, launcher.failed if isinstance(launcher, Launcher) else dict)
        connect()  # finds a process group and takes it

    strategy.setup_environment = setup_environment
    if isinstance(strategy.launcher, _SubprocessScriptLauncher):
        strategy._launcher = Launcher(strategy.cluster_environment, strategy.num_processes, strategy.num_nodes)


# ---------------------------------------------------------------------------------------------- finding each other


def connect_processes(strategy: ParallelStrategy, failed: Callable[[], dict[int, int]] = dict) -> None:
    """Form the process group, and say after some seconds what is waited for.

    torch does the same without a word and without listening to signals.

    Args:
        failed: the processes that this one has started and that have ended since.

    Raises:
        Failure: not all processes came in time.
        DistError: one of those has failed.
    """
    if distributed.is_initialized():
        return
    strategy.set_world_ranks()
    environment, timeout = strategy.cluster_environment, strategy._timeout
    address, port, rank, world = environment.main_address, environment.main_port, strategy.global_rank, strategy.world_size
    place, here = f"{address}:{port}", strategy.local_rank == 0
    wait = partial(_wait, limit=timeout.total_seconds(), is_heard=here, failed=failed)
    serves = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"  # torchrun's own process does
    if not serves:
        wait(lambda: _answers(address, port), lambda: f"the first process, at {place}")
    store: Any = distributed.TCPStore(address, port, is_master=serves, timeout=timeout, wait_for_workers=False, multi_tenant=True)
    store = distributed.PrefixStore(f"zoo/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    store.set(f"come/{rank}", "")
    store.add("come", 1)

    def missing() -> str:
        ranks = [each for each in range(world) if not store.check([f"come/{each}"])]
        nodes = sorted({each // strategy.num_processes for each in ranks})
        of_nodes = f" (nodes {', '.join(map(str, nodes))} of {strategy.num_nodes})" if strategy.num_nodes > 1 else ""
        return f"{len(ranks)} of {world} processes{of_nodes}, at {place}"

    wait(lambda: store.add("come", 0) >= world, missing)
    device = strategy.root_device
    distributed.init_process_group(
        strategy._get_process_group_backend(), store=store, rank=rank, world_size=world, timeout=timeout,
        device_id=None if device.type == "cpu" else device,
    )  # fmt: skip


def _wait(
    is_over: Callable[[], bool], what: Callable[[], str], limit: float, is_heard: bool, failed: Callable[[], dict[int, int]]
) -> None:
    start, said = time.monotonic(), False
    while not is_over():
        if failed():
            raise distributed.DistError(UNKNOWN_LOSS)
        waited = time.monotonic() - start
        if waited > limit:
            raise Failure(f"waited {limit / 60:g} minutes (trainer.timeout_minutes) in vain for {what()}")
        if waited > QUIET_SECONDS and not said and is_heard:
            print(f"waiting for {what()}", file=sys.stderr, flush=True)
            said = True
        time.sleep(POLL_SECONDS)


def _answers(address: str, port: int) -> bool:
    with suppress(OSError), socket.create_connection((address, port), timeout=1):
        return True
    return False


# ---------------------------------------------------------------------------------------------- staying together


class Launcher(_SubprocessScriptLauncher):
    """Starts the other processes of this machine, and ends them and this one if one of them fails.

    Lightning's would kill this process with SIGKILL, and leave the others running if this one fails.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.closed = threading.Event()

    def launch(self, function: Callable[..., Any], *args: Any, trainer: Any = None, **kwargs: Any) -> Any:
        self.cluster_environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        self.closed.clear()
        if not self.cluster_environment.creates_processes_externally:
            self._call_children_scripts()
            stop.children = self.procs
        if self.procs:
            threading.Thread(target=self._watch, name="processes", daemon=True).start()
        _set_num_threads_if_needed(num_processes=self.num_processes)
        return function(*args, **kwargs)

    def failed(self) -> dict[int, int]:
        """Exit code by rank of the processes that failed or were stopped."""
        return {rank: process.poll() for rank, process in enumerate(self.procs, 1) if process.poll()}

    def loss(self) -> Interrupted | Failure:
        """What the exit codes say about a lost process."""
        deadline = time.monotonic() + 1  # a connection ends before its process
        while not (failed := self.failed()) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        if not failed:
            return Failure(UNKNOWN_LOSS)
        if set(failed.values()) <= INTERRUPTED:
            return Interrupted()
        rank, code = next((rank, code) for rank, code in failed.items() if code not in INTERRUPTED)
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return Failure(f"process {rank} of {self.num_processes} {how}")

    def close(self, is_done: bool) -> None:
        """Stop watching, and end the other processes unless the work is done."""
        self.closed.set()
        if is_done:
            return
        for process in self.procs:
            process.terminate()
        deadline = time.monotonic() + END_SECONDS
        for process in self.procs:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _watch(self) -> None:
        """End this process with those that failed, where it does not find out by itself."""
        while not self.closed.wait(10 * POLL_SECONDS):
            if self.failed():
                if not self.closed.wait(END_SECONDS):
                    error = self.loss()
                    code = 130 if isinstance(error, Interrupted) else 1
                    stop.end(code, "interrupted" if code == 130 else f"error: {error}")
                return
