"""What is printed and written for others: names of any origin as one safe line, in any encoding."""

from __future__ import annotations

import codecs
import csv
import io
import json
import shlex
import sys
import unicodedata
from collections.abc import Iterable
from typing import Any

# what the zoo itself prints beyond ASCII, for terminals that cannot
PLAIN = {"…": "...", **dict(zip("–−━×✓✗▁▂▃▄▅▆▇█", "--=x+x_.-:=+*#", strict=True))}
READABLE = "zoo.readable"  # an error handler of encodings
LAYOUT = "\n\t"  # of a text of several lines
HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")  # categories of Unicode without a shape of their own
JOINERS = "\u200c\u200d"  # in emoji and in some scripts
FORMULAS = ("=", "+", "-", "@", "\t", "\r")  # with which a spreadsheet begins what it computes


def printable(text: object, kept: str = "") -> str:
    """Text as one line: control characters, marks that turn the direction of writing, and bytes that are no text are escaped.

    Args:
        kept: what is not escaped, as ``LAYOUT`` in a text of several lines.
    """
    text = str(text)
    bare = text.translate(dict.fromkeys(map(ord, kept))) if kept else text
    if bare.isascii() and bare.isprintable():
        return text
    return "".join(letter if letter in kept else _escaped(letter) for letter in text)


def _escaped(letter: str) -> str:
    if "\udc80" <= letter <= "\udcff":  # a byte of a file's name that is not UTF-8
        return f"\\x{ord(letter) - 0xDC00:02x}"
    is_hidden = unicodedata.category(letter) in HIDDEN and letter not in JOINERS
    return letter.encode("unicode_escape").decode() if is_hidden else letter


def columns_of(text: str) -> int:
    """The columns of a terminal that a text takes: two for a Chinese character, none for an accent behind its letter."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def padded(text: str, columns: int, right: bool = False) -> str:
    """Text with blanks behind it, or in front if it stands to the ``right``, to so many columns of a terminal."""
    blanks = " " * (columns - columns_of(text))
    return blanks + text if right else text + blanks


def shell_word(text: str) -> str:
    """Text as a word of a command to print and copy: what cannot be printed stands as bytes in quotes of bash and zsh."""
    if printable(text) == text:
        return shlex.quote(text)
    quoted = text.replace("\\", "\\\\").replace("'", "\\'")
    return "$'" + "".join(each if printable(each) == each else _bytes(each) for each in quoted) + "'"


def _bytes(letter: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in letter.encode(errors="surrogateescape"))


def is_utf8(path: str) -> bool:
    """Whether a path is text, and not bytes in another encoding, which reports and exported files cannot hold."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def composed(name: str) -> str:
    """A name in composed Unicode: systems store an accent with its letter or behind it, and both are one name."""
    return unicodedata.normalize("NFC", name)


def make_output_readable() -> None:
    """Let standard output and errors take any text: what their encoding lacks is replaced or escaped."""
    codecs.register_error(READABLE, _replace)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=READABLE)
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = "".join(PLAIN.get(letter) or printable(letter) for letter in error.object[error.start : error.end])
    return text.encode("ascii", "backslashreplace").decode(), error.end


def json_text(value: Any, **options: Any) -> str:
    """JSON as ``json.dumps`` writes it; what is not safe to print, or what standard output cannot encode, is escaped."""
    text = json.dumps(value, ensure_ascii=False, **options)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(value, **options)
    return text if printable(text, kept="\n") == text else json.dumps(value, **options)


def csv_line(cells: Iterable[object]) -> str:
    """A line of CSV in which no text is a formula: one that a spreadsheet would compute gets an apostrophe in front."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(map(_defuse, cells))
    return line.getvalue()


def _defuse(cell: object) -> object:
    if not isinstance(cell, str):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{printable(cell)}" if cell.startswith(FORMULAS) else printable(cell)
    return cell
