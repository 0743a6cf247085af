"""Storage of a study: Optuna's journal file, for processes that share a folder, or a database, for several machines."""

from __future__ import annotations

import json
import os
import re
import shlex
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import optuna
from filelock import FileLock
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from zoo.core.errors import UserError, one_line, unknown
from zoo.core.files import PLAIN_NAME, is_plain_name, making_folder
from zoo.registry.registry import Registry
from zoo.studies.plan import Search

SEARCHES = Path("searches")
IDENTITY = "zoo"  # attribute of a study: the identity of its search
HEARTBEAT_SECONDS = 30  # between heartbeats of a trial in a database; a file needs none
SILENCE_SECONDS = 120  # without a heartbeat, after which a trial in a database is lost
CONNECT_SECONDS = 10
DRIVERS = {  # module -> its package, where the name is another; those of PostgreSQL with the library of its clients
    "MySQLdb": "mysqlclient", "psycopg2": "psycopg2-binary", "psycopg": "psycopg[binary]",
}  # fmt: skip


@dataclass(frozen=True)
class StudyLocation:
    """Location of a study: its folder, which also holds the runs of its trials, and a database if it is not in a file."""

    name: str
    storage: str = ""

    def __post_init__(self) -> None:
        if not is_plain_name(self.name):
            raise UserError(f"--name {self.name!r}: {PLAIN_NAME}")

    @property
    def folder(self) -> Path:
        return SEARCHES / self.name

    @property
    def journal(self) -> Path:
        return self.folder / "study.journal"

    def trial_folder(self, number: int) -> Path:
        return self.folder / "trials" / f"{number:03}"

    def __str__(self) -> str:
        return hide_password(self.storage) if self.storage else str(self.journal)


def hide_password(url: str) -> str:
    """A database URL that can be printed."""
    return re.sub(r"(://[^:/@]*):.*@", r"\1:***@", url)


def open_or_create(location: StudyLocation, search: Search) -> optuna.Study:
    """Open the study of that name, or create it if there is none or it has no finished trial.

    Raises:
        UserError: it is a study of another search, or cannot be read or written.
    """
    with _opening_explained(location):
        storage = _open(location)
        study = _load_or_create(storage, location, search)
        different = _difference(search, _identity(location, study))
        if different and not any(is_finished(t) or not t.state.is_finished() for t in study.get_trials(deepcopy=False)):
            optuna.delete_study(study_name=location.name, storage=storage)
            return _load_or_create(storage, location, search)
    if different:
        raise UserError(f"study {location.name!r} is another search: {different}; --name NEW starts a new one")
    return study


def _load_or_create(storage: BaseStorage, location: StudyLocation, search: Search) -> optuna.Study:
    if location.name in [study.study_name for study in storage.get_all_studies()]:
        study = optuna.load_study(study_name=location.name, storage=storage)
    else:  # unless another process does
        direction = {"max": "maximize", "min": "minimize"}[search.direction]
        study = optuna.create_study(storage=storage, study_name=location.name, direction=direction, load_if_exists=True)
    if not study.user_attrs and not study.get_trials(deepcopy=False):
        study.set_user_attr(IDENTITY, search.identity())
    return study


def _difference(search: Search, former: dict[str, Any]) -> str | None:
    try:
        return search.difference(former)
    except ValueError:
        return "its settings are from another version of bestiary"


