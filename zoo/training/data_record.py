"""What a run was trained on: the files of each split with digests of their content, kept beside its settings."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from pathlib import Path
from typing import Any, NamedTuple

from zoo.core.errors import UserError, some
from zoo.core.files import replace_file
from zoo.core.ranks import rank_zero_print

FILE = "data.csv.gz"
NAMED = 3  # files in a message
SPLITS = ("train", "val", "test")
TRAINED = ("train", "val")  # what decides about weights: those of the best epoch are chosen by validation


class File(NamedTuple):
    """The split that a file is in, and the digest of its bytes in hexadecimal."""

    split: str
    digest: str


class DataRecord:
    """The files of a run.

    Attributes:
        files: by their path below the folder of the data.
    """

    def __init__(self, files: dict[str, File]) -> None:
        self.files = files

    @classmethod
    def of(cls, data: Any) -> DataRecord:
        """The files of data that is read; none where it does not come in files."""
        found: dict[str, File] = {}
        for split, files in data.files().items():
            for name, digest in files:
                found.setdefault(name, File(split, digest))  # one that is tested, too, was trained on
        return cls(found)

    @classmethod
    def read(cls, folder: Path) -> DataRecord:
        """That of a run, without files if it has none.

        Raises:
            UserError: it is damaged.
        """
        path = folder / FILE
        try:
            text = gzip.decompress(path.read_bytes()).decode(errors="surrogateescape")
            files = {name: File(split, digest) for split, name, digest in csv.reader(io.StringIO(text, newline=""))}
            if not files or not all(file.digest == bytes.fromhex(file.digest).hex() for file in files.values()):
                raise ValueError
            return cls(files)
        except (FileNotFoundError, NotADirectoryError):
            return cls({})
        except (OSError, EOFError, ValueError, csv.Error, zlib.error):
            raise UserError(f"{path} is damaged: remove it to go on without knowing what the run was trained on") from None

    def write(self, folder: Path) -> None:
        """Write it beside the settings of a run, if there are files."""
        if self.files:
            text = io.StringIO(newline="")
            csv.writer(text).writerows((file.split, name, file.digest) for name, file in self.files.items())
            replace_file(folder / FILE, gzip.compress(text.getvalue().encode(errors="surrogateescape"), mtime=0))

    @property
    def trained_on(self) -> set[bytes]:
        """The digests of the training images."""
        return {bytes.fromhex(file.digest) for file in self.files.values() if file.split == "train"}

    def changes(self, now: DataRecord, splits: tuple[str, ...]) -> str:
        """How the files of these splits differ now, in words with counts and names; empty if they do not."""
        former = {name: file for name, file in self.files.items() if file.split in splits}
        found = {
            "changed": [name for name, file in former.items() if name in now.files and now.files[name].digest != file.digest],
            "missing": [name for name in former if name not in now.files],
            "added": [name for name in now.files if name not in self.files],
            "in another split": [
                name
                for name, file in former.items()
                if name in now.files and now.files[name].split != file.split and now.files[name].digest == file.digest
            ],
        }
        return ", ".join(f"{len(names):,} {what} ({some(names, NAMED)})" for what, names in found.items() if names)


def require_unchanged(record: DataRecord, now: DataRecord, data: Any, way_out: str) -> None:
    """Check that a run goes on with the files that it began with, and warn of changes that do not matter to its weights.

    Args:
        record, now: the files that it began with, and those of ``data`` that was read without others.
        way_out: what to do, for the message.

    Raises:
        UserError: training or validation images are changed, missing, or in another split.
    """
    if changes := record.changes(now, TRAINED):
        raise UserError(f"images that the run has learned from are {changes}, so it cannot go on exactly: {way_out}")
    if changes := record.changes(now, ("test",)):
        rank_zero_print(f"warning: test images are {changes} since the run began")
    if data.added:
        added = f"{len(data.added):,} images were added since the run began ({some(sorted(data.added), NAMED)})"
        rank_zero_print(f"warning: {added}: it goes on without them")


def exclude_trained(data: Any, trained_on: set[bytes]) -> None:
    """Leave images that were trained on out of the test split, by their content, and say how many.

    Raises:
        UserError: none is left.
    """
    excluded, images = data.exclude_from_test(trained_on)
    if excluded:
        rank_zero_print(f"warning: {excluded:,} of {images:,} test images were trained on, by their content, and are left out")
