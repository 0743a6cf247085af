"""Data sets that the library ``datasets`` reads: those of the Hugging Face hub, and local folders in its formats."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from zoo.core.files import cache_folder
from zoo.datamodules.bases.classified_files import ClassifiedFiles
from zoo.datamodules.files.decoded import locked
from zoo.datamodules.files.hub_rows import HubSource, open_splits, rows_of, unread_images
from zoo.datamodules.files.image_rows import Source, require_classes, tree_of_rows
from zoo.datamodules.files.image_tree import Tree
from zoo.datamodules.files.kept_tree import read_tree, write_tree
from zoo.registry.entry import register_data


@register_data("hf", task="classification", tags=["color"])
class HubImages(ClassifiedFiles):
    """Data sets of the Hugging Face hub, or local ones in Arrow, parquet or image folders, by the library ``datasets``.

    Columns are found by their usual names, such as ``image`` and ``label``, or by their type. Splits are those of the data set.
    Nothing that comes with the data is run. Embedded images are written to files in the cache, once.

    Args:
        path: a folder or a file, or the name of a data set on the hub.
        config: configuration, where the data set has several.
        revision: branch, tag or commit on the hub.
        image_column: name of the column of images.
        label_column: name of the column of labels.
        root: folder that relative paths in the data are relative to; default: its own.
    """

    def __init__(
        self,
        batch_size: int,
        seed: int,
        path: str,
        config: str = "",
        revision: str = "",
        image_column: str = "",
        label_column: str = "",
        root: str = "",
        **options: Any,
    ) -> None:
        super().__init__(batch_size, seed, root=root, **options)
        self.asked = HubSource(path, config, revision, image_column, label_column)

    @property
    def source(self) -> str:
        return self.asked.path

    def list_files(self, whole: bool) -> Tree:
        key, given = self.asked.key(), self.root
        self.root = folder = cache_folder() / "hf" / key
        kept = cache_folder() / "trees" / f"{key}{'-whole' if whole else ''}.npz"
        with locked(kept):  # one process of a run reads, the others find its list
            with suppress(Exception):  # missing or damaged, in whatever way
                tree, state = read_tree(kept)
                if state == self.asked.state() and folder.exists():
                    return tree
            state, splits = self.asked.state(), open_splits(self.asked)
            listed = list(rows_of(splits, self.asked, folder))
            rows, classes = [row for row, _ in listed], splits[0].classes
            if not classes:
                require_classes({row.label for row in rows if row.label}, splits[0].label, self.source)
            is_written = any(written for _, written in listed)
            self.root = folder if is_written else given or self.asked.place
            notes = [] if is_written else unread_images(self.asked, rows)
            tree = tree_of_rows(rows, Source(self.source, Path(self.root), classes, notes), 1 if whole else 2, whole)
            if is_written:
                os.sync()
                write_tree(kept, tree, state)
            return tree