def find(location: StudyLocation, registry: Registry) -> tuple[Search, optuna.Study]:
    """Open an existing study and its search.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    if not location.storage and not location.journal.exists():
        known = [path.parent.name for path in SEARCHES.glob("*/study.journal")]
        raise unknown("study", location.name, known, "" if known else "there is none in searches/ yet")
    with _opening_explained(location):
        storage = _open(location)
        known = [study.study_name for study in storage.get_all_studies()]
        if location.name not in known:
            raise unknown("study", location.name, known)
        study = optuna.load_study(study_name=location.name, storage=storage)
    return Search.from_identity(registry, _identity(location, study)), study


def reopen(location: StudyLocation) -> optuna.Study:
    """Open a study that exists, in another process."""
    with _opening_explained(location):
        return optuna.load_study(study_name=location.name, storage=_open(location))


def _identity(location: StudyLocation, study: optuna.Study) -> dict[str, Any]:
    if IDENTITY not in study.user_attrs:
        raise UserError(f"{location}: the study {location.name!r} was not created by zoo search: choose another --name")
    return study.user_attrs[IDENTITY]


# ---------------------------------------------------------------------------------------------- storage


def _open(location: StudyLocation) -> BaseStorage:
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)  # we report what users should know
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    if not location.storage:
        lock = JournalLock(location.journal)
        with making_folder(location.folder):
            lock.acquire()
            try:
                for line in location.journal.read_bytes().splitlines():
                    json.loads(line)  # Optuna ignores a last line that is not JSON, and would append to it
            finally:
                lock.release()
        return JournalStorage(JournalFileBackend(str(location.journal), lock_obj=lock))
    engine = {}
    if location.storage.startswith(("postgresql", "mysql")):
        engine = {"connect_args": {"connect_timeout": CONNECT_SECONDS}, "pool_pre_ping": True}
    return optuna.storages.get_storage(
        RDBStorage(location.storage, engine, heartbeat_interval=HEARTBEAT_SECONDS, grace_period=SILENCE_SECONDS)
    )


class JournalLock:
    """Lock for writing a journal, released by the system when its holder is killed.

    Optuna's own locks are files that a killed process leaves behind; the others then wait half a minute. An incomplete last line
    is removed before the next is appended, since a journal with such a line inside cannot be read.
    """

    def __init__(self, journal: Path) -> None:
        self.journal = journal
        self.lock = FileLock(journal.with_name(f".{journal.name}.lock"))

    def acquire(self) -> bool:
        self.lock.acquire()
        try:
            with self.journal.open("a+b") as file:
                _remove_incomplete_line(file)
        except BaseException:
            self.lock.release()
            raise
        return True

    def release(self) -> None:
        self.lock.release()


def _remove_incomplete_line(file: BinaryIO) -> None:
    end = file.seek(0, os.SEEK_END)
    if not end:
        return
    file.seek(end - 1)
    if file.read(1) != b"\n":
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)


@contextmanager
def storage_errors_explained(location: StudyLocation) -> Iterator[None]:
    """Turn errors of a database into one line that names it."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        cause = error if isinstance(error, SQLAlchemyError) else error.__cause__ or error
        raise UserError(f"--storage {location}: {one_line(getattr(cause, 'orig', None) or cause, 200)}") from error


@contextmanager
def _opening_explained(location: StudyLocation) -> Iterator[None]:
    """Turn errors on opening a study into one line. A damaged journal raises whatever Optuna happens to raise."""
    try:
        with storage_errors_explained(location):
            yield
    except OSError as error:
        raise UserError(f"{error.filename or location}: {(error.strerror or str(error)).lower()}") from error
    except ImportError as error:
        module = getattr(error.__cause__, "name", None)
        if not module:  # the driver is there, and a library that it needs is not
            raise UserError(f"--storage {location}: {one_line(error.__cause__ or error, 200)}") from error
        missing = DRIVERS.get(module, module)
        raise UserError(f"--storage {location} needs the Python package {missing}: pip install {shlex.quote(missing)}") from error
    except (ValueError, LookupError, TypeError, AssertionError, AttributeError) as error:
        if location.storage:
            raise
        raise UserError(f"{location} is damaged ({one_line(error, 100)}): move it away, or choose another --name") from error


# ---------------------------------------------------------------------------------------------- trials

REASON = "reason"  # attribute of a trial: why it failed because of its parameters
DUPLICATE = "duplicate"  # attribute of a trial whose point another process had started


def is_finished(trial: FrozenTrial) -> bool:
    """Whether a trial is finished: complete, stopped early, or failed because of its parameters.

    A trial that was lost with its process is not: it is retried.
    """
    return trial.state in (TrialState.COMPLETE, TrialState.PRUNED) or REASON in trial.user_attrs and trial.state.is_finished()


def best_trial(study: optuna.Study) -> FrozenTrial | None:
    """The best complete trial, the first of equals."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return study.best_trial if complete else None
