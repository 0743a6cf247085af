"""Reading text files: one, or all of a folder."""

from __future__ import annotations

import os
from pathlib import Path

from zoo.core.errors import UserError
from zoo.core.ranks import rank_zero_print


def read_text(path: Path, label: str) -> str:
    """Read a UTF-8 file, or all files below a folder in the order of their paths, joined by newlines.

    A byte order mark is removed. Files of a folder that are not UTF-8 are skipped with a warning.

    Args:
        label: name of the file in messages, as in ``data.root=letters``.

    Raises:
        UserError: there is no such file, it is not UTF-8, it cannot be read, or there is nothing in it.
    """
    if not path.exists():
        raise UserError(f"{label}: there is no such file or folder")
    if not path.is_dir():
        try:
            text = _read(path)
        except UnicodeDecodeError as error:
            raise UserError(f"{label}: is not UTF-8 text (byte {error.start:,})") from None
    else:
        text = _read_all(path, label)
    if not text:
        raise UserError(f"{label}: is empty: there is no text in it")
    return text


def _read_all(folder: Path, label: str) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    texts, strange = [], []
    for file in files:
        try:
            texts.append(_read(file))
        except UnicodeDecodeError:
            strange.append(file)
    if strange and not texts:
        raise UserError(f"{label}: none of its files is UTF-8 text, such as {strange[0].name}")
    if strange:
        count = f"{len(strange):,} of {len(files):,} files, such as {strange[0].name},"
        rank_zero_print(f"warning: {label}: {count} are skipped: they are not UTF-8 text")
    return "\n".join(texts)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {os.strerror(error.errno).lower()}") from None
