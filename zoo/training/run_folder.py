"""The folder of a run: its files, how it is found by name, and how it is created."""

from __future__ import annotations

import fnmatch
import itertools
import json
import os
import shlex
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from contextvars import ContextVar
from pathlib import Path
from threading import Event
from typing import Any

from filelock import FileLock, Timeout
from pydantic import ValidationError

from zoo.config.run import Run
from zoo.config.settings import read_config
from zoo.core.errors import UserError, one_line, some, unknown
from zoo.core.files import PLAIN_NAME, expanded, is_plain_name, making_folder, replace_file
from zoo.core.json_lines import read_json_lines
from zoo.core.printing import is_utf8
from zoo.core.ranks import is_follower
from zoo.registry.registry import current_registry
from zoo.training.records import Metrics
from zoo.training.trained_models import KIND, trained_models

RUNS = Path("runs")  # where new runs go by default
RUNS_VARIABLE = "ZOO_RUNS"
_chosen: ContextVar[Path | None] = ContextVar("runs", default=None)
LOCK = ".lock"
LOCK_SECONDS = 0.5  # a moment: whoever lists the runs may be asking whether this one is locked
RUN_FILES = ("run.yaml", "metrics.jsonl", "monitors.jsonl")  # any of which a run leaves behind
FOLDER_VARIABLE = "ZOO_RUN_FOLDER"  # the folder that rank zero has created, for launched processes


def default_runs() -> Path:
    """The folder of runs: that of ``ZOO_RUNS``, or ``runs`` in the current folder."""
    return Path(os.environ.get(RUNS_VARIABLE) or RUNS)


def runs_folder() -> Path:
    """The folder in which new runs are created and runs are found by name."""
    return _chosen.get() or default_runs()


@contextmanager
def runs_in(folder: str | Path | None) -> Iterator[None]:
    """Create and find runs in another folder inside; None keeps the present one."""
    token = _chosen.set(expanded(folder) if folder else _chosen.get())
    try:
        yield
    finally:
        _chosen.reset(token)


