"""Only regular files are read, and below a folder only those that somebody put there to be read."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from zoo.core.errors import UserError
from zoo.core.files import files_below, read_regular, replace_file, require_regular, require_writable


def test_what_is_no_regular_file_is_refused_in_one_line(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo("pipe")
    Path("folder").mkdir()
    Path("link").symlink_to("pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
        kinds = {"pipe": "a pipe", "link": "a pipe", "folder": "a folder", "socket": "a socket", "/dev/zero": "a device"}
        for name, kind in kinds.items():
            with pytest.raises(UserError, match=f"^{name}: is {kind}, not a regular file$"):
                read_regular(Path(name))
    with pytest.raises(UserError, match="^--config absnt: no such file; did you mean 'absent'"):
        Path("absent").touch()
        require_regular(Path("absnt"), "--config absnt")
    for name in ("a\0b", "x" * 300):
        with pytest.raises(UserError, match="cannot be read"):
            require_regular(Path(name))
    Path("absent").write_bytes(b"text")
    assert read_regular(Path("absent")) == b"text"


def test_files_below_a_folder_are_neither_hidden_nor_read_twice(workplace: Path) -> None:
    for name in ("a/1", "a/.git/2", "__MACOSX/3", ".4", "b/c/5"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    Path("a/loop").symlink_to("..")
    Path("b/again").symlink_to("../a")
    os.mkfifo("b/pipe")
    hidden: list[str] = []
    found = sorted(os.path.realpath(path) for path in files_below(workplace, hidden))
    assert found == [str(workplace / name) for name in ("a/1", "b/c/5")]
    assert sorted(map(os.path.basename, hidden)) == [".4", ".git", "__MACOSX"]
    assert not list(files_below("a", entered=[workplace / "a"]))


def test_a_file_does_not_take_the_place_of_a_pipe_or_a_device(workplace: Path) -> None:
    os.mkfifo("pipe")
    for write in (lambda path: replace_file(path, b"text"), lambda path: require_writable("--csv", path)):
        with pytest.raises(UserError, match="pipe: is a pipe, not a regular file"):
            write(Path("pipe"))
    assert Path("pipe").is_fifo() and sorted(os.listdir()) == ["pipe"]
