"""Tables with numbers for each image: forms, unknown numbers, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from image_folders import picture, save
from ways import write_csv, write_parquet

from zoo.core.errors import UserError
from zoo.datamodules.regression_table import RegressionTable

ROWS = [{"file": f"{number:02}.png", "x": number / 4, "y": -number} for number in range(20)]


@pytest.fixture
def images(root: Path) -> Path:
    for number, row in enumerate(ROWS):
        save(root / row["file"], picture(seed=number))
    return root


def ready(path: Path, **options) -> RegressionTable:
    data = RegressionTable(4, 0, str(path), **{"target": ["x", "y"], **options})
    data.prepare_data()
    data.setup()
    return data


def found(data: RegressionTable) -> dict[str, list[float]]:
    return {
        Path(file).name: row.tolist()
        for split in data.splits.values()
        for file, row in zip(split.files, split.labels, strict=True)
    }


def test_csv_parquet_and_json_give_the_same(images: Path) -> None:
    (images / "list.json").write_text(json.dumps(ROWS))
    paths = [write_csv(images / "list.csv", ROWS), write_parquet(images / "list.parquet", ROWS), images / "list.json"]
    first, *others = map(ready, paths)
    assert found(first) == {row["file"]: [row["x"], row["y"]] for row in ROWS}
    assert all(found(other) == found(first) for other in others)
    labels = first.splits["train"].labels.double()
    assert first.spec.target_mean == pytest.approx(labels.mean(0).tolist())
    assert first.spec.target_std == pytest.approx(labels.std(0, correction=0).tolist())


def test_an_empty_cell_is_unknown(images: Path) -> None:
    rows = [{**row, "x": "" if row["file"] < "03.png" else row["x"]} for row in ROWS]
    rows[5] = {**rows[5], "x": "", "y": ""}
    data = ready(write_csv(images / "list.csv", rows))
    kept = found(data)
    assert "05.png" not in kept and len(kept) == 19
    assert sum(torch.tensor(row).isnan()[0].item() for row in kept.values()) == 3


def test_other_data_is_matched_by_the_names_of_its_numbers(images: Path) -> None:
    data, path = ready(write_csv(images / "list.csv", ROWS)), images / "list.csv"
    spec = replace(data.spec, targets=("y", "x"), target_mean=(1.0, 2.0), target_std=(3.0, 4.0))
    data.require_compatible(spec, "mine")
    assert found(data) == {row["file"]: [row["y"], row["x"]] for row in ROWS} and data.spec.target_std == (3.0, 4.0)
    with pytest.raises(UserError, match="mine has the numbers x, but the model predicts y, x"):
        ready(path, target=["x"]).require_compatible(spec, "mine")


@pytest.mark.parametrize(
    ("change", "target", "words"),
    [
        ({"x": "tall"}, ["x"], "row 2, column 'x': 'tall' is no finite number"),
        ({"x": "1e200"}, ["x"], "row 2, column 'x': '1e200' is too large: numbers are float32"),
        ({}, ["z"], "data.target: .* has no column 'z': it has x, y"),
        ({}, [], r"data.target=\[\]: name the columns of numbers"),
        ({}, ["x", "x"], "names 'x' twice"),
    ],
)
def test_what_is_refused(images: Path, change: dict, target: list[str], words: str) -> None:
    path = write_csv(images / "list.csv", [{**ROWS[0], **change}, *ROWS[1:]])
    with pytest.raises(UserError, match=words):
        _ = RegressionTable(4, 0, str(path), target=target).tree


def test_a_number_that_is_the_same_for_all_is_refused(images: Path) -> None:
    with pytest.raises(UserError, match="'x' is the same for all training images: there is nothing to learn"):
        ready(write_csv(images / "list.csv", [{**row, "x": 3} for row in ROWS]))
