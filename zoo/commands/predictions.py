"""Output of ``zoo predict``: CSV and JSON while images are read, a table once its columns are known."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from zoo.commands.shell import print_table
from zoo.core.errors import UserError
from zoo.core.files import replacing, require_writable
from zoo.core.printing import csv_line, json_text

if TYPE_CHECKING:
    from zoo.tasks.prediction import Prediction

    Predictions = Iterable[tuple[str, Prediction]]  # with their files

T = TypeVar("T")
FORMATS = ("csv", "json")  # of files, by their ending


def answer_format(as_json: bool, as_csv: bool, output: str) -> str:
    """``csv``, ``json`` or ``table``, as flags or the name of a file say.

    Raises:
        UserError: they contradict each other, or such a file cannot be written.
    """
    if as_json and as_csv:
        raise UserError("--json and --csv are mutually exclusive")
    flag = "json" if as_json else "csv" if as_csv else ""
    if not output:
        return flag or "table"
    ending = Path(output).suffix.lower().removeprefix(".")
    if ending not in FORMATS:
        raise UserError(f"--output {output}: its name must end in .csv or .json")
    if flag not in ("", ending):
        raise UserError(f"--output {output}: its name ends in .{ending}, but --{flag} was given: omit it")
    require_writable("--output", Path(output))
    return ending


def print_answers(predictions: Predictions, written_as: str) -> None:
    """Print predictions, also those before a fault."""
    if written_as != "table":
        for text in _pieces(predictions, written_as):
            print(text, end="", flush=True)
        return
    rows, header = [], ()
    try:
        for file, prediction in predictions:
            row = {"file": file, **prediction.to_row()}
            rows.append(tuple(row.values()))
            header = tuple(row)
    finally:
        if rows:
            print_table(rows, header)
            sys.stdout.flush()  # before an error, which goes another way


def write_answers(predictions: Predictions, written_as: str, path: Path) -> int:
    """Write predictions into a file and return their number.

    Raises:
        UserError: some images cannot be read; predictions for the others are in the file, if there are any.
        OSError: nothing was changed.
    """
    readable = UntilFault(predictions)
    with replacing(path) as file:
        for text in _pieces(readable, written_as):
            file.write(text.encode())
    readable.raise_fault()
    return readable.count


class UntilFault(Generic[T]):
    """Passes on results up to a UserError, which waits until ``raise_fault`` if there are results before it.

    Attributes:
        count: results so far.
    """

    def __init__(self, results: Iterable[T]) -> None:
        self.results, self.count = results, 0
        self._fault: UserError | None = None

    def __iter__(self) -> Iterator[T]:
        try:
            for self.count, result in enumerate(self.results, 1):  # noqa: B020
                yield result
        except UserError as error:
            if not self.count:
                raise
            self._fault = error

    def raise_fault(self) -> None:
        if self._fault:
            raise self._fault


def _pieces(predictions: Predictions, written_as: str) -> Iterator[str]:
    """The text of a CSV or JSON file, piece by piece; nothing before the first prediction, and whole in spite of a fault."""
    return (_csv_lines if written_as == "csv" else _json_array)(predictions)


def _csv_lines(predictions: Predictions) -> Iterator[str]:
    for number, (file, prediction) in enumerate(predictions):
        cells = {"file": file, **prediction.to_columns()}
        yield (csv_line(cells) if not number else "") + csv_line(cells.values())


def _json_array(predictions: Predictions) -> Iterator[str]:
    before, fault = "[\n", None
    try:
        for file, prediction in predictions:
            content = json_text({"file": file, **prediction.to_dict()}, indent=2)
            yield before + textwrap.indent(content, "  ")
            before = ",\n"
    except UserError as error:
        fault = error
    if before != "[\n":
        yield "\n]\n"
    if fault:
        raise fault
