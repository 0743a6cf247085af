"""Downloads: files are verified by their SHA-256 before they get their name."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from filelock import FileLock

from zoo.core.errors import UserError, one_line
from zoo.core.files import cache_folder, making_folder, require_regular

PATIENCE = 30.0  # seconds without a byte, or at less than SLOWEST, after which a mirror is given up
SLOWEST = 1024  # bytes a second
LARGEST = 32 * 2**30  # bytes; a server that never ends must not fill the disk
CHUNK = 2**18  # bytes

_may_download = True


def fetch(name: str, *sources: str, folder: Path | None = None) -> Path:
    """Download the file ``name``, unless it is there already with the right content.

    Args:
        name: of the file in ``folder``.
        sources: mirrors in the order to try: ``https://host/path#sha256=<64 hex digits>``, or the first 8 or more of them if the
            publisher gives no more. Plain ``http`` is for this machine alone.
        folder: of the file; by default ``downloads`` in bestiary's cache.

    Concurrent processes download once. A file with other content is replaced only by a verified one.

    Raises:
        UserError: no source provides the file, it cannot be written, or downloads are disabled.
        ValueError: a source is not of that form.
    """
    mirrors = [_parse(source) for source in sources]
    if not mirrors:
        raise ValueError(f"{name}: no source to fetch it from")
    path = (folder or cache_folder() / "downloads") / name
    hashes = {digest for _, digest in mirrors}
    if _has_content(path, hashes):
        return path  # before the lock, which a read-only folder does not allow
    if not _may_download:
        raise UserError(f"{path} is not on this machine")
    with _explained(path), making_folder(path.parent), _locked(path):
        if not _has_content(path, hashes):
            _download(path, mirrors)
    return path


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one process at a time download a file; after a failure no lock is left."""
    lock = path.with_name(f".{path.name}.lock")
    with FileLock(lock):
        try:
            yield
        except BaseException:
            with suppress(OSError):
                lock.unlink()
            raise


@contextmanager
def nothing_downloaded() -> Iterator[None]:
    """Make downloads an error inside, for work that can do without them."""
    global _may_download
    former, _may_download = _may_download, False
    try:
        yield
    finally:
        _may_download = former


def _parse(source: str) -> tuple[str, str]:
    """(address, SHA-256 or its beginning) of one source."""
    url, _, digest = source.partition("#sha256=")
    if not re.fullmatch("[0-9a-f]{8,64}", digest):
        raise ValueError(f"{source}: a source ends in #sha256= and 64 hex digits, or the first 8 or more of them")
    if not _is_allowed(url):
        raise ValueError(f"{source}: only https is fetched")
    return url, digest


def _is_allowed(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost"))


def _has_content(path: Path, hashes: set[str]) -> bool:
    if path.exists():
        require_regular(path)
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest().startswith(tuple(hashes))
    except FileNotFoundError:
        return False
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn a full disk or a folder that cannot be written into a user error."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error


def _download(path: Path, mirrors: list[tuple[str, str]]) -> None:
    # one name is enough, since the lock is held; what a killed process left behind is overwritten
    beside = path.with_name(f".{path.name}.part")
    failures = []
    try:
        for url, expected in mirrors:
            with beside.open("wb") as file:
                failure = _receive(url, expected, file, path)
                file.flush()
                os.fsync(file.fileno())
            if failure is None:
                os.replace(beside, path)
                return
            failures.append(f"{urlsplit(url).hostname}: {failure}")
    finally:
        beside.unlink(missing_ok=True)
    wanted = " or ".join(dict.fromkeys(digest for _, digest in mirrors))
    is_whole = "is" if len(wanted) >= 64 else "begins with"
    raise UserError(
        f"{path.name} could not be fetched ({'; '.join(failures)}): put it at {path} by hand, its SHA-256 {is_whole} {wanted}"
    )


def _receive(url: str, expected: str, file: BinaryIO, path: Path) -> str | None:
    """Write what the server sends, and return what is wrong with it or None.

    Raises:
        UserError: the file cannot be written.
    """
    request = urllib.request.Request(url, headers={"User-Agent": "bestiary"})
    digest, head, received = hashlib.sha256(), b"", 0
    try:
        with _opener.open(request, timeout=PATIENCE) as answer:
            length = int(answer.headers.get("Content-Length") or 0)
            with _progress(path.name, length, request.host) as advance:
                for chunk in _chunks(answer):
                    head = head or chunk[:512]
                    received += len(chunk)
                    digest.update(chunk)
                    with _explained(path):
                        file.write(chunk)
                    advance(len(chunk))
    except (OSError, http.client.HTTPException, ValueError) as error:
        return _reason(error)
    if digest.hexdigest().startswith(expected):
        return None
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "sent a web page instead of the file"
    if received < length:
        return f"broke off after {received:,} of {length:,} bytes"
    return f"sent a file with SHA-256 {digest.hexdigest()[:12]}..., not the expected one"


class _OnlyHttps(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *request: Any) -> urllib.request.Request | None:
        url = request[-1]
        if not _is_allowed(url):
            raise ValueError(f"redirects to {urlsplit(url).scheme}://{urlsplit(url).hostname}")
        return super().redirect_request(*request)


_opener = urllib.request.build_opener(_OnlyHttps)


def _chunks(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    """Yield chunks as they arrive.

    Raises:
        TimeoutError: it arrives slower than ``SLOWEST``; that nothing arrives is noticed by the socket.
    """
    total, since, start = 0, 0, time.monotonic()
    while chunk := answer.read1(CHUNK):
        total += len(chunk)
        since += len(chunk)
        if total > LARGEST:
            raise ValueError(f"sends more than {LARGEST:,} bytes")
        if (seconds := time.monotonic() - start) > PATIENCE:
            if since < SLOWEST * seconds:
                raise TimeoutError
            since, start = 0, time.monotonic()
        yield chunk


@contextmanager
def _progress(name: str, length: int, host: str) -> Iterator[Callable[[int], None]]:
    """Show a bar on a terminal, one line in a log; call the value with the number of bytes received."""
    if not sys.stderr.isatty():
        size = f" ({length / 1e6:,.1f} MB)" if length else ""
        print(f"fetching {name}{size} from {host}", file=sys.stderr, flush=True)
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"fetching {name}", total=length or None)
        yield lambda count: progress.advance(task, count)


def _reason(error: Exception) -> str:
    """Why a mirror failed."""
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return "timed out"
    if isinstance(cause, http.client.IncompleteRead):
        return "broke off"
    text = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
    return one_line(text)
