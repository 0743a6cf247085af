"""A table of image paths and labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zoo.core.files import expanded
from zoo.datamodules.bases.classified_files import ClassifiedFiles
from zoo.datamodules.files.image_rows import Source, tree_of_rows
from zoo.datamodules.files.image_tree import Tree
from zoo.datamodules.files.label_hints import hint_at_other_table
from zoo.datamodules.files.tables import ColumnOptions, read_table
from zoo.registry.entry import register_data


@register_data("table", task="classification", tags=["local-files", "color"])
class Table(ClassifiedFiles):
    """Images listed in a CSV, parquet or JSON file, with a column of paths, one of labels and perhaps one of splits.

    Columns are found by their usual names, such as ``path`` or ``file_name``, ``label`` or ``class``, and ``split``. Rows whose
    file is missing or that have no label are left out with a warning.

    Args:
        path: the table: .csv with any of the usual delimiters, .tsv, .txt, .parquet or .json.
        image_column: name of the column of paths.
        label_column: name of the column of labels.
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
        split_column: str = "",
        root: str = "",
        **options: Any,
    ) -> None:
        self.path = expanded(path)
        super().__init__(batch_size, seed, root=root or str(self.path.parent), **options)
        self._given_root = root
        self.columns = ColumnOptions(image_column, label_column, split_column)

    @property
    def source(self) -> Path:
        return self.path

    def list_files(self, whole: bool) -> Tree:
        rows, label, notes = read_table(self.path, self.columns)
        if not whole:
            labels = {row.label for row in rows if row.label}
            settings = {"path": str(self.path), "image_column": self.columns.image, "split_column": self.columns.split}
            notes += hint_at_other_table(labels, label, {**settings, "root": self._given_root})
        return tree_of_rows(rows, Source(str(self.path), self.root, notes=notes), 1 if whole else 2, whole)
