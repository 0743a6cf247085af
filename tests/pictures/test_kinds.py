"""The command ``zoo picture``: what it lists, where it writes, and one line for every mistake."""

from __future__ import annotations

import importlib
import inspect
import json
import os
from pathlib import Path

import matplotlib
import pytest
from PIL import Image

from zoo.pictures.figure import style
from zoo.pictures.kinds import FLAGS, KINDS
from zoo.training.run_folder import RunFolder

RECORDS = [
    {"step": 10, "epoch": 0, "train/loss": 2.0, "train/accuracy": 0.2},
    {"step": 10, "epoch": 0, "val/loss": 2.5, "val/accuracy": 0.5},
]


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_the_index_tells_of_each_function_what_it_takes(kind):
    function = getattr(importlib.import_module(kind.module), kind.name.replace("-", "_"))
    _, _, *options = inspect.signature(function).parameters
    assert set(kind.flags) <= set(FLAGS)
    assert set(options) == set(kind.flags) | ({"images"} if kind.takes_images else set())


def test_the_kinds_are_listed_with_what_they_show(zoo):
    answer = zoo("picture")
    assert answer.code == 0 and "next: zoo picture" in answer.out
    listed = json.loads(zoo("picture", "--json").out)
    assert [kind["name"] for kind in listed] == list(KINDS)
    for kind in listed:
        assert f"{kind['usage'].removeprefix('zoo picture ')} " in answer.out and kind["shows"] in answer.out


def test_a_picture_goes_where_it_is_told_to_and_replaces_an_older_one(zoo, write_run):
    write_run("first", RECORDS)
    place = Path("new folder/picture.png")
    for _ in range(2):
        answer = json.loads(zoo("picture", "curves", "first", "-o", place, "--json").out)
        assert answer["file"] == str(place) and answer["next"].startswith("zoo picture curves first")
        with Image.open(place) as picture:
            assert picture.format == "PNG" and min(picture.size) > 300
    assert [path.name for path in place.parent.iterdir()] == ["picture.png"]


def test_a_run_given_by_its_path_gives_the_picture_its_name(zoo, write_run, monkeypatch):
    folder = write_run("first", RECORDS)
    monkeypatch.chdir(folder.path)
    assert zoo("picture", "curves", ".").code == 0
    assert Path("first-curves.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["curve", "first"], ["no picture 'curve'", "'curves'"]),
        (["curves", "second"], ["no run 'second'", "first"]),
        (["templates"], ["zoo picture templates RUN", "no runs"]),
        (["templates", "first", "first"], ["zoo picture templates RUN", "2 runs"]),
        (["templates", "first"], ["first has no best.ckpt yet", "zoo train --resume first"]),
        (["confusion", "first", "--checkpoint", "last"], ["first has no last.ckpt yet"]),
        (["confusion", "first", "--checkpoint", "lest"], ["no checkpoint 'lest'", "'best'"]),
        (["confusion", "first", "--data", "digit"], ["no data set 'digit'"]),
        (["confusion", "first", "--data", "elsewhere/"], ["first has no best.ckpt yet"]),
        (["gradient-flow", "--set", "data.size=8"], ["gradient-flow takes no --set: omit it"]),
        (["curves", "first", "-o", "picture.jpg"], ["--output picture.jpg", ".png"]),
        (["curves", "first", "-o", "picture"], ["--output picture", ".png"]),
        (["curves", "first", "-o", "folder.png"], ["folder.png: is a folder"]),
        (["curves", "first", "-o", "file/picture.png"], ["file is not a folder"]),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(zoo, write_run, workplace, arguments, words):
    write_run("first", RECORDS)
    Path("folder.png").mkdir()
    Path("file").write_text("not a folder")
    answer = zoo("picture", *arguments)
    assert answer.is_one_line_error(*words), answer
    assert sorted(path.name for path in workplace.iterdir()) == ["file", "folder.png", "runs"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_one_line(zoo, write_run):
    write_run("first", RECORDS)
    Path("locked").mkdir(mode=0o500)
    assert zoo("picture", "curves", "first", "-o", "locked/picture.png").is_one_line_error("locked", "cannot be written to")


def test_a_fault_of_the_disk_is_one_line_and_keeps_the_old_picture(zoo, write_run, monkeypatch):
    write_run("first", RECORDS)
    Path("first-curves.png").write_bytes(b"old")

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    assert zoo("picture", "curves", "first").is_one_line_error("first-curves.png", "no space left on device")
    assert Path("first-curves.png").read_bytes() == b"old"


def test_a_run_of_a_stranger_is_refused_not_run(zoo, write_run):
    folder: RunFolder = write_run("first", RECORDS)
    folder.best.write_bytes(b"\x80\x04cos\nsystem\n")
    assert zoo("picture", "templates", "first").is_one_line_error("best.ckpt is damaged or not a checkpoint")


def test_the_style_is_ours_inside_and_the_users_afterwards(tmp_path):
    with matplotlib.rc_context({"font.size": 31.0, "lines.linewidth": 7.0}):
        with style():
            assert matplotlib.rcParams["font.size"] == 9 and matplotlib.rcParams["lines.linewidth"] == 1.8
        assert matplotlib.rcParams["font.size"] == 31 and matplotlib.rcParams["lines.linewidth"] == 7


def test_no_figure_is_remembered_and_no_backend_chosen(zoo, write_run):
    from matplotlib import pyplot

    write_run("first", RECORDS)
    before = matplotlib.get_backend(), pyplot.get_fignums()
    assert zoo("picture", "curves", "first").code == 0
    assert (matplotlib.get_backend(), pyplot.get_fignums()) == before
