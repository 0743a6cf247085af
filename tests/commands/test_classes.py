"""What ``zoo test`` tells of single classes: few as they are, of many the worst, and all of them in a file."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from zoo.commands.classes import confused_pairs, print_classes

QUICK = ["--epochs", "1", "--set", "trainer.limit_train_batches=4", "--set", "trainer.accelerator=cpu"]


def findings(classes: int, images: int = 10) -> dict:
    """Class i is taken i times for the next one, and the last has no images."""
    confusion = np.zeros((classes, classes), dtype=int)
    for index in range(classes - 1):
        wrong = index % images
        confusion[index, index], confusion[index, index + 1] = images - wrong, wrong
    truth = np.repeat(np.arange(classes - 1), images)
    said = np.concatenate([np.repeat(np.arange(classes), row) for row in confusion])
    assert (confusion_matrix(truth, said, labels=range(classes)) == confusion).all()
    figures = precision_recall_fscore_support(truth, said, labels=range(classes), zero_division=0)
    keys = ("precision", "recall", "f1", "images")
    by_class = {f"class {i}": dict(zip(keys, values, strict=True)) for i, values in enumerate(np.array(figures).T.tolist())}
    return {
        "classes": {name: {**one, "images": int(one["images"])} for name, one in by_class.items()},
        "confusion": confusion.tolist(),
    }


def told(capsys: pytest.CaptureFixture, classes: int) -> tuple[dict, list[list[str]]]:
    """What was found of so many classes, and the tables that are printed, line by line, separated by empty lines."""
    found = findings(classes)
    print_classes(found, "images", "zoo test many --csv FILE")
    blocks = capsys.readouterr().out.strip("\n").split("\n\n")
    return found, [block.splitlines() for block in blocks]


def test_few_classes_are_all_told_with_the_whole_matrix(capsys) -> None:
    found, (table, matrix) = told(capsys, 12)
    assert table[0].split() == ["class", "images", "precision", "recall", "f1"]
    for line, (name, one) in zip(table[1:], found["classes"].items(), strict=True):
        assert line.startswith(name)
        expected = [str(one["images"]), *(f"{one[key]:.4f}" for key in ("precision", "recall", "f1"))]
        assert line.split()[2:] == expected
    cells = [[0 if cell == "." else int(cell) for cell in line.split()[2:]] for line in matrix[1:]]
    assert cells == found["confusion"]


def test_more_classes_are_told_with_the_pairs_that_are_confused_most(capsys) -> None:
    found, (table, pairs) = told(capsys, 13)
    assert len(table) == 1 + 13 and pairs[0] == "most often confused, 10 of 10 pairs"
    assert pairs[2].split() == ["class", "9", "class", "10", "9", "90%"]
    counts = [int(line.split()[4]) for line in pairs[2:]]
    assert counts == sorted(counts, reverse=True) == [9, 8, 7, 6, 5, 4, 3, 2, 1, 1]
    assert confused_pairs([[5, 0], [0, 3]]) == []
    assert confused_pairs([[5, 1, 2], [2, 3, 0], [0, 0, 1]]) == [(0, 2, 2), (1, 0, 2), (0, 1, 1)]


def test_of_many_classes_the_worst_are_told_and_how_to_see_all(capsys) -> None:
    found, (table, _) = told(capsys, 45)
    assert table[0] == ("the 30 of 45 classes with the lowest f1 (without test images: 1); all of them: zoo test many --csv FILE")
    names = [" ".join(line.split()[:2]) for line in table[2:]]
    with_images = {name: one["f1"] for name, one in found["classes"].items() if one["images"]}
    assert "class 44" not in with_images and names == sorted(with_images, key=with_images.get)[:30]
    told_of_all, (all_of_them, _) = told(capsys, 30)
    assert len(all_of_them) == 1 + 30 and all_of_them[-1].split()[:3] == ["class", "29", "0"]


def test_the_command_prints_writes_and_gives_the_same(zoo) -> None:
    assert zoo("train", "softmax", *QUICK, "--name", "first").code == 0
    found = json.loads(zoo("test", "first", "--json", "--csv", "deep/classes.csv").out)
    confusion = np.array(found["confusion"])
    assert confusion.sum() == 359 and confusion.trace() / 359 == pytest.approx(found["test/accuracy"])
    assert found["classes"]["3"]["images"] == confusion[3].sum()
    assert found["classes"]["3"]["recall"] == pytest.approx(confusion[3, 3] / confusion[3].sum())
    assert 0 < found["test/calibration_error"] < 1
    with Path("deep/classes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == list(found["classes"])
    for row in rows:
        assert {key: float(value) for key, value in row.items() if key != "class"} == pytest.approx(
            found["classes"][row["class"]], abs=1e-6
        )
    answer = zoo("test", "first")
    assert f"test/calibration_error {found['test/calibration_error']:.4f}" in answer.out.splitlines()[0]
    assert answer.out.splitlines()[-1].startswith("next: zoo picture confusion first")


def test_points_are_counted_as_points(zoo) -> None:
    assert zoo("train", "mlp", "--data", "blobs", *QUICK, "--name", "points").code == 0
    answer = zoo("test", "points")
    assert answer.code == 0 and "class  points  precision" in answer.out and "zoo picture regions points" in answer.out


def test_a_file_that_cannot_be_written_is_told_before_the_test(zoo, monkeypatch) -> None:
    assert zoo("train", "softmax", *QUICK, "--name", "first").code == 0
    monkeypatch.setattr("zoo.training.engine.test", lambda *_: pytest.fail("the test has begun"))
    Path("folder").mkdir()
    assert zoo("test", "first", "--csv", "folder").is_one_line_error("--csv folder", "is a folder")


def test_classes_are_of_classifiers(zoo) -> None:
    settings = ["--set", "model.hidden_size=8", "--set", "data.length=6", "--set", "data.num_sequences=64", "--epochs", "1"]
    assert zoo("train", "gru", "--name", "memory", *settings).code == 0
    assert zoo("test", "memory", "--csv", "x.csv").is_one_line_error("--csv x.csv", "gru", "sequence-memory")
    assert set(json.loads(zoo("test", "memory", "--json").out)) == {"test/loss", "test/solved"}
