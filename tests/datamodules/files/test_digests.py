"""Digests of files, computed as they are read."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch

from zoo.datamodules.files import digests as module
from zoo.datamodules.files.digests import DigestTable, NotedDigests
from zoo.datamodules.files.paths import Paths


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "data" / name for name in "abcd"]
    paths[0].parent.mkdir()
    for path in paths:
        path.write_text(path.name)
    return paths


def expected(*paths: Path) -> list[bytes]:
    return [sha256(path.read_bytes()).digest()[:16] for path in paths]


def opened(paths: list[Path]) -> DigestTable:
    return DigestTable(Paths(map(str, paths)))


@pytest.fixture(params=["file", "memory"])
def cache(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "memory":
        (tmp_path / "full").write_text("no folder")
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / ("full" if request.param == "memory" else "home")))
    return request.param


def test_what_was_read_has_the_digest_of_its_bytes(files: list[Path], cache: str) -> None:
    table = opened(files)
    table.note(2), table.note(0)
    (first, third) = expected(files[0], files[2])
    assert NotedDigests(table).content() == [first, b"", third, b""]
    assert NotedDigests(table)[torch.tensor([3, 2])][torch.tensor([1])].content() == [third]
    NotedDigests(table)[torch.tensor([1])].read()
    assert NotedDigests(table).content()[1:] == [*expected(files[1]), third, b""]


def test_runs_share_them_whatever_files_come_or_go(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    first = opened(files[1:])
    first.note(0), first.note(2)
    second = opened(files)
    read: list[str] = []
    monkeypatch.setattr(module, "content_digest", lambda file: read.append(file.name))
    second.note(1), second.note(3)
    assert NotedDigests(second).content() == [b"", *expected(files[1]), b"", *expected(files[3])] and not read


def test_a_changed_file_is_read_again(files: list[Path]) -> None:
    opened(files).note(0)
    files[0].write_text("other")
    table = opened(files)
    assert table.get(0) == b""
    table.note(0)
    assert table.get(0) == opened(files).get(0) == expected(files[0])[0]
    files[1].unlink()
    table.note(1)
    assert table.get(1) == b""


def test_only_the_last_used_are_kept(files: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(module, "KEPT", 1)
    opened(files)
    (former,) = (tmp_path / "home" / "digests").glob("*.digests")
    os.utime(former, (1, 1))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x").write_text("x")
    opened([tmp_path / "other" / "x"])
    assert not former.exists() and len(list(former.parent.glob("*.digests"))) == 1
    assert np.dtype(module.ROW).itemsize == 32
