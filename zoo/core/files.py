"""Atomic writes, and where caches are kept."""

from __future__ import annotations

import errno
import heapq
import os
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from zoo.core.errors import UserError, near_path, some

PLAIN_NAME = "must be a plain name, printable, without folders and without a dot in front"
OF_SYSTEMS = {"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir"}  # of macOS, Windows and Synology
NAMED = 3  # names in a message
KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
}


def cache_folder() -> Path:
    """The folder of downloads and cached results: ``ZOO_HOME``, or ``bestiary`` in the user's cache."""
    home = os.environ.get("ZOO_HOME")
    if home:
        return expanded(home)
    return expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "bestiary"


def expanded(path: str | Path) -> Path:
    """The path with ``~`` replaced by the user's home; as it is where there is no such user.

    Raises:
        UserError: it is of another type, or has a null character.
    """
    if not isinstance(path, (str, os.PathLike)) or "\0" in os.fspath(path):
        raise UserError(f"{path!r} is no path")
    return Path(os.path.expanduser(path))


@contextmanager
def making_folder(path: Path) -> Iterator[None]:
    """Create a folder and those above it; what was created and is still empty goes again if an exception leaves the block."""
    missing = [each for each in (path, *path.parents) if not each.exists()]
    leads_nowhere = any(each.is_symlink() for each in missing)
    if leads_nowhere or (not missing and not path.is_dir()):  # mkdir would say that it exists
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    try:
        path.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for folder in missing:
            with suppress(OSError):
                folder.rmdir()
        raise


@contextmanager
def naming_file(path: Path) -> Iterator[None]:
    """Give an OSError that leaves the block the name of the file: that of a full disk has none, others that of one beside it."""
    try:
        yield
    except OSError as error:
        if not error.filename or Path(error.filename).parent == path.parent:
            error.filename = str(path)
        raise


@contextmanager
def replacing_path(path: Path, exclusive: bool = False) -> Iterator[Path]:
    """Yield a path next to ``path`` to write a file at, which takes its name at the end: readers see the old file or the new one.

    Args:
        exclusive: no other process writes this file, so what a killed one left next to it is overwritten.

    Raises:
        UserError: there is a device or a pipe, in whose place a file would come.
        OSError: nothing was changed, as after any exception inside.
    """
    if os.path.exists(path) and not path.is_dir():
        require_regular(path)
    beside = path.with_name(f".{path.name}.partial" if exclusive else f".{path.name[:20]}.{uuid4().hex}")
    with naming_file(path), making_folder(path.parent):
        try:
            yield beside
            with beside.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(beside, path)
        except BaseException:
            with suppress(OSError):  # such as a name that is too long, which could not be created either
                beside.unlink()
            raise


@contextmanager
def replacing(path: Path, exclusive: bool = False) -> Iterator[BinaryIO]:
    """Open a file to write that takes the name at the end, as ``replacing_path`` does."""
    with replacing_path(path, exclusive) as beside, beside.open("wb") as file:
        yield file


def replace_file(path: Path, content: bytes) -> None:
    """Write a whole file atomically, as ``replacing`` does."""
    with replacing(path) as file:
        file.write(content)


def write_output(path: Path, content: bytes) -> None:
    """Write an output file of a command atomically.

    Raises:
        UserError: it cannot be written; an older file is kept.
    """
    try:
        replace_file(path, content)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {(error.strerror or str(error)).lower()}") from None


def require_writable(option: str, path: Path) -> None:
    """Refuse a file that could not be written, before any work is done for it; ``option`` is what named it.

    Raises:
        UserError: a folder, a device or a pipe, or in a place where nothing can be written.
    """
    if os.path.exists(path):
        require_regular(path, f"{option} {path}")
    place = next(folder for folder in path.absolute().parents if folder.exists())
    if not place.is_dir():
        raise UserError(f"{option} {path}: {place} is not a folder")
    for name in path.absolute().relative_to(place).parts:
        try:
            (place / name).lstat()
        except FileNotFoundError:
            continue
        except OSError as error:  # a name that is too long
            raise UserError(f"{option} {path}: {(error.strerror or str(error)).lower()}") from None
    try:
        with tempfile.TemporaryFile(dir=place):  # permissions alone do not show it
            pass
    except OSError:
        raise UserError(f"{option} {path}: {place} cannot be written to") from None


