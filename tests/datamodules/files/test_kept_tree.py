import os
from pathlib import Path

import pytest

from zoo.core.errors import UserError
from zoo.datamodules.files import kept_tree as module
from zoo.datamodules.files.image_tree import scan_tree
from zoo.datamodules.files.kept_tree import kept_tree


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(module, "LARGE", 5)
    for name in ("train/ä", "train/dog/deep", "train/dog/empty", "val/dog", "notes"):
        (tmp_path / "images" / name).mkdir(parents=True)
    for name in ("train/ä/1.png", "train/ä/2.png", "train/dog/1.png", "train/dog/deep/2.png", "val/dog/3.png"):
        (tmp_path / "images" / name).touch()
    settle(tmp_path / "images")
    return tmp_path / "images"


def settle(root: Path) -> None:
    for folder, _, _ in os.walk(root):
        os.utime(folder, (1, 1))


def scanning_fails(*arguments):
    raise AssertionError("scanned again")


def test_it_is_scanned_once(root, monkeypatch):
    expected = scan_tree(root)
    assert kept_tree(root) == expected and expected.classes == ("dog", "ä") and expected.notes
    monkeypatch.setattr(module, "scan_tree", scanning_fails)
    assert kept_tree(root) == expected
    with pytest.raises(AssertionError, match="scanned again"):
        kept_tree(root / "train")


@pytest.mark.parametrize(
    "place", ["train/ä", "train/dog/deep", "train/dog/empty", "val/dog", "notes/new", "train/ä/new", "val/ä"]
)
def test_a_changed_folder_is_seen(root, place):
    kept_tree(root)
    (root / place).mkdir(exist_ok=True)
    (root / place / "9.png").touch()
    assert kept_tree(root) == scan_tree(root)
    settle(root)
    kept_tree(root)
    (root / place / "9.png").unlink()
    assert kept_tree(root).files == scan_tree(root).files


def test_folders_that_were_just_changed_are_not_kept(root, monkeypatch):
    (root / "train" / "dog" / "9.png").touch()
    kept_tree(root)
    monkeypatch.setattr(module, "scan_tree", scanning_fails)
    with pytest.raises(AssertionError):
        kept_tree(root)


@pytest.mark.parametrize("content", [b"", b"PK\3\4 damaged"])
def test_a_damaged_file_is_written_anew(root, tmp_path, content):
    kept_tree(root)
    (path,) = (tmp_path / "home" / "trees").iterdir()
    whole = path.read_bytes()
    path.write_bytes(content)
    assert kept_tree(root) == scan_tree(root) and len(path.read_bytes()) == len(whole)


def test_what_is_no_folder_is_refused(root):
    with pytest.raises(UserError, match="data.root is empty"):
        kept_tree(None)
    with pytest.raises(UserError, match="no such folder"):
        kept_tree(root / "missing")
