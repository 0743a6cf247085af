"""Rows of data sets as the library ``datasets`` reads them, from a folder, a file or the Hugging Face hub.

Images that are embedded are written to files once: all that reads, compares and names images works on files.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from zoo.core.errors import UserError, near_path, one_line, some
from zoo.core.files import files_below
from zoo.core.printing import shell_word
from zoo.core.ranks import rank_zero_print
from zoo.datamodules.files.formats import is_image
from zoo.datamodules.files.image_rows import IMAGE_COLUMNS, LABEL_COLUMNS, Row, find_column, label_text, require_column
from zoo.datamodules.files.image_tree import NAMED, SAVED, split_called
from zoo.datamodules.files.paths import file_state
from zoo.datamodules.files.progress import shown

NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")  # of a data set on the hub
CACHED = re.compile(r".*/(?:snapshots|extracted)/[^/]+/")  # where the library keeps files, in front of their own paths
LONGEST = 200  # bytes of a folder's or file's name
HUB_SECONDS = 10  # in which the hub must answer
INSTALL = "pip install 'bestiary[hf]'"


@dataclass(frozen=True)
class HubSource:
    """What to read.

    Attributes:
        path: a folder or file, or a name on the hub.
        config: the configuration, where there are several.
        revision: a branch, tag or commit on the hub.
        image_column, label_column: names; empty to find them.
    """

    path: str
    config: str = ""
    revision: str = ""
    image_column: str = ""
    label_column: str = ""

    @property
    def is_local(self) -> bool:
        return os.path.exists(os.path.expanduser(self.path))

    @property
    def place(self) -> Path:
        """The folder, of a file that which it is in."""
        path = Path(os.path.expanduser(self.path))
        return path if path.is_dir() else path.parent

    def key(self) -> str:
        """Hex digits of all that is asked for."""
        path = os.path.abspath(os.path.expanduser(self.path)) if self.is_local else self.path
        asked = "\0".join((path, self.config, self.revision, self.image_column, self.label_column))
        return blake2b(asked.encode(errors="surrogateescape"), digest_size=16).hexdigest()

    def state(self) -> str:
        """Changes with local files; what was fetched from the hub stays as it is."""
        if not self.is_local:
            return ""
        path = os.path.expanduser(self.path)
        files = sorted(files_below(path)) if os.path.isdir(path) else [path]
        return blake2b("\n".join(f"{file} {file_state(file)}" for file in files).encode(errors="surrogateescape")).hexdigest()


@dataclass
class HubSplit:
    """One split: its name and its rows, with images not decoded."""

    name: str
    rows: Any
    image: str
    label: str
    classes: tuple[str, ...]
    count: int


def open_splits(source: HubSource) -> list[HubSplit]:
    """Open all splits; of the hub they are downloaded first. No code of a data set is run.

    Raises:
        UserError: the library is not installed or cannot read it, or a column is missing.
    """
    found = _load(source)
    return [_open_split(str(name), rows, source) for name, rows in found.items()]


def _load(source: HubSource) -> dict[str, Any]:
    try:
        import datasets
    except ImportError:
        raise UserError(f"the data set hf needs the library datasets: {INSTALL}") from None
    if not source.is_local and not NAME.fullmatch(source.path):
        path = Path(source.path)
        raise UserError(f"data.path={source.path}: there is no such file or folder{near_path(path)}")
    if source.is_local or not sys.stderr.isatty():
        datasets.disable_progress_bars()
    place = os.path.abspath(source.place)
    with _one_line_errors(source):
        if not source.is_local:
            found = _from_hub(source)
        elif any((source.place / name).exists() for name in SAVED):
            found = datasets.load_from_disk(place)
        else:
            path = os.path.expanduser(source.path)
            file = None if os.path.isdir(path) else os.path.basename(path)
            found = datasets.load_dataset(place, source.config or None, data_files=file, streaming=True)
    return found if isinstance(found, dict) else {"train": found}


def _from_hub(source: HubSource) -> Any:
    """Load a data set of the hub, from the library's cache alone where the hub does not answer.

    The library would try again for half a minute before it looks there.

    Raises:
        ConnectionError: the hub does not answer, and the cache does not hold it.
    """
    import datasets

    was_offline = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = was_offline or not _hub_answers()
    try:
        return datasets.load_dataset(source.path, source.config or None, revision=source.revision or None)
    except ConnectionError as error:
        raise (error if was_offline else ConnectionError("it cannot be reached")) from None
    finally:
        datasets.config.HF_HUB_OFFLINE = was_offline


def _hub_answers() -> bool:
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=HUB_SECONDS)
    except Exception:  # of the library's HTTP client, which has changed
        return False
    return True


@contextmanager
def _one_line_errors(source: HubSource) -> Iterator[None]:
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:  # the library's errors are of many types
        reason = one_line(error, 300) or type(error).__name__
        if isinstance(error, ConnectionError) or type(error).__name__ == "DatasetNotFoundError":
            path = Path(source.path)
            reason = f"is no file or folder here, and the hub does not give it: {reason}{near_path(path)}"
        raise UserError(f"data.path={source.path}: {reason}") from error


def _open_split(name: str, rows: Any, source: HubSource) -> HubSplit:
    from datasets import ClassLabel, Image

    features = rows.features or {}
    columns = list(features)
    if not columns:
        with _one_line_errors(source):
            columns = list(next(iter(rows), {}))
    if not columns:
        raise UserError(f"data.path={source.path}: has no rows")
    of_type = {kind: [column for column in columns if isinstance(features.get(column), kind)] for kind in (Image, ClassLabel)}
    where = f"data.path={source.path}"
    image = find_column(source.image_column, "image_column", columns, IMAGE_COLUMNS, where)
    image = image or (of_type[Image][0] if of_type[Image] else "")
    image = image or require_column("", "image_column", columns, IMAGE_COLUMNS, where)
    label = find_column(source.label_column, "label_column", columns, LABEL_COLUMNS, where)
    label = label or (of_type[ClassLabel][0] if len(of_type[ClassLabel]) == 1 else "")
    label = label or require_column("", "label_column", columns, LABEL_COLUMNS, where)
    rows = rows.select_columns([image, label])
    if isinstance(features.get(image), Image):
        rows = rows.cast_column(image, Image(decode=False))
    classes = tuple(features[label].names) if isinstance(features.get(label), ClassLabel) else ()
    count = getattr(rows, "num_rows", 0) or 0
    return HubSplit(name, rows, image, label, classes, count)


def rows_of(splits: list[HubSplit], source: HubSource, folder: Path) -> Iterator[tuple[Row, bool]]:
    """All rows, each with whether its image is in ``folder``: embedded images are written there, others of the hub linked.

    Raises:
        UserError: the library cannot read them, or an image or label is of another type.
    """
    number, taken = 0, set()
    here = os.path.join(os.path.abspath(source.place), "")
    for split in splits:
        named = None if len(splits) == 1 else split.name
        with _one_line_errors(source):
            for cells in shown(split.rows, split.count, 1, "reading") if split.count else split.rows:
                number += 1
                label = _label(cells[split.label], split, source)
                path, content = _image(cells[split.image], split, source)
                if not label:
                    yield Row(path or "unlabeled", "", named, number), False
                    continue
                if content is None and source.is_local and (not path or not os.path.isabs(path) or path.startswith(here)):
                    yield Row(path, label, named, number), False
                    continue
                key = _free(_key(path, content, split.name if named else "", label), path, content, taken)
                if len(taken) == 1:
                    rank_zero_print(f"embedded images are written to files once, into {folder}")
                if content is not None:
                    _write(folder / key, content)
                elif os.path.isfile(path):
                    _link(folder / key, path)
                yield Row(key, label, named, number), True


def unread_images(source: HubSource, rows: list[Row]) -> list[str]:
    """Notes about a folder of images that the library reads otherwise than the data set ``folder`` does."""
    if not source.is_local or not os.path.isdir(os.path.expanduser(source.path)):
        return []
    root = os.path.abspath(source.place)
    read = {os.path.normpath(os.path.join(root, row.image)): row.split for row in rows}
    instead = f"{shell_word(source.path.rstrip('/') + '/')} as the data, in place of hf, reads all"
    unread = sorted({os.path.relpath(path, root) for path in files_below(root) if is_image(path)} - _below(read, root))
    notes = (
        [f"{len(unread):,} of the images are not read by the library datasets ({some(unread, NAMED)}): {instead}"]
        if unread
        else []
    )
    folders = {path.partition(os.sep)[0] for path in _below(read, root)}
    places = {name: split for name in folders if (split := split_called(name))}
    if len(places) > 1 and len({row.split for row in rows}) < len(set(places.values())):
        notes.append(f"the folders {some(sorted(places), NAMED)} are not read as splits by the library datasets: {instead}")
    return notes


def _below(paths: Iterable[str], root: str) -> set[str]:
    return {os.path.relpath(path, root) for path in paths}


def _label(value: Any, split: HubSplit, source: HubSource) -> str:
    if split.classes:
        return split.classes[value] if isinstance(value, int) and 0 <= value < len(split.classes) else ""
    return label_text(value, split.label, f"data.path={source.path}")


def _image(value: Any, split: HubSplit, source: HubSource) -> tuple[str, bytes | None]:
    """Path and content of an image."""
    if isinstance(value, dict) and value.keys() <= {"path", "bytes"}:
        return value.get("path") or "", value.get("bytes")
    if isinstance(value, bytes):
        return "", value
    if isinstance(value, str | None):
        return value or "", None
    raise UserError(
        f"data.path={source.path}: column {split.image!r} holds {type(value).__name__} values, not images: "
        "choose another by data.image_column=NAME"
    )


def _key(path: str, content: bytes | None, split: str, label: str) -> str:
    """The path of an image within its data set, which decides about its split: the one that is recorded.

    A bare name stands in folders of its split and class, as in a folder of images; without any it is a digest of the content.
    """
    recorded = path.partition("::")[0].replace("\\", "/").removeprefix("zip://")
    if os.path.isabs(recorded) or re.match(r"\w:/", recorded):
        shortened = CACHED.sub("", recorded)
        recorded = shortened if shortened != recorded else recorded.rpartition("/")[2]
    parts = [part for part in recorded.split("/") if part not in ("", ".", "..")]
    if not parts:
        parts = [blake2b(content or b"", digest_size=16).hexdigest()]
    if len(parts) == 1:
        parts = [*([split] if split else []), label.replace("/", "_") or "unlabeled", *parts]
    return "/".join(map(_plain, parts))


def _plain(part: str) -> str:
    """The name of a file or folder that every system takes."""
    text = part.replace("\0", "_")
    if len(text.encode()) <= LONGEST and text not in (".", ".."):
        return text
    return blake2b(text.encode(), digest_size=16).hexdigest()


def _free(key: str, path: str, content: bytes | None, taken: set[str]) -> str:
    """The key, with more behind it if another image has it."""
    stem, dot, ending = key.rpartition(".")
    if not dot or "/" in ending:
        stem, dot, ending = key, "", ""
    free, number = key, 0
    while free in taken:
        digest = blake2b(content or path.encode(), digest_size=4).hexdigest()
        free, number = f"{stem}-{digest}{f'-{number}' if number else ''}{dot}{ending}", number + 1
    taken.add(free)
    return free


def _write(path: Path, content: bytes) -> None:
    """Write a file unless it is there: an equal one stays, and what is decoded of it with it."""
    with suppress(OSError):
        if not path.is_symlink() and path.stat().st_size == len(content) and path.read_bytes() == content:
            return
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{blake2b(path.name.encode(), digest_size=8).hexdigest()}.partial")
    beside.write_bytes(content)  # all are synchronized with the disk at the end
    os.replace(beside, path)


def _link(path: Path, target: str) -> None:
    if path.is_symlink() and os.readlink(path) == target:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(target)
