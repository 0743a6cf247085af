import os
import sys

import numpy as np
import pytest

from zoo.datamodules.files.paths import Paths


def test_it_is_a_sequence_of_strings():
    names = ["a/ü.jpg", "", "b/\udcff.png", "a/" + "x" * 300]
    paths = Paths(names)
    assert list(paths) == names == [paths[index] for index in range(4)] and paths[-1] == names[-1]
    assert list(paths[np.array([3, 0, 0])]) == [names[3], names[0], names[0]]
    assert list(paths[np.array([False, True, True, False])][1:]) == ["b/\udcff.png"] and len(paths[1:3]) == 2
    assert paths == names != paths[:3] and list(Paths()) == []


def test_paths_go_to_bytes_and_back():
    names = ["a/ü.jpg", "b/\udcff.png", "c"]
    paths = Paths(names)
    assert Paths.from_bytes(paths.to_bytes()) == names
    assert Paths.from_bytes(paths[1:].to_bytes()) == names[1:]
    assert Paths.concatenate([paths[2:], paths[:1]]) == [names[2], names[0]]
    assert Paths.concatenate([paths[2:], Paths(["d"])]) == ["c", "d"]


def test_a_selection_shares_the_text():
    paths = Paths(f"folder/{index:0100}" for index in range(1000))
    chosen = paths[np.arange(999)]
    assert chosen[998] == paths[998] and np.shares_memory(chosen._bytes, paths._bytes)
    assert sum(sys.getsizeof(part) for part in vars(paths).values()) < 1000 * (108 + 16) + 1000


def test_the_digest_changes_with_the_paths(tmp_path, monkeypatch):
    paths = Paths(["a/1.jpg", "a/2.jpg"])
    assert paths.digest == Paths(list(paths)).digest
    others = Paths(list(paths)[::-1]), paths[:1], Paths(["a/1.jpg\0a", "2.jpg"])
    assert len({each.digest for each in (paths, *others)}) == 4
    monkeypatch.chdir(tmp_path)
    assert Paths(list(paths)).digest != paths.digest
    assert list(paths.absolute()) == [os.fsencode(tmp_path / name) for name in paths]


@pytest.mark.parametrize(
    ("names", "folder"),
    [
        (["/a/b/c/1.jpg", "/a/b/d/2.jpg"], "/a/b"),
        (["/a/b/1.jpg", "/a/bc/2.jpg"], "/a"),
        (["/a/b/1.jpg"], "/a/b"),
        (["/1.jpg", "/a/2.jpg"], "/"),
        (["/a/1.jpg", "/b/2.jpg"], "/"),
        (["x/y/1.jpg", "x/2.jpg"], "{here}/x"),
        (["1.jpg", "x/2.jpg"], "{here}"),
        (["../x/1.jpg", "../x/2.jpg"], "{above}/x"),
    ],
)
def test_the_common_folder(names, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Paths(names).common_folder == folder.format(here=tmp_path, above=tmp_path.parent)
    assert Paths(names)[:1].common_folder == Paths(names).common_folder
