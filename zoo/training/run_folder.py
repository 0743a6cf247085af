"""The folder of one run: what lies where, how it is found by name, and how it is made without half of it."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from zoo.config.recipe import Run, read_config
from zoo.core.errors import UserError, one_line, unknown
from zoo.core.files import replace_file
from zoo.core.ranks import is_follower
from zoo.registry.registry import current_registry
from zoo.training.records import test_metrics

RUNS = Path("runs")
TRACES = ("run.yaml", "metrics.jsonl", "monitors.jsonl")  # what a run leaves behind, though it be half written
HANDED_ON = "ZOO_RUN_FOLDER"  # tells the processes that a launcher starts which folder rank zero has decided on


class RunFolder:
    """``run.yaml``, ``environment.json``, ``metrics.jsonl`` and ``checkpoints/{last,best}.ckpt`` of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run_file = path / "run.yaml"
        self.metrics_file = path / "metrics.jsonl"
        self.monitors_file = path / "monitors.jsonl"
        self.autopsy_file = path / "autopsy.pt"  # of a run whose numbers stopped being finite
        self.checkpoints = path / "checkpoints"
        self.last = self.checkpoints / "last.ckpt"
        self.best = self.checkpoints / "best.ckpt"

    @property
    def name(self) -> str:
        """What a user types to name this run: the folder's name if it is under ``runs/``, else its path, quoted for a shell."""
        return shlex.quote(self.path.name if self.path.parent == RUNS else str(self.path))

    @classmethod
    def claim(cls, name: str | None, run: Run) -> RunFolder:
        """An empty folder for a new run, made now so that no other run can have it.

        Raises:
            UserError: the name is taken or no name at all, or the folder cannot be made.
        """
        if is_follower():
            if name is None and HANDED_ON not in os.environ:
                raise UserError("several launched processes must agree on one folder: give the run a name with --name")
            return cls(Path(os.environ.get(HANDED_ON) or RUNS / name))
        if name is not None and (Path(name).name != name or name.startswith(".") or not name):
            raise UserError(f"--name {name!r}: must be a plain name, without folders and without a dot in front")
        if name is None and run.trainer.num_nodes > 1:
            raise UserError("processes on several machines must agree on one folder: give the run a name with --name")
        stem = name or f"{run.network}-{run.data['name']}"
        for number in itertools.count(1):
            path = RUNS / (stem if number == 1 else f"{stem}-{number}")
            try:
                path.mkdir(parents=True)
                return cls(path)
            except FileExistsError:
                if name is not None:
                    raise UserError(
                        f"run {name!r} exists: go on with `zoo train --resume {name}`, or choose another --name"
                    ) from None
            except OSError as error:
                cls(path).abandon()
                raise UserError(f"{path} cannot be made: {error.strerror.lower()}") from None

    def abandon(self) -> None:
        """Give a claimed folder up again, before anything was trained."""
        shutil.rmtree(self.path, ignore_errors=True)
        with suppress(OSError):  # other runs are in it
            RUNS.rmdir()

    @classmethod
    def find(cls, text: str, proofs: Sequence[str] = ("run.yaml",)) -> RunFolder:
        """The run of that name or path, whose plugin files are read.

        Args:
            proofs: the files any of which makes a folder a run; ``TRACES`` for those who show what is left of one.

        Raises:
            UserError: there is none, or a plugin file is missing.
        """
        for path in (RUNS / text, Path(text)):
            if any((path / proof).is_file() for proof in proofs):
                found = cls(path)
                plugins: Sequence[str] = ()
                with suppress(UserError):  # a damaged run.yaml is reported by those who need it
                    plugins = read_config(found.run_file).get("plugins") or ()
                current_registry().add_plugins_of(f"run {found.name}", plugins)
                return found
        for path in (RUNS / text, Path(text)):
            if path.exists():
                raise UserError(f"{path} is not a run: it holds no {' and no '.join(proofs)}")
        known = known_runs()
        raise unknown("run", text, known, "known are " + ", ".join(known) if known else "there is none in runs/ yet")

    def describe(self, run: Run, environment: dict[str, Any]) -> None:
        """Write ``run.yaml`` and ``environment.json``: from now on it is a run that can be resumed.

        Raises:
            OSError: the disk is full, or the folder cannot be written.
        """
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        replace_file(self.path / "environment.json", json.dumps(environment, indent=2).encode())
        replace_file(self.run_file, run.to_yaml().encode())

    @contextmanager
    def given_up_unless_started(self, is_new: bool) -> Iterator[Callable[[], None]]:
        """Leave no folder of a new run behind that failed before its first step; the value is called when it starts."""
        can_go = []
        try:
            yield lambda: can_go.append(True)
        except BaseException:
            if is_new and not can_go and not is_follower():
                self.abandon()
            raise

    @contextmanager
    def handed_on(self) -> Iterator[None]:
        """Tell the processes that a launcher starts from here which folder it is."""
        os.environ[HANDED_ON] = str(self.path)
        try:
            yield
        finally:
            os.environ.pop(HANDED_ON, None)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Inside, no other command can train this run; the lock of a process that was killed is gone with it.

        Raises:
            UserError: another one does.
        """
        if is_follower():  # its leader has the lock
            yield
            return
        try:
            with FileLock(self.path / ".lock", blocking=False):
                yield
        except Timeout:
            raise UserError(f"run {self.name} is being trained by another process: wait for it, or start a new run") from None

    def checkpoint(self, which: str) -> Path:
        """The file of the checkpoint ``best`` or ``last``.

        Raises:
            UserError: neither of these, or the run has none yet.
        """
        files = {"best": self.best, "last": self.last}
        if which not in files:
            raise unknown("checkpoint", which, files)
        if not files[which].exists():
            if self.autopsy_file.exists():
                told = f"as its numbers stopped being finite before one was saved: zoo autopsy {self.name}"
            elif test_metrics(self.metrics_file):
                told = f"though it was finished, so the file is gone: zoo train --resume {self.name} trains it anew"
            else:
                told = f"yet: zoo train --resume {self.name}"
            raise UserError(f"run {self.name} has no {files[which].name} {told}")
        return files[which]

    def broke_after(self, last: float) -> bool:
        """Whether its numbers stopped being finite, and nothing was recorded since; ``last`` is the time of the last record."""
        return self.autopsy_file.exists() and self.autopsy_file.stat().st_mtime >= last

    def read_run(self) -> Run:
        """The Run as it was resolved when it started."""
        try:
            return Run(**read_config(self.run_file))
        except UserError as error:
            raise UserError(str(error).removeprefix("--config ")) from None
        except ValueError as error:
            raise UserError(f"{self.run_file} is damaged: {one_line(error, 200)}") from None


def known_runs() -> list[str]:
    """The names of the runs under ``runs/``."""
    return sorted(path.parent.name for path in RUNS.glob("*/run.yaml"))


@contextmanager
def temporary_runs() -> Iterator[None]:
    """Inside, new runs are made in a temporary folder that is gone afterwards: for trainings of which only the result counts."""
    global RUNS
    former = RUNS
    with tempfile.TemporaryDirectory() as folder:
        RUNS = Path(folder)
        try:
            yield
        finally:
            RUNS = former
