"""A table of image paths with one or several numbers each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.core.errors import UserError, did_you_mean, one_line, some
from zoo.core.files import expanded
from zoo.datamodules.bases.regression import RegressionData
from zoo.datamodules.bases.target_files import TargetFiles
from zoo.datamodules.files.image_rows import Row
from zoo.datamodules.files.tables import ColumnOptions, read_targets
from zoo.registry.entry import register_data
from zoo.spec import RegressionSpec


@register_data("regression-table", task="regression", tags=["local-files", "color"])
class RegressionTable(TargetFiles, RegressionData):
    """Images with numbers, listed in a CSV, parquet or JSON file: a column of paths and one for each number.

    An empty cell is unknown and not learned; rows without any number are left out. The columns of paths and splits are found by
    their usual names, as in ``table``.

    Args:
        path: the table.
        target: names of the columns of numbers, as in [x,y].
        image_column: name of the column of paths.
        split_column: name of the column of splits: train, val or test by any of their usual names.
        root: folder that the paths are relative to; default: that of the table.
        augment: none, light, standard, strong, or a list of transforms that keep the numbers as they are, as in jitter.
    """

    def __init__(
        self,
        batch_size: int,
        seed: int,
        path: str,
        target: list[str],
        image_column: str = "",
        split_column: str = "",
        root: str = "",
        **options: Any,
    ) -> None:
        self.path = expanded(path)
        super().__init__(batch_size, seed, root=root or str(self.path.parent), **options)
        self.columns, self.target = ColumnOptions(image=image_column, split=split_column), tuple(target)
        if not self.target:
            raise UserError("data.target=[]: name the columns of numbers, as in data.target=[x,y]")
        if twice := [name for name in self.target if self.target.count(name) > 1]:
            raise UserError(f"data.target: names {twice[0]!r} twice")

    @property
    def source(self) -> Path:
        return self.path

    def build_spec(self) -> RegressionSpec:
        height, width = self._shape
        return RegressionSpec(self._channels, height, width, crop=self.crop, targets=self.target)

    def read_rows(self) -> list[Row]:
        return read_targets(self.path, self.columns, self._chosen, self._text_of)

    def _chosen(self, columns: list[str]) -> Sequence[str]:
        for name in self.target:
            if name not in columns:
                hint = did_you_mean(name, columns) or f": it has {some(columns, 20)}"
                raise UserError(f"data.target: {self.path} has no column {name!r}{hint}")
        return self.target

    def _text_of(self, cells: Sequence[Any], place: str) -> str:
        values = [self._number(cell, f"{place}, column {name!r}") for name, cell in zip(self.target, cells, strict=True)]
        return "" if all(map(math.isnan, values)) else " ".join(map(repr, values))

    def _number(self, cell: Any, place: str) -> float:
        if cell is None or (isinstance(cell, str) and not cell.strip()):
            return math.nan
        try:
            value = float(cell)
        except (TypeError, ValueError):
            value = math.inf
        if math.isinf(value):
            raise UserError(f"{place}: {one_line(repr(cell), 60)} is no finite number")
        if abs(value) > torch.finfo(torch.float32).max:
            raise UserError(f"{place}: {one_line(repr(cell), 60)} is too large: numbers are float32")
        return value

    def encode(self) -> Tensor:
        return torch.tensor([[float(value) for value in text.split()] for text in self.tree.classes])
