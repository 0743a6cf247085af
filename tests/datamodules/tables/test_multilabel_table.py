"""Tables and JSON files with several labels for each image: forms, unknown labels, splits, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from image_folders import picture, save
from ways import write_csv, write_parquet

from zoo.core.errors import UserError
from zoo.datamodules.multilabel_table import MultiLabelTable
from zoo.spec import IGNORE

SETS = [["cat"], ["dog", "cat"], [], ["dog"], ["dog", "owl"]]
FILES = [f"{number:02}.png" for number in range(20)]
LABELS = {name: SETS[number % 5] for number, name in enumerate(FILES)}


@pytest.fixture
def images(root: Path) -> Path:
    for number, name in enumerate(FILES):
        save(root / name, picture(seed=number))
    return root


def ready(path: Path, **options) -> MultiLabelTable:
    data = MultiLabelTable(4, 0, str(path), **options)
    data.prepare_data()
    data.setup()
    return data


def found(data: MultiLabelTable) -> dict[str, list[str]]:
    """The labels of each file, in every split."""
    rows = [(split.files, split.labels) for split in data.splits.values()]
    return {
        Path(file).name: [name for name, value in zip(data.spec.classes, row.tolist(), strict=True) if value == 1]
        for files, labels in rows
        for file, row in zip(files, labels, strict=True)
    }


@pytest.mark.parametrize("separator", ["|", ";", ",", " and "])
def test_labels_in_one_column(images: Path, separator: str) -> None:
    path = write_csv(images / "list.csv", [{"file": name, "labels": separator.join(own)} for name, own in LABELS.items()])
    data = ready(path, **({"separator": separator} if separator == " and " else {}))
    assert data.spec.classes == ("cat", "dog", "owl") and data.spec.task == "multilabel"
    assert found(data) == {name: sorted(own) for name, own in LABELS.items()}


def test_a_folder_with_json_of_paths_or_of_rows(images: Path) -> None:
    (images / "labels.json").write_text(json.dumps(LABELS))
    assert found(ready(images)) == {name: sorted(own) for name, own in LABELS.items()}
    rows = [{"image": name, "labels": own, "split": "test" if name < "05.png" else "train"} for name, own in LABELS.items()]
    (images / "rows.json").write_text(json.dumps(rows))
    data = ready(images / "rows.json")
    assert found(data) == {name: sorted(own) for name, own in LABELS.items()} and len(data.splits["test"]) == 5


def test_a_column_for_each_class_and_unknown_labels(images: Path) -> None:
    rows = [
        {"path": name, "cat": int("cat" in own), "dog": "" if "owl" in own else int("dog" in own), "width": 8}
        for name, own in LABELS.items()
    ]
    data = ready(write_csv(images / "list.csv", rows))
    assert data.spec.classes == ("cat", "dog"), "a column of other numbers is none of 0 and 1"
    marked = [
        (Path(file).name, row[1] == IGNORE)
        for split in data.splits.values()
        for file, row in zip(split.files, split.labels, strict=True)
    ]
    assert {name for name, is_unknown in marked if is_unknown} == {name for name, own in LABELS.items() if "owl" in own}
    flags = [{"path": row["path"], "cat": bool(row["cat"]), "x": True} for row in rows]
    named = ready(write_parquet(images / "list.parquet", flags), label_columns=["x", "cat"])
    assert named.spec.classes == ("x", "cat")


def test_a_column_that_is_nearly_one_of_0_and_1_is_named(images: Path, capfd: pytest.CaptureFixture) -> None:
    rows = [{"path": name, "cat": 1, "dog": 0, "owl": "x" if name == "03.png" else 1, "width": 8} for name in LABELS]
    path = write_csv(images / "list.csv", rows)
    assert MultiLabelTable(4, 0, str(path)).spec.classes == ("cat", "dog")
    number = 2 + list(LABELS).index("03.png")
    (line,) = capfd.readouterr().err.splitlines()
    assert f"column 'owl' is not used: row {number} has 'x', neither 1 nor 0" in line, "and not that of the width"


def test_other_data_is_matched_by_the_names_of_its_classes(images: Path) -> None:
    data = ready(write_csv(images / "list.csv", [{"file": name, "labels": "|".join(own)} for name, own in LABELS.items()]))
    data.require_compatible(replace(data.spec, classes=("bee", "owl", "dog", "cat")), "mine")
    row = data.splits["train"].labels[0]
    assert data.spec.classes == ("bee", "owl", "dog", "cat") and row[0] == IGNORE, "a class that the data lacks is unknown"
    assert found(data) == {name: sorted(own, reverse=True) for name, own in LABELS.items()}
    with pytest.raises(UserError, match="has the class 'bee'"):
        data.require_compatible(replace(data.spec, classes=("owl", "dog", "cat")), "mine")


def test_what_a_split_lacks_is_noted(images: Path, capfd: pytest.CaptureFixture) -> None:
    rows = [{"file": name, "labels": "|".join(own), "split": "test" if "owl" in own else "train"} for name, own in LABELS.items()]
    ready(write_csv(images / "list.csv", rows))
    assert "no training image of owl: not learned" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("rows", "options", "words"),
    [
        ([{"file": "00.png", "words": "cat"}], {}, "no column is named as labels are, or holds 0 and 1: it has words: choose"),
        ([{"file": "00.png", "cat": 2}], {"label_columns": ["cat"]}, "row 2: '2' is neither 1 nor 0"),
        ([{"file": "00.png", "cat": 1}], {"label_columns": ["cta"]}, "has no column 'cta'; did you mean 'cat'?"),
        (
            [{"file": "00.png", "label": "cat"}],
            {},
            "only the class 'cat': at least two are needed; data.separator=CHARACTER",
        ),
        ([{"file": "00.png", "label": "cat"}], {"label_columns": ["a"], "label_column": "b"}, "mutually exclusive"),
        ([{"file": "00.png", "cat": 1}], {"label_columns": ["cat", "cat"]}, "names 'cat' twice"),
    ],
)
def test_what_is_refused(images: Path, rows: list[dict], options: dict, words: str) -> None:
    path = write_csv(images / "list.csv", rows)
    with pytest.raises(UserError, match=words.replace("?", r"\?")):
        _ = MultiLabelTable(4, 0, str(path), **options).spec


def test_a_folder_without_labels_is_refused(images: Path) -> None:
    with pytest.raises(UserError, match=r"the folder holds no labels.json: give the table"):
        MultiLabelTable(4, 0, str(images))
    (images / "labels.json").write_text("[1, 2]")
    with pytest.raises(UserError, match="holds no rows: write it as"):
        _ = MultiLabelTable(4, 0, str(images)).spec
