import multiprocessing
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from zoo.datamodules.files import mapped as module
from zoo.datamodules.files.mapped import MappedImages, open_mapped
from zoo.datamodules.files.paths import Paths


@pytest.fixture
def files(tmp_path) -> list[str]:
    """Files that hold a number each."""
    paths = [tmp_path / f"{index}.raw" for index in range(12)]
    for index, path in enumerate(paths):
        path.write_text(str(index))
    return list(map(str, paths))


def decoded(file: str) -> np.ndarray:
    """An image of 2x3 pixels of the number in the file."""
    return np.full((2, 3, 3), int(Path(file).read_text()), np.uint8)


def decoding_fails(file: str) -> np.ndarray:
    raise AssertionError(f"{file} is decoded again")


def all_of(mapped: MappedImages, files: list[str], decode=decoding_fails) -> list[int]:
    return [int(mapped.get(row, file, decode)[0, 0, 0]) for row, file in enumerate(files)]


def test_each_is_decoded_once(files, tmp_path):
    mapped = MappedImages(tmp_path / "a.pixels", 12, 20)
    assert mapped.get(3, files[3], decoded).shape == (2, 3, 3)
    assert all_of(mapped, files, decoded) == list(range(12)) == all_of(mapped, files)
    again = MappedImages(tmp_path / "a.pixels", 12, 20)
    assert all_of(again, files) == list(range(12))


def test_rows_are_taken_once_this_process_has_seen_them(files, tmp_path):
    mapped, out = MappedImages(tmp_path / "a.pixels", 12, 18), np.zeros((2, 2, 3, 3), np.uint8)
    rows = np.array([5, 2])
    mapped.get(5, files[5], decoded)
    assert not mapped.take(rows, out)
    mapped.get(2, files[2], decoded)
    assert mapped.take(rows, out) and out[:, 1, 2, 1].tolist() == [5, 2]


@pytest.mark.parametrize("damage", ["pixels", "index", "short", "gone"])
def test_what_is_damaged_is_decoded_again(files, tmp_path, damage):
    path = tmp_path / "a.pixels"
    all_of(MappedImages(path, 12, 18), files, decoded)
    if damage == "pixels":
        content = bytearray(path.read_bytes())
        content[4 * 18] ^= 1
        path.write_bytes(content)
    elif damage == "index":
        path.with_suffix(".index").write_bytes(b"\xff" * 240)
    elif damage == "short":
        os.truncate(path, 100)
    else:
        path.unlink()
    assert all_of(MappedImages(path, 12, 18), files, decoded) == list(range(12))


def test_a_changed_file_is_decoded_again(files, tmp_path):
    all_of(MappedImages(tmp_path / "a.pixels", 12, 18), files, decoded)
    other = tmp_path / "other"
    os.rename(files[0], other)  # two change places
    os.rename(files[1], files[0])
    os.rename(other, files[1])
    again = MappedImages(tmp_path / "a.pixels", 12, 18)
    assert all_of(again, files[:2], decoded) == [1, 0] and all_of(again, files)[2:] == list(range(2, 12))


def test_unreadable_files_are_remembered_and_faults_of_the_disk_are_not(files, tmp_path):
    def fails(error: Exception):
        def decode(file: str) -> np.ndarray:
            raise error

        return decode

    path = tmp_path / "a.pixels"
    mapped = MappedImages(path, 12, 18)
    assert mapped.get(0, files[0], fails(ValueError("damaged"))) is None
    assert mapped.get(1, files[1], fails(OSError(5, "input/output error"))) is None
    for each in (mapped, MappedImages(path, 12, 18)):
        assert each.get(0, files[0], decoding_fails) is None
    assert mapped.get(1, files[1], decoded) is not None


def test_a_full_disk_ends_the_keeping_and_nothing_else(files, tmp_path, monkeypatch, capsys):
    mapped = MappedImages(tmp_path / "a.pixels", 12, 18)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "pwrite", full)
    assert all_of(mapped, files, decoded) == list(range(12)) == all_of(mapped, files, decoded)
    assert capsys.readouterr().err.count("No space left on device") == 1


