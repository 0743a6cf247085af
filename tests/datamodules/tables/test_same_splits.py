"""A folder, a table and a hub data set of the same images: the same splits and the same accuracy."""

from __future__ import annotations

import csv
import gzip
import json
import tarfile
from pathlib import Path

import pytest
from image_folders import make
from ways import all_ways

SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "flowers-160px.tar"


def outcomes(zoo, ways: dict[str, list[str]], *settings: str) -> dict[str, tuple[list[list[str]], dict[str, float]]]:
    """Of each way, the splits of the files with the digests of their content, and the metrics of the test split."""
    found = {}
    for name, arguments in ways.items():
        answer = zoo("train", "softmax", *arguments, "--name", name, "--epochs", "2", *settings)
        assert answer.code == 0, answer.err
        tested = zoo("test", name, "--json")
        with gzip.open(Path("runs") / name / "data.csv.gz", "rt", newline="") as file:
            found[name] = sorted(row[:3] for row in csv.reader(file)), json.loads(tested.out)
    return found


def assert_all_equal(found: dict[str, tuple[list[list[str]], dict[str, float]]]) -> None:
    splits, metrics = found["folder"]
    assert {split for split, _, _ in splits} == {"train", "val", "test"} and "test/accuracy" in metrics
    for name, (own, figures) in found.items():
        assert own == splits, name
        assert figures == metrics, name


@pytest.mark.parametrize("split_folders", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_all_forms_of_one_set_have_the_same_splits_and_the_same_accuracy(zoo, root, tmp_path, split_folders):
    if split_folders:
        make(root / "train", 20)
        make(root / "test", 5)
    else:
        make(root, 30)
    settings = ("--set", "recipe.batch_size=8", "--set", "recipe.lr=0.1")
    assert_all_equal(outcomes(zoo, all_ways(root, tmp_path), *settings))


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_file(), reason=f"the flowers of ../shared/data are not at {SHARED}")
def test_flowers_are_the_same_in_all_forms(zoo, tmp_path):
    with tarfile.open(SHARED) as archive:
        archive.extractall(tmp_path, filter="data")
    root = next(path.parent for path in tmp_path.rglob("train"))
    found = outcomes(zoo, all_ways(root, tmp_path / "others"), "--set", "data.size=16")
    assert_all_equal(found)
    assert len(found["folder"][0]) == 3670
