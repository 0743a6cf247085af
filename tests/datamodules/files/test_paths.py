import sys

import numpy as np

from zoo.datamodules.files.paths import Paths


def test_it_is_a_sequence_of_strings():
    names = ["a/ü.jpg", "", "b/\udcff.png", "a/" + "x" * 300]
    paths = Paths(names)
    assert list(paths) == names == [paths[index] for index in range(4)] and paths[-1] == names[-1]
    assert list(paths[np.array([3, 0, 0])]) == [names[3], names[0], names[0]]
    assert list(paths[np.array([False, True, True, False])][1:]) == ["b/\udcff.png"] and len(paths[1:3]) == 2
    assert paths == names != paths[:3] and list(Paths()) == []


def test_a_selection_shares_the_text():
    paths = Paths(f"folder/{index:0100}" for index in range(1000))
    chosen = paths[np.arange(999)]
    assert chosen[998] == paths[998] and np.shares_memory(chosen._bytes, paths._bytes)
    assert sum(sys.getsizeof(part) for part in vars(paths).values()) < 1000 * (108 + 16) + 1000
    assert chosen.digest() == paths.digest() != Paths(list(paths)[::-1]).digest()
