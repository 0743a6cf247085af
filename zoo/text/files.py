"""Reading text files: one, or all of a folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from zoo.core.errors import UserError, near_path
from zoo.core.files import LeftOut, describe_left_out, files_below, read_regular
from zoo.core.ranks import rank_zero_print


def read_text(path: Path, label: str) -> str:
    """Read a UTF-8 file, or all files below a folder as ``read_texts`` does, joined by newlines."""
    return "\n".join(read_texts(path, label))


def read_texts(path: Path, label: str) -> list[str]:
    """The texts of a UTF-8 file, or of all files below a folder, as ``named_texts`` reads them."""
    return list(named_texts(path, label).values())


def named_texts(path: Path, label: str, is_kept: Callable[[str], bool] = lambda name: True) -> dict[str, str]:
    """Read a UTF-8 file, or all files below a folder in the order of their paths: the texts by these paths below it.

    A byte order mark is removed. Of a folder, hidden files and folders, further copies of a file and files that are not UTF-8 are
    left out with a warning, so that no text stands twice in what is split into training and test.

    Args:
        label: name of the file in messages, as in ``data.root=letters``.
        is_kept: which files of a folder to read.

    Raises:
        UserError: there is no such file, it is not UTF-8, it cannot be read, or there is nothing in it.
    """
    if not path.exists():
        raise UserError(f"{label}: there is no such file or folder{near_path(path)}")
    if not path.is_dir():
        try:
            text = _read(path, label)
        except UnicodeDecodeError as error:
            raise UserError(f"{label}: is not UTF-8 text (byte {error.start:,})") from None
        texts = {path.name: text} if text else {}
    else:
        texts = _read_all(path, label, is_kept)
    if not texts:
        raise UserError(f"{label}: is empty: there is no text in it")
    return texts


def _read_all(folder: Path, label: str, is_kept: Callable[[str], bool]) -> dict[str, str]:
    left_out: LeftOut = {}
    copies: list[str] = []
    strange: list[str] = []
    texts: dict[str, str] = {}  # names by text: in order, each once
    try:
        files = sorted(map(Path, files_below(folder, left_out)))
    except OSError as error:
        raise UserError(f"{error.filename or folder}: cannot be read: {(error.strerror or str(error)).lower()}") from None
    for file in files:
        name = file.relative_to(folder).as_posix()
        if not is_kept(name):
            continue
        try:
            text = _read(file, str(file))
        except UnicodeDecodeError:
            strange.append(str(file))
            continue
        if text in texts:
            copies.append(str(file))
        elif text:
            texts[text] = name
    if strange and not texts:
        raise UserError(f"{label}: none of its files is UTF-8 text, such as {Path(strange[0]).name}")
    if faults := describe_left_out({**left_out, "copies of others": copies, "not UTF-8 text": strange}, folder):
        rank_zero_print(f"warning: {label}: {len(texts):,} files are read, others left out: {faults}")
    return {name: text for text, name in texts.items()}


def _read(file: Path, label: str) -> str:
    """The text of a file with line breaks as Python has them."""
    text = read_regular(file, label).decode("utf-8-sig")
    return text.replace("\r\n", "\n").replace("\r", "\n")
