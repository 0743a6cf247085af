"""Run a search in this process, or in several that share the study while this one shows their progress."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import optuna
import torch

from zoo.core.errors import Interrupted, UserError, one_line
from zoo.core.signals import NUMBERS, stop
from zoo.registry.registry import Registry, scan
from zoo.studies.plan import Budget, Search
from zoo.studies.points import Worker, build_pruner, finished_points
from zoo.studies.progress import SearchProgress
from zoo.studies.study import StudyLocation, reopen, storage_errors_explained
from zoo.studies.trial import TrainingObjective, remove_checkpoints
from zoo.training import building

DEVICES = "CUDA_VISIBLE_DEVICES"
POLL_SECONDS = 0.5
STOP_SECONDS = 60  # that workers have to stop


def check_data_and_model(registry: Registry, search: Search) -> None:
    """Prepare the data and build the network at the ends of each range, to find errors before the search starts.

    Raises:
        UserError: of the data set or the model, or the data has no folds.
    """
    run = search.run(registry, {"data.validation": f"1/{search.folds}"} if search.folds > 1 else {})
    spec = building.build_data(registry, run).spec
    building.build_task(registry, run, spec)
    for dimension in search.space:
        for value in dimension.ends() if dimension.key.startswith("model.") else ():
            try:
                building.build_task(registry, search.run(registry, {dimension.key: value}), spec)
            except (ValueError, TypeError, RuntimeError) as error:
                raise UserError(f"{dimension.key}={value}: the network cannot be built: {one_line(error, 150)}") from error


def run_search(registry: Registry, study: optuna.Study, location: StudyLocation, search: Search, budget: Budget) -> None:
    """Run trials until the search is finished.

    Raises:
        Interrupted: on SIGTERM or Ctrl-C; finished trials are kept.
        UserError: a fault that the user can fix; likewise.
    """
    with stop.owned(), SearchProgress(study, search, budget.points) as progress:
        if budget.workers == 1:
            _work(registry, study, location, search, budget, progress)
        else:
            _run_processes(location, search, budget, progress)


def _work(
    registry: Registry,
    study: optuna.Study,
    location: StudyLocation,
    search: Search,
    budget: Budget,
    progress: SearchProgress | None,
) -> None:
    study.pruner = build_pruner(budget.pruner)

    def after_trial() -> None:
        remove_checkpoints(study, location)
        if progress:
            progress.update()
        parent = multiprocessing.parent_process()
        if parent is not None and not parent.is_alive():
            raise Interrupted  # nobody waits for the result

    with storage_errors_explained(location):
        Worker(study, location, search, budget.points).work(TrainingObjective(registry, location, search), after_trial)


# ---------------------------------------------------------------------------------------------- several processes


@dataclass
class _Process:
    """A worker process and the pipe on which it reports its error.

    A pool of ``concurrent.futures`` is no substitute: the command hung at its exit with one pool for each worker.
    """

    process: Any
    fault: Connection
    reported: bool = False


def _run_processes(location: StudyLocation, search: Search, budget: Budget, progress: SearchProgress) -> None:
    processes = [_start(number, location, search, budget) for number in range(budget.workers)]
    try:
        while any(each.process.is_alive() for each in processes):
            time.sleep(POLL_SECONDS)
            progress.update()
            for number, each in enumerate(processes):
                _check_worker(number, each, progress)
    except BaseException:
        _stop(processes)
        raise
    progress.update()
    if len(finished_points(progress.study, budget.points)) < budget.points:
        raise UserError("all workers were killed, perhaps out of memory: the same command continues, with fewer --workers")


def _check_worker(number: int, each: _Process, progress: SearchProgress) -> None:
    """Report the end of a worker, once.

    Raises:
        UserError: the error of the worker.
    """
    if each.reported or each.process.exitcode in (None, 0):
        return
    each.reported = True
    if each.fault.poll():
        try:
            raise UserError(each.fault.recv())
        except EOFError:
            pass  # it was killed
    if each.process.exitcode > 0:
        raise RuntimeError(f"worker {number} failed, see above")
    progress.say(f"worker {number} was killed (signal {-each.process.exitcode}): another one retries its trial")


def _stop(processes: list[_Process]) -> None:
    for each in processes:
        each.process.terminate()  # stops a run at its next step
    deadline = time.monotonic() + STOP_SECONDS
    try:
        for each in processes:
            each.process.join(max(0.1, deadline - time.monotonic()))
    finally:  # if late or interrupted again
        for each in processes:
            each.process.kill()


def _start(number: int, location: StudyLocation, search: Search, budget: Budget) -> _Process:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_worker, args=(location, search, budget, sender), name=f"zoo search worker {number}")
    devices = visible_devices() if search.base["trainer"]["devices"] == 1 else []
    with _inherited(devices[number % len(devices)] if devices else None):
        process.start()
    sender.close()
    return _Process(process, receiver)


@contextmanager
def _inherited(device: str | None) -> Iterator[None]:
    """Give a process that is started inside its GPU, and let it ignore the signals but for SIGTERM.

    They reach all processes of the group; the parent alone handles them and stops the workers.
    """
    ignored = [number for number in NUMBERS if number != signal.SIGTERM]
    handlers, devices = {number: signal.signal(number, signal.SIG_IGN) for number in ignored}, os.environ.get(DEVICES)
    if device is not None:
        os.environ[DEVICES] = device
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if devices is not None:
            os.environ[DEVICES] = devices
        else:
            os.environ.pop(DEVICES, None)


def _worker(location: StudyLocation, search: Search, budget: Budget, fault: Connection) -> None:
    """Main function of a process; exit code 0 when the work is done or stopped, 1 on an error."""
    torch.set_num_threads(max(1, torch.get_num_threads() // budget.workers))
    try:
        with stop.owned(is_command=True):
            _work(scan(budget.plugins), reopen(location), location, search, budget, None)
    except Interrupted:
        return
    except (UserError, OSError) as error:
        filename = getattr(error, "filename", None)
        fault.send(f"{filename}: {error.strerror.lower()}" if filename else one_line(error))
    except BaseException:
        traceback.print_exc()
    else:
        return
    sys.exit(1)


def visible_devices() -> list[str]:
    """The GPUs of this machine, named as in CUDA_VISIBLE_DEVICES, if there are several."""
    count, named = torch.cuda.device_count(), os.environ.get(DEVICES)
    names = named.split(",")[:count] if named else list(map(str, range(count)))
    return names if len(names) > 1 else []
