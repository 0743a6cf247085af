"""A search from start to end: in this process, or by several that share the study while this one shows how far they are."""

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

from zoo.core.errors import UserError, one_line
from zoo.registry.registry import Registry, scan
from zoo.search.plan import Effort, Search
from zoo.search.points import Worker, build_pruner, points_over
from zoo.search.progress import SearchProgress
from zoo.search.study import Place, faults_explained, reopen
from zoo.search.trial import TrainingObjective, drop_checkpoints
from zoo.training import building
from zoo.training.checkpoints import Interrupted

DEVICES = "CUDA_VISIBLE_DEVICES"
POLL_SECONDS = 0.5
STOP_SECONDS = 60  # that workers have to end in when asked to


def check_data_and_model(registry: Registry, search: Search) -> None:
    """Bring the data here and build the network at the ends of each range, so that what is wrong is told before anything starts.

    Raises:
        UserError: what the data set or the model says, or that the data has no folds.
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


def run_search(registry: Registry, study: optuna.Study, place: Place, search: Search, effort: Effort) -> None:
    """Try points until as many are over as were asked for.

    Raises:
        Interrupted: asked to stop; every finished trial is kept.
        UserError: a fault that the user can put right; likewise.
    """
    with SearchProgress(study, search, effort.points) as progress, _stopped_by_signals():
        if effort.workers == 1:
            _work(registry, study, place, search, effort, progress)
        else:
            _run_processes(place, search, effort, progress)


def _work(
    registry: Registry, study: optuna.Study, place: Place, search: Search, effort: Effort, progress: SearchProgress | None
) -> None:
    study.pruner = build_pruner(effort.pruner)

    def after_trial() -> None:
        drop_checkpoints(study, place)
        if progress:
            progress.update()
        parent = multiprocessing.parent_process()
        if parent is not None and not parent.is_alive():
            raise Interrupted  # nobody would see what comes of it

    with faults_explained(place):
        Worker(study, place, search, effort.points).work(TrainingObjective(registry, place, search), after_trial)


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Between trainings, which listen for themselves, SIGTERM is as good as Ctrl-C, and both end the search cleanly."""

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    former = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted from None
    finally:
        signal.signal(signal.SIGTERM, former)


# ---------------------------------------------------------------------------------------------- several processes


@dataclass
class _Process:
    """A worker's process and the end of the pipe on which it says what went wrong."""

    process: Any
    fault: Connection
    told: bool = False


def _run_processes(place: Place, search: Search, effort: Effort, progress: SearchProgress) -> None:
    processes = [_start(number, place, search, effort) for number in range(effort.workers)]
    try:
        while any(each.process.is_alive() for each in processes):
            time.sleep(POLL_SECONDS)
            progress.update()
            for number, each in enumerate(processes):
                _look_after(number, each, progress)
    except BaseException:
        _stop(processes)
        raise
    progress.update()
    if len(points_over(progress.study, effort.points)) < effort.points:
        raise UserError("all workers were killed, for want of memory perhaps: the same command goes on, with fewer --workers")


def _look_after(number: int, each: _Process, progress: SearchProgress) -> None:
    """Hand on what ended a worker, once.

    Raises:
        UserError: what the worker says.
    """
    if each.told or each.process.exitcode in (None, 0):
        return
    each.told = True
    if each.fault.poll():
        try:
            raise UserError(each.fault.recv())
        except EOFError:
            pass  # it was killed
    if each.process.exitcode > 0:
        raise RuntimeError(f"worker {number} failed, as told above")
    progress.say(f"worker {number} was killed (signal {-each.process.exitcode}): its trial is tried again by the others")


def _stop(processes: list[_Process]) -> None:
    for each in processes:
        each.process.terminate()  # which ends a training at its next step
    deadline = time.monotonic() + STOP_SECONDS
    try:
        for each in processes:
            each.process.join(max(0.1, deadline - time.monotonic()))
    finally:  # late, or interrupted again
        for each in processes:
            each.process.kill()


def _start(number: int, place: Place, search: Search, effort: Effort) -> _Process:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_worker, args=(place, search, effort, sender), name=f"zoo search worker {number}")
    devices = visible_devices() if search.base["trainer"]["devices"] == 1 else []
    with _inherited(devices[number % len(devices)] if devices else None):
        process.start()
    sender.close()
    return _Process(process, receiver)


@contextmanager
def _inherited(device: str | None) -> Iterator[None]:
    """What a process that is started inside has from its first moment: its GPU, and no ear for Ctrl-C.

    Ctrl-C reaches the whole group of processes; the workers leave it to this one, which asks them to stop.
    """
    handler, devices = signal.signal(signal.SIGINT, signal.SIG_IGN), os.environ.get(DEVICES)
    if device is not None:
        os.environ[DEVICES] = device
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if devices is not None:
            os.environ[DEVICES] = devices
        else:
            os.environ.pop(DEVICES, None)


def _worker(place: Place, search: Search, effort: Effort, fault: Connection) -> None:
    """What one process does; it ends with 0 when all is done or it was asked to stop, and with 1 at a fault."""
    torch.set_num_threads(max(1, torch.get_num_threads() // effort.workers))
    try:
        with _stopped_by_signals():
            _work(scan(effort.plugins), reopen(place), place, search, effort, None)
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
    """The GPUs of this machine by the names that CUDA_VISIBLE_DEVICES takes, if there are several."""
    count, named = torch.cuda.device_count(), os.environ.get(DEVICES)
    names = named.split(",")[:count] if named else list(map(str, range(count)))
    return names if len(names) > 1 else []
