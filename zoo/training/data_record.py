"""What a run was trained on: the files of each split with digests of their content, kept beside its settings."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L

from zoo.core.errors import UserError, some
from zoo.core.files import replace_file
from zoo.core.ranks import rank_zero_print

FILE = "data.csv.gz"
NAMED = 3  # files in a message
UNREADABLE = "unreadable"  # in place of a split
SPLITS = ("train", "val", "test")
TRAINED = ("train", "val")  # what decides about weights: those of the best epoch are chosen by validation


class File(NamedTuple):
    """The split that a file is in, and digests: of its bytes, empty if it was not read, and of its text, if it has any."""

    split: str
    digest: bytes
    text: bytes = b""


class DataRecord:
    """The files of a run.

    Attributes:
        files: by their path below the folder of the data, in the order of the data.
    """

    def __init__(self, files: dict[str, File]) -> None:
        self.files = files

    @classmethod
    def of(cls, data: Any, content: bool = True) -> DataRecord:
        """The files of data that is read; none where it does not come in files.

        Args:
            content: with the digests of files that are read batch by batch, as far as they were.
        """
        found: dict[str, File] = {}
        for split, files in data.files(content).items():
            unread = File(split, b"")  # one for all: there may be millions
            for name, digest, text in files:  # the first split counts: a file that is tested, too, was trained on
                found.setdefault(name, File(split, digest, text) if digest or text else unread)
        return cls(found)

    @classmethod
    def read(cls, folder: Path) -> DataRecord:
        """That of a run, without files if it has none.

        Raises:
            UserError: it is damaged.
        """
        path = folder / FILE
        try:
            files, unread = {}, {split: File(split, b"") for split in (*SPLITS, UNREADABLE)}
            with gzip.open(path, "rt", encoding="utf-8", errors="surrogateescape", newline="") as text:
                for split, name, *digests in csv.reader(text):
                    files[name] = unread[split] if digests == [""] else File(split, *map(_from_hex, digests))
            if not files:
                raise ValueError
            return cls(files)
        except (FileNotFoundError, NotADirectoryError):
            return cls({})
        except (OSError, EOFError, ValueError, TypeError, KeyError, csv.Error, zlib.error):
            raise UserError(f"{path} is damaged: remove it to go on without knowing what the run was trained on") from None

    def write(self, folder: Path) -> None:
        """Write it beside the settings of a run, if there are files."""
        if self.files:
            packed = io.BytesIO()
            with (
                gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=6, mtime=0) as compressed,
                io.TextIOWrapper(compressed, encoding="utf-8", errors="surrogateescape", newline="") as text,
            ):
                csv.writer(text).writerows(
                    (file.split, name, file.digest.hex(), *([file.text.hex()] if file.text else []))
                    for name, file in self.files.items()
                )
            replace_file(folder / FILE, packed.getvalue())

    @property
    def trained_on(self) -> set[bytes]:
        """The digests of the training images."""
        return {file.digest for file in self.files.values() if file.split == "train" and file.digest}

    @property
    def is_complete(self) -> bool:
        """Whether the content of all files is known."""
        return all(file.digest or file.split == UNREADABLE for file in self.files.values())

    def complete(self, data: Any) -> list[str]:
        """Take over the digests of files that have been read since; the names of those whose content is another."""
        changed = {}
        for files in data.files().values():
            for name, digest, _ in files:
                former = self.files.get(name)
                if former and digest and not former.digest:
                    self.files[name] = former._replace(digest=digest)
                elif former and _differ(former.digest, digest):
                    changed[name] = former
        return list(changed)

    def changed(self, now: DataRecord, splits: tuple[str, ...] = SPLITS) -> list[str]:
        """The files of these splits whose content is another now, as far as it is known."""
        return [
            name
            for name, file in self.files.items()
            if file.split in splits and name in now.files and _differ(file.digest, now.files[name].digest)
        ]

    def changes(self, now: DataRecord, splits: tuple[str, ...]) -> str:
        """How the files of these splits differ now, in words with counts and names; empty if they do not."""
        if self.files == now.files:  # as usual, and at once for millions
            return ""
        former = {name: file for name, file in self.files.items() if file.split in splits}
        common = {name: (file, now.files[name]) for name, file in former.items() if name in now.files}
        found = {
            "changed": self.changed(now, splits),
            "with other text or labels": [name for name, (before, after) in common.items() if _differ(before.text, after.text)],
            "missing": [name for name in former if name not in now.files],
            "added": [name for name in now.files if name not in self.files],
            "in another split": [
                name
                for name, (before, after) in common.items()
                if before.split != after.split and after.split != UNREADABLE and not _differ(before.digest, after.digest)
            ],
            "unreadable": [name for name, (before, after) in common.items() if before.split != after.split == UNREADABLE],
        }
        return ", ".join(f"{len(names):,} {what} ({some(names, NAMED)})" for what, names in found.items() if names)

    def is_reordered(self, now: DataRecord) -> bool:
        """Whether the files that are still there come in another order now, as an edited list of captions may bring them."""
        return [name for name in self.files if name in now.files] != [name for name in now.files if name in self.files]


def _from_hex(text: str) -> bytes:
    """Raises ValueError unless it is as ``hex`` writes it."""
    digest = bytes.fromhex(text)
    if digest.hex() != text:
        raise ValueError(text)
    return digest


def _differ(before: bytes, after: bytes) -> bool:
    """Whether both are known and different."""
    return bool(before and after and before != after)


def require_unchanged(record: DataRecord, now: DataRecord, data: Any, way_out: str) -> None:
    """Check that a run goes on with the files that it began with, and warn of changes that do not matter to its weights.

    Args:
        record, now: the files that it began with, and those of ``data`` that was read without others.
        way_out: what to do, for the message.

    Raises:
        UserError: training or validation images are changed, missing, or in another split.
    """
    if changes := record.changes(now, TRAINED):
        raise UserError(f"{data.content} that the run has learned from are {changes}, so it cannot go on exactly: {way_out}")
    if record.is_reordered(now):
        raise UserError(
            f"{data.content} are listed in another order than when the run began, so it cannot go on exactly: {way_out}"
        )
    if changes := record.changes(now, ("test",)):
        rank_zero_print(f"warning: test images are {changes} since the run began")
    if data.added:
        added = f"{len(data.added):,} {data.content} were added since the run began ({some(sorted(data.added), NAMED)})"
        rank_zero_print(f"warning: {added}: it goes on without them")


def exclude_trained(data: Any, trained_on: set[bytes]) -> None:
    """Leave images that were trained on out of the test split, by their content, and say how many.

    Raises:
        UserError: none is left.
    """
    _warn_of_excluded(*data.exclude_from_test(trained_on))


def warn_of_excluded(data: Any) -> None:
    """Say how many test images, which were read batch by batch, ``exclude_trained`` left out.

    Raises:
        UserError: all of them.
    """
    _warn_of_excluded(*data.excluded_in_test())


def _warn_of_excluded(excluded: int, images: int) -> None:
    if excluded:
        rank_zero_print(f"warning: {excluded:,} of {images:,} test images were trained on, by their content, and are left out")


class ContentRecorder(L.Callback):
    """Completes the record of data that is read batch by batch: at the end of the first epoch, and of the training.

    Args:
        record: of the files that the run began with.
        folder: of the run.
    """

    def __init__(self, data: Any, record: DataRecord, folder: Path) -> None:
        self.data, self.record, self.folder = data, record, folder
        self._has_epoch = self._has_warned = False

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self._has_epoch:
            self._has_epoch = True
            self.complete(trainer)
            self.data.warn_of_repeated()

    def complete(self, trainer: L.Trainer) -> None:
        """Write the digests of what was read, and warn of files that are not those that the run began with."""
        changed = self.record.complete(self.data)
        if changed and not self._has_warned:
            self._has_warned = True
            count = f"{len(changed):,} {self.data.content} have changed since the run began ({some(changed, NAMED)})"
            rank_zero_print(f"warning: {count}: it does not go on exactly")
        if trainer.is_global_zero:
            self.record.write(self.folder)