def require_folder(option: str, path: Path | None) -> None:
    """Refuse a path that is not a folder; ``option`` is what named it, as in ``data.root=photos``.

    Raises:
        UserError: it is missing, or a file.
    """
    if path is None:
        raise UserError(f"{option.partition('=')[0]} is empty: it must be a folder")
    if not path.is_dir():
        raise UserError(f"{option}: {'is not a folder' if path.exists() else f'there is no such folder{near_path(path)}'}")


def require_regular(path: Path, label: object = "") -> None:
    """Refuse to read what is no regular file: a pipe or a device may never end.

    Args:
        label: what names it in the message; the path by default.

    Raises:
        UserError: it is missing, or of another kind.
    """
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except FileNotFoundError:
        raise UserError(f"{label or path}: no such file{near_path(path)}") from None
    except (OSError, ValueError) as error:  # ValueError: a null character
        raise UserError(f"{label or path}: cannot be read: {(getattr(error, 'strerror', None) or str(error)).lower()}") from None
    if kind != stat.S_IFREG:
        raise UserError(f"{label or path}: is {KINDS.get(kind, 'no regular file')}, not a regular file")


def read_regular(path: Path, label: object = "") -> bytes:
    """Read a file that somebody named.

    Raises:
        UserError: it is no regular file, or cannot be read.
    """
    require_regular(path, label)
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{label or path}: cannot be read: {(error.strerror or str(error)).lower()}") from None


def is_plain_name(name: str) -> bool:
    """Whether a name can be that of a folder of ours, and be shown."""
    return Path(name).name == name and name.isprintable() and not name.startswith(".") and bool(name)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is not meant to be looked into: its name begins with a dot, or a system put it there."""
    return name.startswith(".") or name.lower() in OF_SYSTEMS


LeftOut = dict[str, list[str]]  # paths by the reason


def files_below(
    folder: str | Path,
    left_out: LeftOut | None = None,
    why_not: Callable[[str], str] = lambda path: "",
    entered: Iterable[str | Path] = (),
    folders: list[str] | None = None,
) -> Iterator[str]:
    """The regular files below a folder, in no order, without hidden ones and those in hidden folders.

    Links are followed, but no folder is entered twice, so a loop ends, and no file that is there itself counts again.

    Args:
        left_out: gets the paths of what is left out.
        why_not: the reason to leave a file out; empty if there is none.
        entered: folders that no link may lead back to.
        folders: gets the paths of this folder and those below it.

    Raises:
        OSError: a folder cannot be read.
    """
    left_out = {} if left_out is None else left_out
    own, seen, links = set(), set(map(_identity, entered)), []
    waiting, linked = [os.fspath(folder)], list[str]()  # folders by their own path first, then links in the order of their paths
    while waiting or linked:
        place = waiting.pop() if waiting else heapq.heappop(linked)
        if (identity := _identity(place)) in seen:
            continue
        seen.add(identity)
        own.add(identity)
        if folders is not None:
            folders.append(place)
        with os.scandir(place) as entries:
            for entry in entries:
                if is_hidden(entry.name):
                    left_out.setdefault("hidden", []).append(entry.path)
                elif entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                elif entry.is_dir():
                    heapq.heappush(linked, entry.path)
                elif not entry.is_file():
                    reason = "dangling" if entry.is_symlink() else "not regular"
                    left_out.setdefault(reason, []).append(entry.path)
                elif reason := why_not(entry.path):
                    left_out.setdefault(reason, []).append(entry.path)
                elif entry.is_symlink():
                    links.append(entry.path)
                else:
                    yield entry.path
    inside: dict[str, bool] = {}
    for link in links:
        target = os.readlink(link)
        target = target if target.startswith(os.sep) else os.path.join(os.path.dirname(link), target)
        beside, _, name = target.rpartition(os.sep)
        if beside not in inside:
            inside[beside] = _identity(beside) in own
        if inside[beside] and not is_hidden(name) and not why_not(target):
            left_out.setdefault("linked again", []).append(link)
        else:
            yield link


def describe_left_out(left_out: LeftOut, folder: str | Path) -> str:
    """Numbers and first names of what is left out below a folder, by reason."""
    parts = []
    for reason, paths in left_out.items():
        names = sorted(os.path.relpath(path, folder) for path in paths) if paths else []
        parts += [f"{len(paths):,} {reason} ({some(names, NAMED)})"] if paths else []
    return ", ".join(parts)


def _identity(folder: str | Path) -> tuple[int, int]:
    found = os.stat(folder)
    return found.st_dev, found.st_ino
