"""Models at Weights & Biases by name: downloaded once, verified, and kept in the cache as ``zoo export`` writes them.

Nothing of what is downloaded is run: it is safetensors, or a checkpoint that is read as plain data.
"""

from __future__ import annotations

import base64
import glob
import hashlib
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from filelock import FileLock

from zoo.core.errors import UserError, first_line, some, unknown
from zoo.core.files import cache_folder, making_folder
from zoo.training.tracking.wandb_server import PROJECT, why_not_online, within

PREFIX = "wandb:"
FORM = f"{PREFIX}ENTITY/PROJECT/NAME:ALIAS"
PARTS = re.compile(r"(?:(?:([^/:]+)/)?([^/:]+)/)?([\w.-]+)(?::([^/:]+))?", re.ASCII)  # entity, project, name, alias
MODEL = "model"  # the type of artifacts that hold weights
SUFFIXES = (".safetensors", ".ckpt")
LOOKUP_SECONDS = 20.0
TEARDOWN_SECONDS = 2.0
PATIENCE = 30.0  # seconds without a byte
LISTED = 1000  # models of a project whose names are compared
NAMED = 3  # names in a message


def is_wandb_model(name: str | Path) -> bool:
    """Whether a name is that of a model at W&B, judging by its form."""
    return str(name).startswith(PREFIX)


def wandb_path(name: str) -> tuple[str, str]:
    """The path of a model, as far as it was given, and the alias, ``latest`` by default.

    Raises:
        UserError: it is of another form.
    """
    found = PARTS.fullmatch(name.removeprefix(PREFIX))
    if not found:
        raise UserError(f"{name}: name a model at W&B as in {FORM}")
    *path, alias = found.groups()
    return "/".join(part for part in path if part), alias or "latest"


def fetch_model(name: str) -> Path:
    """The file of a model at W&B, from the cache if that version was fetched before.

    Args:
        name: as in ``FORM``; the project is by default that of W&B's settings or ``bestiary``, and the entity W&B's own default.

    Raises:
        UserError: no such model, no access, no response, or a file that is damaged or holds no weights.
    """
    path, alias = wandb_path(name)
    with _service() as settings:
        path = path if "/" in path else f"{settings.project or PROJECT}/{path}"
        versions = _cached(urlsplit(settings.base_url).hostname or "", path)
        if alias in versions:  # a version never changes
            return versions[alias]
        hint = f"; in the cache: {some([f'{PREFIX}{path}:{each}' for each in versions], NAMED)}" if versions else ""
        is_off = settings.mode in ("offline", "dryrun", "disabled")
        if reason := f"W&B is {settings.mode}, as WANDB_MODE says" if is_off else why_not_online(settings.base_url):
            raise UserError(f"{name}: {reason}{hint}")
        try:
            artifact, entry = within(LOOKUP_SECONDS, lambda: _look_up(path, alias, name))
            return _kept(artifact, entry, name, settings.base_url)
        except UserError:
            raise
        except OSError as error:
            raise UserError(f"{name}: {error.strerror or first_line(error)}{hint}") from error
        except Exception as error:  # of many types
            raise UserError(f"{name}: {first_line(error)}{hint}") from error


@contextmanager
def _service() -> Iterator[Any]:
    """W&B's settings; its service, for which it would wait at the interpreter's exit, is ended unless it was there before."""
    is_own = "WANDB_SERVICE" not in os.environ
    import wandb

    try:
        yield wandb.setup(wandb.Settings(silent=True, quiet=True)).settings
    finally:
        if is_own:
            with suppress(Exception):
                within(TEARDOWN_SECONDS, wandb.teardown)


def _look_up(path: str, alias: str, name: str) -> tuple[Any, Any]:
    """The artifact, and the entry of its file of weights.

    Raises:
        UserError: there is none.
        Exception: of wandb, for whatever else.
    """
    import wandb

    api = wandb.Api(timeout=int(LOOKUP_SECONDS))
    try:
        artifact = api.artifact(f"{path}:{alias}")
    except (wandb.errors.CommError, ValueError) as error:
        if "not found" not in str(error):
            raise
        raise _unknown(api, path, alias, name) from error
    if artifact.type != MODEL:
        raise UserError(f"{name} is a {artifact.type}, not a {MODEL}")
    files = [str(each.path) for each in artifact.manifest.entries.values() if each.ref is None]
    weights = [each for each in files if each.endswith(SUFFIXES)]
    if len(weights) != 1:
        raise UserError(f"{name} holds {some(files) or 'no files'}: needs one file of weights ({', '.join(SUFFIXES)})")
    return artifact, artifact.get_entry(weights[0])


