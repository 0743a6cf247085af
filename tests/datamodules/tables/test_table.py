"""Tables of images: forms, columns, what is left out, and what is refused."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from image_folders import make, picture, save, sizes
from ways import rows_of_folder, write_csv, write_parquet

from zoo.config.resolution import data_section
from zoo.core.errors import UserError
from zoo.datamodules.table import Table
from zoo.registry.registry import scan
from zoo.training.data_record import DataRecord
from zoo.training.faults import way_out_of_changes
from zoo.training.run_folder import RunFolder


def ready(path: Path, **options) -> Table:
    data = Table(4, 0, str(path), **options)
    data.prepare_data()
    data.setup()
    return data


def labels(data: Table) -> dict[str, str]:
    """The class of each file, by its name."""
    names = data.spec.classes
    found = [(split.files, split.labels.tolist()) for split in data.splits.values()]
    return {Path(path).stem: names[label] for paths, own in found for path, label in zip(paths, own, strict=True)}


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_any_delimiter_and_a_byte_order_mark(root, delimiter, mark):
    rows = rows_of_folder(make(root, 12))
    path = write_csv(root / "list.csv", rows, delimiter)
    path.write_text(mark + path.read_text(), encoding="utf-8")
    assert Table(4, 0, str(path)).tree.classes == ("cat", "dog")
    assert len(Table(4, 0, str(path)).tree.paths()) == 24


def test_quoted_cells_spaces_numbers_and_other_names_of_columns(root):
    for number in range(6):
        save(root / f"a, {number}.png", picture(seed=number))
    lines = [f'{number},"a, {number}.png", {7 + number % 2 * 3} ,{"Training" if number < 4 else "dev"}' for number in range(6)]
    path = root / "list.tsv"
    path.write_text("\r\n".join(["id,FileName,Category,Set", *lines, ""]))
    data = ready(path, test=0.3)
    assert data.spec.classes == ("10", "7"), "text, in the order of text"
    assert labels(data) == {f"a, {number}": ("7", "10")[number % 2] for number in range(6)}
    assert sizes(data)["val"] == 2 and sum(sizes(data).values()) == 6


def test_columns_that_are_named(root):
    rows = rows_of_folder(make(root, 10))
    rows = [
        {"id": row["file_name"], "label": "same", "kind": row["label"], "fold": "train" if index % 2 else "test"}
        for index, row in enumerate(rows)
    ]
    path = write_parquet(root / "list.parquet", rows)
    data = ready(path, image_column="id", label_column="kind", split_column="fold", validation=0.3)
    assert data.spec.classes == ("cat", "dog") and sizes(data)["test"] == 10
    for options, words in (
        ({}, "no column is named as an image is: it has id, label, kind, fold: choose by data.image_column=NAME"),
        ({"image_column": "idd"}, "data.image_column=idd: .*no such column; did you mean 'id'?"),
        ({"image_column": "id", "label_column": "x"}, "data.label_column=x: .* it has id, label, kind, fold"),
        ({"image_column": "id"}, "has only the class 'same'"),
    ):
        with pytest.raises(UserError, match=words):
            _ = Table(4, 0, str(path), **options).tree


def test_spaces_and_underscores_in_usual_names_do_not_matter(root):
    rows = rows_of_folder(make(root, 10))
    rows = [{"Image Path": row["file_name"], "Class-Name": row["label"], "Sub Set": "train"} for row in rows]
    rows[3]["Sub Set"] = "Test"
    assert sizes(ready(write_csv(root / "list.csv", rows)))["test"] == 1


def test_an_unused_column_that_names_splits_is_said(root, capfd):
    rows = [
        {"path": row["file_name"], "label": row["label"], "note": "train", "part": ("train", "test")[index % 2]}
        for index, row in enumerate(rows_of_folder(make(root, 10)))
    ]
    rows[0]["note"] = "blurred"
    for path in (write_csv(root / "list.csv", rows), write_parquet(root / "list.parquet", rows)):
        assert ready(path, test=0.3, validation=0.3).notes == [
            "column 'part' names splits and is not used: data.split_column=part uses it"
        ]
        data = ready(path, split_column="part", validation=0.3)
        assert "names splits" not in " ".join(data.notes) and sizes(data)["test"] == 10
    capfd.readouterr()


@pytest.mark.parametrize("options", [{}, {"memory_gb": 0}])
def test_a_label_that_changed_is_found(root, options):
    rows = rows_of_folder(make(root, 20))
    path = write_csv(root / "list.csv", rows)
    before = DataRecord.of(ready(path, **options))
    rows[4]["label"] = "dog"
    after = DataRecord.of(ready(write_csv(path, rows), **options))
    assert before.changes(after, ("train", "val", "test")) == f"1 with other text or labels ({rows[4]['file_name']})"


def test_paths_are_below_the_root_beside_it_or_absolute(root, tmp_path):
    rows = rows_of_folder(make(root, 10))
    (root / "lists").mkdir()
    for index, row in enumerate(rows):
        name = row["file_name"]
        row["file_name"] = (f"../{name}", f".././{name}", str(root / name), f"..\\{name}".replace("/", "\\"))[index % 4]
    beside = ready(write_csv(root / "lists" / "list.csv", rows))
    assert sum(sizes(beside).values()) == 20
    below = ready(write_csv(tmp_path / "list.csv", rows_of_folder_without(root, "lists")), root=str(root))
    names = [name for split in below.splits.values() for name in below.names(split.files)]
    assert sorted(names) == [f"{kind}/{index:02}.png" for kind in ("cat", "dog") for index in range(10)]


def rows_of_folder_without(root: Path, folder: str) -> list[dict[str, str]]:
    return [row for row in rows_of_folder(root) if not row["file_name"].startswith(folder)]


def test_accents_are_found_however_the_disk_stores_them(root):
    for index in range(4):
        save(root / f"cafe\u0301{index}.png", picture(seed=index))
    rows = [{"path": f"caf\xe9{index}.png", "label": "ab"[index % 2]} for index in range(4)]
    assert len(Table(4, 0, str(write_csv(root / "list.csv", rows))).tree.paths()) == 4


def test_what_is_left_out_is_counted_and_named(root, capfd):
    rows = rows_of_folder(make(root, 10))
    rows = [dict(row, split="train") for row in rows]
    rows += [rows[0], {**rows[1], "file_name": "cat/mor.png"}, {**rows[1], "file_name": ""}]
    save(root / "cat" / "more.png", picture(seed=77))
    rows += [
        {"file_name": "cat/more.png", "label": "", "split": "train"},
        {**rows[2], "file_name": "cat/x.png", "split": "extra"},
    ]
    data = ready(write_csv(root / "list.csv", rows), validation=0.3, test=0.3)
    assert data.notes == [
        "1 row without image left out: row 24",
        "1 row without label left out: row 25",
        "rows of other splits than train, val and test are not used: extra (1)",
        "1 row that repeats another left out: row 22",
        "1 of 21 files are not there and left out: cat/mor.png; did you mean 'more.png'?",
    ]
    assert capfd.readouterr().err.count("warning: ") == len(data.notes)
    assert sum(sizes(data).values()) == 20


def test_a_test_uses_all_rows_of_an_outside_table(root):
    rows = [dict(row, split="test") for row in rows_of_folder(make(root, 5))]
    path = write_csv(root / "list.csv", rows)
    data = Table(4, 0, str(path))
    data.test_on_everything()
    data.setup()
    assert len(data.splits["test"]) == 10
    with pytest.raises(UserError, match="has test rows but none for training"):
        _ = Table(4, 0, str(path)).tree


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty: its first line must name the columns"),
        ("path,label\n", "has no rows"),
        ("cat/00.png,cat\ncat/01.png,cat\n", "its first line must name the columns, as in path,label, but is cat/00.png,cat"),
        ("path,text\ncat/00.png,cat\n", "no column is named as a label is: it has path, text"),
        ("path,label\ncat/00.png,1.5\ncat/01.png,2\n", "column 'label' holds numbers like 1.5: classes are needed"),
        ("path,label\ncat/00.png,cat\ncat/00.png,dog\n", "rows 2 and 3 give 'cat/00.png' the labels cat and dog"),
        ("path,label,split\ncat/00.png,cat,train\ncat/00.png,cat,val\n", "the splits training and validation"),
        ("path,label\na,b,c/1.png,cat\n", "line 2 has 4 cells and the first line 2: put cells that contain ',' in quotes"),
        ("path,label\nkat/00.png,cat\nkat/01.png,dog\n", "none of its 2 files is there: 'kat/00.png' .*'cat'.*data.root"),
        ("path,label,split\ncat/00.png,cat,train\ncat/01.png,dog,train\ncat/02.png,dgo,test\n", "training rows lack: dgo.*'dog'"),
        ("path,label\ncat/00.png,cat\n", "has only the class 'cat': at least two"),
        ("path,label,split\ncat/00.png,cat,True\n", "no row is of a split called train, val or test: they are of True .1.: "),
        ("path,label\n,\n", "has no rows"),
        ("path,label\n,cat\n", "holds no row with an image and a label"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_in_one_line(zoo, root, text, words):
    make(root, 3, ("cat",))
    path = root / "list.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=words):
        _ = Table(4, 0, str(path)).tree


def test_other_encodings_types_and_files_are_refused(root):
    make(root, 3)
    root.joinpath("list.csv").write_bytes("path,label\ncaf\xe9.png,cat\n".encode("latin-1"))
    for name, words in (("list.csv", "is not UTF-8"), ("list.xlsx", "is no table: its name must end in .csv"),
                        ("lost.csv", "data.path=.*lost.csv: no such file; did you mean 'list.csv'"),
                        ("list.parquet", "is no parquet file")):  # fmt: skip
        if name == "list.parquet":
            (root / name).write_bytes(b"PAR1 not really")
        with pytest.raises(UserError, match=words):
            _ = Table(4, 0, str(root / name)).tree
    image = {"bytes": b"x", "path": "cat/00.png"}
    for row, words in (
        ({"image": image, "label": "cat"}, "holds images, not paths: the data set hf reads it"),
        (
            {"pic": image, "kind": "cat"},
            "column 'pic' holds images, not paths: the data set hf reads it",
        ),
        ({"image": 3, "label": "cat"}, "column 'image' holds int values, not paths"),
        ({"image": "cat/00.png", "label": 0.5}, "holds numbers like 0.5"),
        ({"image": "cat/00.png", "label": ["cat"]}, "column 'label' holds list values: one label"),
    ):
        with pytest.raises(UserError, match=words):
            _ = Table(4, 0, str(write_parquet(root / "a.parquet", [row]))).tree


def test_a_path_to_a_table_stands_for_it(workplace):
    registry = scan(())
    assert data_section(registry, "photos.csv") == {"name": "table", "path": "photos.csv"}
    assert data_section(registry, "a/photos.parquet") == {"name": "table", "path": "a/photos.parquet"}
    Path("odd.csv").mkdir()
    assert data_section(registry, "odd.csv") == {"name": "folder", "root": "odd.csv"}


@pytest.mark.parametrize(
    ("texts", "data", "words"),
    [
        (("cat", "dog", "cat|dog"), "multilabel-table", "labels like 'cat|dog' are read as one class each"),
        (("cat, dog", "dog, owl"), "multilabel-table", "labels like 'cat, dog' are read as one class each"),
        (
            tuple(map(str, range(20, 70, 2))),
            "regression-table",
            "column 'my label' has 25 different numbers, each read as",
        ),
        (("tench, Tinca tinca", "goldfish, Carassius auratus"), "", ""),
        (tuple(map(str, range(25))), "", ""),
        (tuple(map(str, range(1, 26))), "", ""),
    ],
)
def test_labels_that_are_no_classes_are_hinted_at_once_with_the_command_that_reads_them(zoo, root, capfd, texts, data, words):
    make(root, 25)
    rows = [{"kind": row["file_name"], "my label": text} for row, text in zip(rows_of_folder(root), texts * 25, strict=False)]
    path = write_csv(root.parent / "my list.csv", rows)
    read = ready(path, image_column="kind", label_column="my label", root=str(root), validation=0.2, test=0.2)
    hints = [note for note in read.notes if "zoo train" in note]
    assert capfd.readouterr().err.count("zoo train") == len(hints) == bool(data)
    if data:
        assert hints[0].startswith(words)
        _, *words = shlex.split(hints[0].partition(": ")[2].replace("MODEL", "softmax"))
        command = words[: words.index("reads" if data == "multilabel-table" else "learns")]
        assert command[:4] == ["train", "softmax", "--data", data]
        measured = zoo("data", "show", data, *command[4:], "--measure")
        assert measured.code == 0 and "train_images" in measured.out, measured.err


def test_commands_on_a_table(zoo, root):
    make(root, 20)
    path = write_csv(root / "list.csv", rows_of_folder(root))
    assert "train_images" in zoo("data", "show", path, "--measure").out
    advised = zoo("data", "advise", path)
    assert advised.code == 0 and f"--data table --freeze backbone --set data.path={path}" in advised.out
    assert zoo("train", "softmax", "--data", path, "--epochs", "1", "--set", "recipe.batch_size=8").code == 0
    assert zoo("predict", "softmax-table", root / "cat" / "00.png").code == 0
    other = make(root.parent / "other", 3)
    answer = zoo("test", "softmax-table", "--data", write_csv(other / "list.csv", rows_of_folder(other)))
    assert answer.code == 0 and "testing on all 6 images" in answer.err
    folder = RunFolder.find("softmax-table")
    command = way_out_of_changes(folder, folder.read_run(), "classification").partition("with its weights: ")[2]
    assert f" --data table --set data.path={path} " in command
    assert zoo(*shlex.split(command)[1:], "--plan").code == 0
    assert zoo("data", "show", "table", "--set", "data.path=lost.csv").is_one_line_error("data.path=lost.csv", "no such file")
    assert zoo("data", "show", "table", "--measure").is_one_line_error("data.path must be given: --set data.path=...")
