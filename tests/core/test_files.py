"""Files that are written whole or not at all, and of which only regular ones are read."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest

from zoo.core.errors import UserError
from zoo.core.files import (
    LeftOut,
    describe_left_out,
    expanded,
    files_below,
    making_folder,
    naming_file,
    read_regular,
    replace_file,
    require_regular,
    require_writable,
    write_output,
)
from zoo.core.memory import available_memory, require_memory


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
    for name in ("a/1", "a/.git/2", "__MACOSX/3", ".4", "b/c/5", "b/c/Thumbs.db", "b/notes"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    Path("a/loop").symlink_to("..")
    Path("b/again").symlink_to("../a")
    Path("0-again").symlink_to("b/c")  # an earlier path, but not the folder's own
    Path("b/one more").symlink_to("c/5")
    Path("b/unhidden").symlink_to("../.4")
    Path("b/gone").symlink_to("nothing")
    os.mkfifo("b/pipe")
    left_out: LeftOut = {}
    found = sorted(files_below(".", left_out, lambda path: "notes" if "notes" in path else ""))
    assert found == ["./a/1", "./b/c/5", "./b/unhidden"]
    assert {reason: sorted(paths) for reason, paths in left_out.items()} == {
        "hidden": ["./.4", "./__MACOSX", "./a/.git", "./b/c/Thumbs.db"],
        "dangling": ["./b/gone"],
        "not regular": ["./b/pipe"],
        "notes": ["./b/notes"],
        "linked again": ["./b/one more"],
    }
    words = describe_left_out(left_out, ".")
    assert "4 hidden (.4, __MACOSX, a/.git and 1 more)" in words and "1 linked again (b/one more)" in words
    assert not list(files_below("a", entered=[workplace / "a"]))


def test_a_file_does_not_take_the_place_of_a_pipe_or_a_device(workplace: Path) -> None:
    os.mkfifo("pipe")
    for write in (lambda path: replace_file(path, b"text"), lambda path: require_writable("--csv", path)):
        with pytest.raises(UserError, match="pipe: is a pipe, not a regular file"):
            write(Path("pipe"))
    assert Path("pipe").is_fifo() and sorted(os.listdir()) == ["pipe"]


def test_a_full_disk_is_told_with_the_name_of_the_file(workplace: Path) -> None:
    with (
        pytest.raises(OSError) as raised,
        naming_file(workplace / "x.bin"),
        Path("/dev/full").open("wb", buffering=0) as full,
    ):
        full.write(b"x")
    assert raised.value.errno == errno.ENOSPC and raised.value.filename == str(workplace / "x.bin")


@pytest.mark.parametrize("name", ["a" * 300, "below/" + "a" * 300, "below/further/" + "ä" * 200])
def test_a_name_that_is_too_long_leaves_nothing(workplace: Path, name: str) -> None:
    with pytest.raises(OSError) as raised:
        replace_file(workplace / name, b"x")
    assert raised.value.errno == errno.ENAMETOOLONG and raised.value.filename == str(workplace / name)
    for write in (lambda path: write_output(path, b"x"), lambda path: require_writable("--output", path)):
        with pytest.raises(UserError, match="name too long"):
            write(workplace / name)
    assert not list(workplace.iterdir())


@pytest.mark.parametrize("name", ["a" * 255, "ä" * 127])
def test_the_longest_name_can_be_written(workplace: Path, name: str) -> None:
    write_output(workplace / name, b"x")
    assert [path.name for path in workplace.iterdir()] == [name]


def test_only_empty_folders_that_were_made_go_again(workplace: Path) -> None:
    (workplace / "old").mkdir()
    with pytest.raises(KeyError), making_folder(workplace / "old" / "new" / "newer"):
        raise KeyError
    assert [path.name for path in workplace.rglob("*")] == ["old"]
    with pytest.raises(KeyError), making_folder(workplace / "old" / "new"):
        (workplace / "old" / "new" / "file").write_text("of somebody else")
        raise KeyError
    assert (workplace / "old" / "new" / "file").exists()


@pytest.mark.parametrize("below", ["", "new"])
def test_no_folder_is_made_where_a_link_leads_nowhere(workplace: Path, below: str) -> None:
    (workplace / "link").symlink_to(workplace / "gone")
    with pytest.raises(NotADirectoryError), making_folder(workplace / "link" / below):
        pass
    assert [path.name for path in workplace.iterdir()] == ["link"]


def test_a_home_that_does_not_exist_is_a_plain_name() -> None:
    assert expanded("~nobody-of-that-name/x") == Path("~nobody-of-that-name/x")
    assert expanded("~") == Path.home()


def test_what_needs_more_memory_than_there_is_is_refused() -> None:
    assert available_memory() is None or 10**6 < available_memory() < 10**15
    require_memory("data.size=8", 10, "images")
    if available_memory() is not None:
        with pytest.raises(
            UserError, match=r"data.size=9000: 3 images take 1,000,000.0 GB of memory, and [\d,.]+ GB are available"
        ):
            require_memory("data.size=9000", 10**15, "3 images")
