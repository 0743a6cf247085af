"""Tables of images, in CSV, parquet or JSON: the columns of paths, labels and splits."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from zoo.core.errors import UserError, one_line, some
from zoo.core.files import read_regular, require_regular
from zoo.core.printing import shell_word
from zoo.datamodules.files.formats import FORMAT_OF
from zoo.datamodules.files.image_rows import (
    IMAGE_COLUMNS,
    LABEL_COLUMNS,
    SPLIT_COLUMNS,
    Row,
    find_column,
    label_text,
    require_classes,
    require_column,
)
from zoo.datamodules.files.image_tree import split_called
from zoo.datamodules.files.json_files import read_json

DELIMITERS = ",;\t|"
TEXT_ENDINGS = (".csv", ".tsv", ".txt")
INSTALL = "pip install 'bestiary[hf]'"


class ColumnOptions(NamedTuple):
    """The names of columns that a user gave; empty to find them."""

    image: str = ""
    label: str = ""
    split: str = ""


class ClassTable(NamedTuple):
    """The rows of a table of classes, the column of their labels, and notes about other columns."""

    rows: list[Row]
    label_column: str
    notes: list[str]


def read_table(path: Path, options: ColumnOptions) -> ClassTable:
    """Read a table of classes.

    Raises:
        UserError: it is missing or damaged, or lacks a column.
    """
    columns, texts, read = open_table(path)
    source = str(path)
    image = require_column(options.image, "image_column", columns, IMAGE_COLUMNS, source)
    label = require_column(options.label, "label_column", columns, LABEL_COLUMNS, source)
    split = find_column(options.split, "split_column", columns, SPLIT_COLUMNS, source)
    others = [] if split else [name for name in texts if name not in (image, label)]
    with_others: set[str] = set()

    def text_of(cells: Sequence[Any], place: str) -> str:
        if len(with_others) < len(others):
            named = zip(others, cells[1:], strict=True)
            with_others.update(name for name, cell in named if split_called((cell or "").strip()) is None)
        return label_text(cells[0], label, source)

    rows = _read_rows(source, read, (image, [label, *others], split), text_of)
    require_classes({row.label for row in rows if row.label}, label, source)
    unused = [name for name in others if name not in with_others]
    notes = [f"column {name!r} names splits and is not used: data.split_column={shell_word(name)} uses it" for name in unused]
    return ClassTable(rows, label, notes)


def read_targets(
    path: Path,
    options: ColumnOptions,
    choose: Callable[[list[str]], Sequence[str]],
    text_of: Callable[[Sequence[Any], str], str],
) -> list[Row]:
    """The rows of a table whose labels are not classes.

    Args:
        options: ``label`` is not used.
        choose: the columns that make the label, out of all but those of paths and splits.
        text_of: the text of a label, for the cells of these columns and a place for messages; empty if it is missing.

    Raises:
        UserError: it is missing or damaged, or lacks a column.
    """
    columns, _, read = open_table(path)
    source = str(path)
    image = require_column(options.image, "image_column", columns, IMAGE_COLUMNS, source)
    split = find_column(options.split, "split_column", columns, SPLIT_COLUMNS, source)
    wanted = choose([name for name in columns if name not in (image, split)])
    return _read_rows(source, read, (image, wanted, split), text_of)


def _read_rows(
    source: str, read: Read, columns: tuple[str, Sequence[str], str], text_of: Callable[[Sequence[Any], str], str]
) -> list[Row]:
    """The rows, by the columns of paths, of what makes the label, and of splits, which may be empty."""
    image, wanted, split = columns
    rows = []
    for number, (path_cell, *cells) in read([image, *wanted, *([split] if split else [])]):
        named = split_text(cells.pop()) if split else None
        rows.append(Row(path_text(path_cell, image, source), text_of(cells, f"{source}: row {number}"), named, number))
    if not rows:
        raise UserError(f"{source}: has no rows")
    return rows


def path_text(cell: object, column: str, source: str) -> str:
    """A cell of the column of paths; empty if there is none.

    Raises:
        UserError: it is no text.
    """
    if not isinstance(cell, str | None):
        raise UserError(_not_paths(source, column, cell))
    return (cell or "").strip()


def split_text(cell: object) -> str:
    """A cell of the column of splits; empty if there is none."""
    return "" if cell is None else str(cell).strip()


def open_table(path: Path) -> tuple[list[str], list[str], Read]:
    """The columns of a table, those of text, and what reads them.

    Raises:
        UserError: it is missing or damaged.
    """
    ending = path.suffix.lower()
    if ending == ".json":
        return _open_json(path)
    if ending == ".parquet":
        return _open_parquet(path)
    if ending in TEXT_ENDINGS:
        columns, read = _open_text(path)
        return columns, columns, read
    raise UserError(f"data.path={path}: is no table: its name must end in {', '.join((*TEXT_ENDINGS, '.parquet', '.json'))}")


def _not_paths(source: str, column: str, value: object) -> str:
    if isinstance(value, bytes | dict):
        return f"{source}: column {column!r} holds images, not paths: the data set hf reads it, with --set data.path={source}"
    return f"{source}: column {column!r} holds {type(value).__name__} values, not paths: choose another by data.image_column=NAME"


Read = Callable[[Sequence[str]], Iterator[tuple[int, tuple[Any, ...]]]]  # numbers and cells of rows, for names of columns


def _open_text(path: Path) -> tuple[list[str], Read]:
    try:
        text = read_regular(path, f"data.path={path}").decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8: save it as CSV in UTF-8") from None
    lines = text.splitlines()
    if not text.strip():
        raise UserError(f"{path}: is empty: its first line must name the columns, as in path,label")
    delimiter = max(DELIMITERS, key=lambda each: len(next(csv.reader(lines[:1], delimiter=each), ())))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    columns = [name.strip() for name in next(reader)]
    if any(name.rpartition(".")[2].lower() in FORMAT_OF for name in columns if "." in name):
        example = f"path{delimiter}label"
        raise UserError(f"{path}: its first line must name the columns, as in {example}, but is {one_line(lines[0], 60)}")

    def read(wanted: Sequence[str]) -> Iterator[tuple[int, tuple[str, ...]]]:
        places = [columns.index(name) for name in wanted]
        try:
            for cells in reader:
                if len(cells) > len(columns) and any(cells[len(columns) :]):
                    raise UserError(
                        f"{path}: line {reader.line_num} has {len(cells)} cells and the first line {len(columns)}: "
                        f"put cells that contain {delimiter!r} in quotes"
                    )
                if any(cells):
                    yield reader.line_num, tuple(cells[place] if place < len(cells) else "" for place in places)
        except csv.Error as error:
            raise UserError(f"{path}: line {reader.line_num}: {one_line(error)}") from None

    return columns, read


def _open_json(path: Path) -> tuple[list[str], list[str], Read]:
    """A list of objects, one a row, or an object that maps each path to its label."""
    require_regular(path, f"data.path={path}")
    content = read_json(path, lambda content: content)
    if isinstance(content, dict):
        content = [{"image": name, "label": label} for name, label in content.items()]
    if not isinstance(content, list) or not content or not all(isinstance(row, dict) for row in content):
        shapes = '{"a.jpg": ["cat", "dog"], ...} or [{"image": "a.jpg", "label": ["cat", "dog"]}, ...]'
        raise UserError(f"{path}: holds no rows: write it as {shapes}")
    columns = list(dict.fromkeys(name for row in content for name in row))
    texts = [name for name in columns if all(isinstance(row.get(name), str | None) for row in content)]

    def read(wanted: Sequence[str]) -> Iterator[tuple[int, tuple[Any, ...]]]:
        for number, row in enumerate(content, 1):
            yield number, tuple(row.get(name) for name in wanted)

    return columns, texts, read


def _open_parquet(path: Path) -> tuple[list[str], list[str], Read]:
    require_regular(path, f"data.path={path}")
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UserError(f"{path}: reading parquet needs pyarrow: {INSTALL}") from None
    try:
        file = parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: is no parquet file that can be read: {one_line(error, 100)}") from None
    columns = file.schema_arrow.names
    if doubled := {name for name in columns if columns.count(name) > 1}:
        raise UserError(f"{path}: has several columns {some(sorted(doubled))}")
    types = {field.name: field.type for field in file.schema_arrow}
    if embedded := [name for name, each in types.items() if pyarrow.types.is_struct(each) and each.get_field_index("bytes") >= 0]:
        raise UserError(_not_paths(str(path), embedded[0], b""))

    def read(wanted: Sequence[str]) -> Iterator[tuple[int, tuple[Any, ...]]]:
        number = 0
        try:
            for batch in file.iter_batches(columns=list(dict.fromkeys(wanted))):
                for cells in zip(*(batch.column(name).to_pylist() for name in wanted), strict=True):
                    number += 1
                    yield number, cells
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(f"{path}: cannot be read: {one_line(error, 100)}") from None

    texts = [name for name, each in types.items() if pyarrow.types.is_string(each) or pyarrow.types.is_large_string(each)]
    return columns, texts, read
