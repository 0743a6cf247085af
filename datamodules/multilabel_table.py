"""A table of image paths with any number of labels each, or a folder with such a table in JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.core.errors import UserError, did_you_mean, one_line, some
from zoo.core.files import expanded
from zoo.datamodules.bases.multilabel import MultiLabelData
from zoo.datamodules.bases.target_files import TargetFiles
from zoo.datamodules.files.image_rows import LABEL_COLUMNS, Row, find_column
from zoo.datamodules.files.image_tree import LONG, NAMED
from zoo.datamodules.files.label_sets import decode_flags, encode_sets, flags_text, is_flag, separator_of, set_text
from zoo.datamodules.files.tables import ColumnOptions, open_table, read_targets
from zoo.registry.entry import register_data
from zoo.spec import MultiLabelSpec

IN_A_FOLDER = "labels.json"


@register_data("multilabel-table", task="multilabel", tags=["local-files", "color"])
class MultiLabelTable(TargetFiles, MultiLabelData):
    """Images with several labels each, listed in a CSV, parquet or JSON file, or in ``labels.json`` of a folder.

    Labels are in one column, ``cat|dog``, or in a column of 0 and 1 for each class; an empty cell of such a column is unknown
    and not learned. JSON is ``{"a.jpg": ["cat", "dog"]}``, or a list of rows. Other columns are found by their usual names, as
    in ``table``.

    Args:
        path: the table, or a folder with ``labels.json``.
        image_column: name of the column of paths.
        label_column: name of the column of labels.
        label_columns: names of the columns of 0 and 1; default: all such columns, if there is no column of labels.
        separator: character between labels; default: the first of | ; and , that occurs.
        split_column: name of the column of splits: train, val or test by any of their usual names.
        root: folder that the paths are relative to; default: that of the table.
    """

    def __init__(
        self,
        batch_size: int,
        seed: int,
        path: str,
        image_column: str = "",
        label_column: str = "",
        label_columns: list[str] = [],  # noqa: B006
        separator: str = "",
        split_column: str = "",
        root: str = "",
        **options: Any,
    ) -> None:
        self.path = expanded(path)
        if self.path.is_dir():
            self.path /= IN_A_FOLDER
            if not self.path.is_file():
                raise UserError(f"data.path={path}: the folder holds no {IN_A_FOLDER}: give the table, as in data.path=list.csv")
        super().__init__(batch_size, seed, root=root or str(self.path.parent), **options)
        if label_column and label_columns:
            raise UserError("data.label_column and data.label_columns are mutually exclusive")
        self.columns = ColumnOptions(image_column, label_column, split_column)
        if twice := [name for name in label_columns if label_columns.count(name) > 1]:
            raise UserError(f"data.label_columns: names {twice[0]!r} twice")
        self.label_columns, self.separator = tuple(label_columns), separator
        self._flags: tuple[str, ...] = ()  # columns of 0 and 1

    @property
    def source(self) -> Path:
        return self.path

    def build_spec(self) -> MultiLabelSpec:
        height, width = self._shape
        return MultiLabelSpec(self._channels, height, width, classes=self._encoded[0], crop=self.crop)

    def read_rows(self) -> list[Row]:
        def choose(columns: list[str]) -> Sequence[str]:
            label = find_column(self.columns.label, "label_column", columns, LABEL_COLUMNS, str(self.path))
            self._flags = () if label and not self.label_columns else self._flag_columns(columns)
            return self._flags or [label]

        def text_of(cells: Sequence[Any], place: str) -> str:
            return flags_text(cells, place) if self._flags else set_text(cells, place)

        return read_targets(self.path, self.columns, choose, text_of)

    def _flag_columns(self, columns: list[str]) -> tuple[str, ...]:
        """The columns of 0 and 1 that were named, or all of them.

        Raises:
            UserError: one is not there, or there are none.
        """
        for name in self.label_columns:
            if name not in columns:
                hint = did_you_mean(name, columns) or f": it has {some(columns, 20)}"
                raise UserError(f"data.label_columns: {self.path} has no column {name!r}{hint}")
        if self.label_columns:
            return self.label_columns
        others: dict[str, tuple[int, Any]] = {}  # columns with other cells, and the first of those
        flags, rows = Counter[str](), 0
        for number, cells in open_table(self.path)[2](columns):
            rows += 1
            for name, cell in zip(columns, cells, strict=True):
                if is_flag(cell):
                    flags[name] += 1
                else:
                    others.setdefault(name, (number, cell))
        for name, (number, cell) in others.items():
            if flags[name] > rows / 2:
                fault = f"row {number} has {one_line(repr(cell), 60)}, neither 1 nor 0"
                self._note(f"column {name!r} is not used: {fault}; data.label_columns names the columns to use")
        if len(others) == len(columns):
            lacking = f"no column is named as labels are, or holds 0 and 1: it has {some(columns, 20)}"
            raise UserError(f"{self.path}: {lacking}: choose by data.label_column=NAME, or data.label_columns=[A,B] of 0 and 1")
        return tuple(name for name in columns if name not in others)

    def encode(self) -> Tensor:
        return self._encoded[1]

    @cached_property
    def _encoded(self) -> tuple[tuple[str, ...], Tensor]:
        """The classes, and the labels of each distinct text in the tree."""
        texts = self.tree.classes
        separator = self.separator or separator_of(texts)
        classes, labels = (self._flags, decode_flags(texts)) if self._flags else encode_sets(texts, separator)
        if len(classes) < (1 if self._whole else 2):
            only = f"the class {classes[0]!r}" if classes else "no class"
            between = "" if self._flags else f"; data.separator={separator or 'CHARACTER'} is what stands between labels"
            raise UserError(f"{self.path}: names only {only}: at least two are needed{between}")
        return classes, labels

    def note_what_is_lacking(self) -> None:
        for name, split in self.splits.items():
            counts = (split.labels == 1).sum(0)
            if len(split) and not counts.all():
                lacking = [self.spec.classes[place] for place in torch.nonzero(counts == 0)[:, 0].tolist()]
                effect = "not learned" if name == "train" else f"not in the {LONG[name]} metrics"
                self._note(f"no {LONG[name]} image of {some(lacking, NAMED)}: {effect}")