class RunFolder:
    """``run.yaml``, ``environment.json``, ``metrics.jsonl`` and ``checkpoints/{last,best}.ckpt`` of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.made: list[Path] = []  # the folders above it that were made for it
        self.run_file = path / "run.yaml"
        self.metrics_file = path / "metrics.jsonl"
        self.monitors_file = path / "monitors.jsonl"
        self.autopsy_file = path / "autopsy.pt"  # of a run with a non-finite loss or gradient
        self.checkpoints = path / "checkpoints"
        self.last = self.checkpoints / "last.ckpt"
        self.best = self.checkpoints / "best.ckpt"

    @property
    def name(self) -> str:
        """The run's name on the command line: the folder's name if commands find it so, else its path, quoted for a shell."""
        return shlex.quote(self.path.name if self.path.parent == default_runs() else str(self.path))

    @classmethod
    def claim(cls, name: str | None, run: Run) -> RunFolder:
        """Create the folder of a new run; that of a trial of a W&B sweep is by default named after the trial.

        Raises:
            UserError: the name is taken or invalid, or the folder cannot be created.
        """
        name = trial_name(run) if name is None else name
        if is_follower():
            if name is None and FOLDER_VARIABLE not in os.environ:
                raise UserError("several launched processes must agree on one folder: give the run a name with --name")
            return cls(Path(os.environ.get(FOLDER_VARIABLE) or runs_folder() / name))
        if name is not None and not is_plain_name(name):
            raise UserError(f"--name {name!r}: {PLAIN_NAME}")
        for key in ("weights", "teacher"):
            is_other = key == "weights" and (name == "pretrained" or (name and expanded(name).is_file()))
            if name and name == getattr(run.recipe, key) and not is_other:
                raise UserError(f"--name {name}: recipe.{key}={name} would mean the new run itself: choose another --name")
        if name is None and run.trainer.num_nodes > 1:
            raise UserError("processes on several machines must agree on one folder: give the run a name with --name")
        if not is_utf8(str(runs_folder())):
            raise UserError(f"{runs_folder()}: the path of a run must be UTF-8: choose another --runs-dir")
        stem = name or f"{run.network}-{run.data['name']}"
        for number in itertools.count(1):
            folder = cls(runs_folder() / (stem if number == 1 else f"{stem}-{number}"))
            path = folder.path
            folder.made = [each for each in path.parents if not each.exists()]
            try:
                with making_folder(path.parent):
                    path.mkdir(parents=True)  # another run that failed at once may just have removed the folder above
                return folder
            except FileExistsError:
                if name is None:
                    continue
                if (taken := cls(path)).is_left_over():
                    return taken
                if not taken.run_file.is_file():
                    raise UserError(f"{path} exists and is no run: choose another --name") from None
                raise UserError(
                    f"run {name!r} exists: resume it with `zoo train --resume {taken.name}`, or choose another --name"
                ) from None
            except OSError as error:
                raise UserError(f"{path} cannot be created: {error.strerror.lower()}") from None

    def is_left_over(self) -> bool:
        """Whether the folder is what a training leaves that was killed before its first step: nothing that could be lost."""
        return self.path.is_dir() and {each.name for each in self.path.iterdir()} <= {LOCK}

    def has_ended_an_epoch(self) -> bool:
        """Whether an epoch has ended, after which there are metrics; not known if its checkpoints were lost, too."""
        return self.best.exists()

    def remove(self) -> None:
        """Remove the folder again, before anything was trained."""
        shutil.rmtree(self.path, ignore_errors=True)
        for folder in self.made:
            with suppress(OSError):  # other runs are in it
                folder.rmdir()

    @classmethod
    def find(cls, text: str, proofs: Sequence[str] = ("run.yaml",), others: Iterable[str] = ()) -> RunFolder:
        """The run of that name or path, whose plugin files are read.

        Args:
            proofs: files, any of which makes a folder a run; ``RUN_FILES`` to include damaged ones, and those that lack a plugin.
            others: names that could be given in its place, for the hint at the nearest.

        Raises:
            UserError: there is none, or a plugin file is missing.
        """
        places = (runs_folder() / text, expanded(text))
        for path in places:
            if any((path / proof).is_file() for proof in proofs):
                found = cls(path)
                plugins: Any = ()
                with suppress(UserError):  # a damaged run.yaml is reported by those who need it
                    plugins = read_config(found.run_file).get("plugins") or ()
                if isinstance(plugins, (list, tuple)) and all(isinstance(plugin, str) for plugin in plugins):
                    with suppress(UserError) if proofs == RUN_FILES else nullcontext():
                        current_registry().add_plugins_of(f"run {found.name}", plugins)
                return found
        for path in places:
            if path.exists():
                free = f"; a training that was killed before its first step left it: start again with --name {cls(path).name}"
                left = free if path.parent == runs_folder() and cls(path).is_left_over() else ""
                raise UserError(f"{path} is not a run: it holds no {' and no '.join(proofs)}{left}")
        if model := trained_models().get(text):
            raise UserError(f"{text} is {KIND}, without the records of a run{model.remedy}")
        known = known_runs()
        choice = f"choose from {some(known, 20)}" if known else f"there is none in {runs_folder()}/ yet"
        raise unknown("run", text, [*known, *others], choice)

    def describe(self, run: Run, environment: dict[str, Any]) -> None:
        """Write ``run.yaml`` and ``environment.json``, after which the run can be resumed.

        Raises:
            OSError: the disk is full, or the folder cannot be written.
        """
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        replace_file(self.path / "environment.json", json.dumps(environment, indent=2).encode())
        replace_file(self.run_file, run.to_yaml().encode())

    @contextmanager
    def removed_unless_started(self, is_new: bool) -> Iterator[Event]:
        """Remove the folder of a new run that fails before its first step has ended, of which the event is told.

        It is kept if an autopsy of that step was written.
        """
        started = Event()
        try:
            yield started
        except BaseException:
            if is_new and not started.is_set() and not is_follower() and not self.autopsy_file.exists():
                self.remove()
            raise

    @contextmanager
    def passed_on(self) -> Iterator[None]:
        """Pass the folder on to launched processes."""
        os.environ[FOLDER_VARIABLE] = str(self.path)
        try:
            yield
        finally:
            os.environ.pop(FOLDER_VARIABLE, None)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from training this run; the lock of a killed process is released.

        Raises:
            UserError: another process is training it.
        """
        if is_follower():  # rank zero has the lock
            yield
            return
        try:
            with FileLock(self.path / LOCK, timeout=LOCK_SECONDS):
                yield
        except Timeout:
            raise UserError(f"run {self.name} is being trained by another process: wait for it, or start a new run") from None

    def is_locked(self) -> bool:
        """Whether a process is training this run."""
        if not (self.path / LOCK).is_file():
            return False
        try:
            with FileLock(self.path / LOCK, blocking=False):
                return False
        except (Timeout, OSError):
            return True

    def checkpoint(self, which: str) -> Path:
        """Path of the checkpoint ``best`` or ``last``.

        Raises:
            UserError: another name, or the run has none yet.
        """
        files = {"best": self.best, "last": self.last}
        if which not in files:
            raise unknown("checkpoint", which, files)
        if not files[which].exists():
            if which == "best" and self.last.exists():
                reason = f"but its last.ckpt, which takes its place at the end of: zoo train --resume {self.name}"
            elif which == "last" and self.best.exists():
                reason = f"but its best.ckpt, from which it goes on: zoo train --resume {self.name}"
            elif self.autopsy_file.exists():
                reason = f"as its loss or a gradient was not finite before one was saved: zoo autopsy {self.name}"
            elif Metrics(read_json_lines(self.metrics_file)).has_end:
                reason = f"though it was finished, so the file is gone; to train it again: zoo train --resume {self.name}"
            else:
                reason = f"yet: zoo train --resume {self.name}"
            raise UserError(f"run {self.name} has no {files[which].name} {reason}")
        return files[which]

    def to_resume(self, which: str = "") -> Path | None:
        """Path of the checkpoint from which a training goes on: that one, or the latest; None to start from the beginning.

        Raises:
            UserError: as ``checkpoint``.
        """
        return self.checkpoint(which) if which else next((path for path in (self.last, self.best) if path.exists()), None)

    def is_non_finite_since(self, last: float) -> bool:
        """Whether the run stopped at a non-finite value after ``last``, the time of its last record."""
        return self.autopsy_file.exists() and self.autopsy_file.stat().st_mtime >= last

    def test_metrics(self) -> dict[str, float]:
        """Test metrics of the best checkpoint, by name as in ``test/accuracy``; none before the end of the run."""
        tested = [
            {key: value for key, value in record.items() if key.startswith("test/") and type(value) in (int, float)}
            for record in read_json_lines(self.metrics_file)
        ]
        return next((metrics for metrics in reversed(tested) if metrics), {})

    def read_run(self) -> Run:
        """The resolved Run.

        Raises:
            UserError: ``run.yaml`` is missing or damaged.
        """
        try:
            return Run.model_validate(read_config(self.run_file))
        except UserError as error:
            raise UserError(str(error).removeprefix("--config ")) from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise UserError(f"{self.run_file} is damaged: {where}: {one_line(first['msg'].lower(), 200)}") from None


def trial_name(run: Run) -> str | None:
    """Name of the run that an agent of a W&B sweep has started, the same in each of its processes; None elsewhere."""
    trial = os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None
    return f"{run.network}-{run.data['name']}-{trial}" if trial else None


def known_runs() -> list[str]:
    """The names of the runs in ``runs_folder()``."""
    return sorted(path.parent.name for path in runs_folder().glob("*/run.yaml"))


def expand_pattern(text: str) -> list[str]:
    """The names of the runs that match a glob; ``text`` itself where it is none, or none matches."""
    return (fnmatch.filter(known_runs(), text) or [text]) if set(text) & set("*?[") else [text]


@contextmanager
def temporary_runs() -> Iterator[None]:
    """Create new runs in a temporary folder inside: for runs of which only the result counts."""
    with tempfile.TemporaryDirectory() as folder, runs_in(folder):
        yield