def decode_all_slowly(path: Path, files: list[str], count) -> None:
    def decode(file: str) -> np.ndarray:
        with count.get_lock():
            count.value += 1
        time.sleep(0.005)
        return decoded(file)

    assert all_of(MappedImages(path, 12, 18), files, decode) == list(range(12))


@pytest.mark.skipif(module.fcntl is None, reason="the system has no locks on parts of a file")
def test_processes_share_the_work(files, tmp_path):
    context = multiprocessing.get_context("fork")
    count = context.Value("i", 0)
    processes = [
        context.Process(target=decode_all_slowly, args=(tmp_path / "a.pixels", files, count)) for _ in range(2)
    ]  # fmt: skip
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0] and count.value == len(files)


def test_room_is_made_of_what_was_not_used_for_long(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_HOME", str(tmp_path))
    sizes = shutil.disk_usage(tmp_path)
    paths, folder = Paths(["/a/1.jpg"]), tmp_path / "images"
    assert open_mapped("a", paths, 10, 10) is not None
    (oldest,) = folder.glob("*.pixels")
    os.utime(oldest, (1, 1))
    assert open_mapped("b", paths, 10, 10) is not None
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: sizes._replace(free=0 if oldest.exists() else sizes.free))
    assert open_mapped("c", paths, 10, 10) is not None
    assert not oldest.exists() and len(list(folder.glob("*.pixels"))) == 2
    assert open_mapped("d", paths, 10, 10 * sizes.total) is None


def test_the_size_that_is_announced_is_that_of_all_files(files, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    open_mapped("a", Paths(files), 2_000_000, 1_000_000, np.arange(3))  # the first that are asked for, as statistics do
    assert "(about 12 MB)" in capsys.readouterr().err


def test_files_that_come_and_go_leave_what_is_kept(files, tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    first = open_mapped("a", Paths(files[2:8]), 18, 18)
    assert all_of(first, files[2:8], decoded) == list(range(2, 8))
    decoded_now = []

    def counted(file: str) -> np.ndarray:
        decoded_now.append(file)
        return decoded(file)

    for numbers, new in ([range(1, 9), {1, 8}], [range(11, -1, -1), {0, 9, 10, 11}], [range(3, 6), set()], [range(2, 8), set()]):
        paths = [files[number] for number in numbers]
        assert all_of(open_mapped("a", Paths(paths), 18, 18), paths, counted) == list(numbers)
        assert sorted(decoded_now) == sorted(files[number] for number in new)
        decoded_now.clear()
    assert all_of(first, files[2:8]) == list(range(2, 8))  # a process that is still at work
    assert len(list((tmp_path / "home" / "images").glob("*.pixels"))) == 1
    assert open_mapped("b", Paths(files), 18, 18).missing() == 12


@pytest.mark.parametrize("suffix", [".keys", ".rows"])
@pytest.mark.parametrize("content", [b"", b"\xff" * 7, b"\xff" * 1000])
def test_damaged_rows_give_no_wrong_image(files, tmp_path, monkeypatch, suffix, content):
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    all_of(open_mapped("a", Paths(files), 18, 18), files, decoded)
    (path,) = (tmp_path / "home" / "images").glob(f"*{suffix}")
    path.write_bytes(content)
    for paths in (files, files[3:]):
        assert all_of(open_mapped("a", Paths(paths), 18, 18), paths, decoded) == list(range(12))[-len(paths) :]


def test_what_was_kept_of_other_files_goes_if_there_is_no_room(files, tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    sizes = shutil.disk_usage(tmp_path)
    all_of(open_mapped("a", Paths(files[:6]), 18, 18), files[:6], decoded)
    (keys,) = (tmp_path / "home" / "images").glob("*.keys")
    monkeypatch.setattr(
        module.shutil, "disk_usage", lambda path: sizes._replace(free=0 if keys.stat().st_size > 48 else sizes.free)
    )
    assert open_mapped("a", Paths(files[6:]), 18, 18).missing() == 6 and keys.stat().st_size == 48


def test_a_cache_that_cannot_be_written_is_none(tmp_path, monkeypatch):
    (tmp_path / "images").write_text("in the way")
    monkeypatch.setenv("ZOO_HOME", str(tmp_path))
    assert open_mapped("a", Paths(["/a/1.jpg"]), 10, 10) is None