def _unknown(api: Any, path: str, alias: str, name: str) -> UserError:
    """The error for a name that W&B does not know, with the nearest one that it does."""
    project, _, model = path.rpartition("/")
    with suppress(Exception):  # no such project, or no access to it
        models = {each.name: each for each in islice(api.artifact_collections(project, MODEL), LISTED)}
        if model in models:
            return unknown(f"version of {PREFIX}{path}", alias, models[model].aliases)
        if models:
            return unknown(f"model in {project} at W&B", model, models)
        return UserError(f"{name}: the project {project} has no models")
    return UserError(f"{name}: W&B has no such project, or gives no access to it")


def _folder(host: str, path: str) -> Path:
    """Where the versions of a model are kept."""
    parts = [re.sub(r"[^\w.-]|^\.+", "-", part, flags=re.ASCII) for part in (host, *path.split("/"))]
    return (cache_folder() / "wandb").joinpath(*parts)


def _cached(host: str, path: str) -> dict[str, Path]:
    """The files of the versions of a model that were fetched, whose entity may be left out if only one is known."""
    folder = _folder(host, path)
    is_whole = path.count("/") == 2
    place = glob.escape(str(folder)) if is_whole else str(Path(glob.escape(str(_folder(host, ""))), "*", *folder.parts[-2:]))
    found: dict[str, list[Path]] = {}
    for file in sorted(glob.glob(f"{place}/v*-*/*{SUFFIXES[0]}")):
        found.setdefault(Path(file).parent.name.partition("-")[0], []).append(Path(file))
    return {version: files[0] for version, files in found.items() if len(files) == 1}


def _kept(artifact: Any, entry: Any, name: str, server: str) -> Path:
    """The file of an artifact in the cache, downloaded unless it is there."""
    model, _, version = artifact.source_name.partition(":")
    folder = _folder(urlsplit(server).hostname or "", f"{artifact.source_entity}/{artifact.source_project}/{model}")
    file = folder / f"{version}-{artifact.digest[:12]}" / f"{folder.name}{SUFFIXES[0]}"
    if file.is_file():
        return file
    with making_folder(file.parent), FileLock(folder / ".lock"):
        if not file.is_file():
            with tempfile.TemporaryDirectory(dir=folder, prefix=".", ignore_cleanup_errors=True) as beside:
                print(f"fetching {name} ({(entry.size or 0) / 1e6:,.1f} MB) from {server}", file=sys.stderr, flush=True)
                received = _received(entry, Path(beside))
                _verify(received, entry, artifact.metadata.get("sha256"), name)
                os.replace(_as_exported(received), file)
    return file


def _received(entry: Any, folder: Path) -> Path:
    """Download a file.

    Raises:
        TimeoutError: nothing arrives for a while.
    """
    outcome: list[Any] = []

    def download() -> None:
        try:
            outcome.append(Path(entry.download(str(folder), skip_cache=True)))
        except BaseException as error:  # wandb may also call sys.exit
            outcome.append(error)

    thread = threading.Thread(target=download, daemon=True)
    thread.start()
    size, since = 0, time.monotonic()
    while thread.is_alive():
        thread.join(0.2)
        now = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        if now != size:
            size, since = now, time.monotonic()
        elif time.monotonic() - since > PATIENCE:
            raise TimeoutError(f"no byte within {PATIENCE:.0f} s")
    (result,) = outcome
    if isinstance(result, Path):
        return result
    raise result if isinstance(result, Exception) else RuntimeError(str(result))


def _verify(file: Path, entry: Any, sha256: Any, name: str) -> None:
    """Compare a file with the digests that W&B and the artifact's metadata have of it.

    Raises:
        UserError: it is another.
    """
    with file.open("rb") as opened:
        md5 = base64.b64encode(hashlib.file_digest(opened, lambda: hashlib.md5(usedforsecurity=False)).digest()).decode()
        opened.seek(0)
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if "MD5" in str(entry.digest_algorithm()) and md5 != entry.digest:
        raise UserError(f"{name}: the file that was sent is not the one that was logged: its MD5 is {md5}, not {entry.digest}")
    if sha256 and found != sha256:
        raise UserError(f"{name}: the file that was sent is not the one that was logged: its SHA-256 is {found}, not {sha256}")


def _as_exported(file: Path) -> Path:
    """The file, or what ``zoo export`` would write of it if it is a checkpoint."""
    if file.suffix == SUFFIXES[0]:
        return file
    from zoo.training.checkpoints import read_checkpoint
    from zoo.training.exported import write_exported

    target = file.with_suffix(SUFFIXES[0])
    write_exported(read_checkpoint(file), target)
    return target
