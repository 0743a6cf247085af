"""Which files below a class folder are its images, and what is said of the others."""

from __future__ import annotations

import os
import unicodedata

import pytest
from image_folders import make, picture, ready, save, sizes

from zoo.core.errors import UserError
from zoo.datamodules.files import formats
from zoo.datamodules.folder import Folder

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


def test_hidden_and_foreign_files_are_left_out_and_named_and_folders_below_a_class_are_read(root, capfd):
    make(root, 10)
    make(root / "cat" / "below", 1, classes=("deeper",))
    save(root / ".hidden" / "a.png")
    save(root / "cat" / "._x.jpg")
    save(root / "dog" / "photo", format="PNG")
    save(root / "stray.png")
    save(root / "__MACOSX" / "cat" / "a.png")
    (root / "cat" / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    (root / "cat" / "notes.txt").write_text("a cat")
    (root / "dog" / "README").write_text("dogs")
    (root / "list.csv").write_text("a,b")
    (root / "dog" / "again.png").symlink_to("00.png")
    (root / "dog" / "gone.png").symlink_to("nothing")
    data = ready(root, validation=0)
    assert data.spec.classes == ("cat", "dog")
    assert sum(sizes(data).values()) == 22
    (note,) = data.notes
    assert capfd.readouterr().err == f"warning: {root}: {note}\n"
    assert note.startswith("left out: ")
    assert sorted(note.removeprefix("left out: ").removesuffix(")").split("), ")) == [
        "1 dangling (dog/gone.png",
        "1 linked again (dog/again.png",
        "1 outside class folders (stray.png",
        "3 of other types (cat/notes.txt, dog/README, list.csv",
        "4 hidden (.hidden, __MACOSX, cat/._x.jpg and 1 more",
    ]


def test_links_that_go_round_end(root):
    make(root, 3)
    elsewhere = make(root.parent / "elsewhere", 2, classes=("more",))
    (root / "cat" / "again").symlink_to(root / "cat")
    (root / "cat" / "up").symlink_to(root)
    (root / "dog" / "more").symlink_to(elsewhere / "more")
    (root / "dog" / "gone.png").symlink_to(root / "nothing")
    assert [len(files) for files in Folder(4, 0, str(root)).tree.files.values()] == [3 + 5]


def test_links_to_files_elsewhere_are_images_of_their_own(root):
    """As a folder that is made of links to one store has them."""
    store = save(root.parent / "store" / "0001.png")
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for index in range(3):
            (root / name / f"{index}.png").symlink_to(store)
    assert [len(files) for files in Folder(4, 0, str(root)).tree.files.values()] == [6]


def test_a_class_of_files_that_are_no_images_says_what_they_are(root, monkeypatch):
    make(root)
    for index in range(5):
        save(root / "owl" / f"{index}.heic", picture(seed=index), format="PNG")
    (root / "owl" / "notes.txt").write_text("owls")
    monkeypatch.setattr(formats, "READABLE", ("PNG",))
    with pytest.raises(UserError) as error:
        ready(root)
    assert str(error.value).startswith(f"{root / 'owl'}: holds no image: put some into it, or remove the folder; left out: ")
    assert "5 of type HEIF, which needs pip install 'bestiary[heic]' (0.heic, 1.heic, 2.heic and 2 more)" in str(error.value)
    assert "1 of other types (notes.txt)" in str(error.value) and "\n" not in str(error.value)


def test_a_class_in_composed_and_decomposed_unicode_is_one(root):
    make(root / "train", 4, (COMPOSED, "tea"))
    make(root / "train", 6, (DECOMPOSED,))
    make(root / "val", 2, (DECOMPOSED, "tea"))
    make(root / "test", 3, (COMPOSED, "tea"))
    data = ready(root)
    assert data.spec.classes == (COMPOSED, "tea")
    assert {name: split.labels.bincount().tolist() for name, split in data.splits.items()} == {
        "train": [10, 4], "val": [2, 2], "test": [3, 3],
    }  # fmt: skip


def test_a_name_that_is_not_utf8_is_refused_in_one_line(root):
    make(root)
    path = os.fsencode(root / "cat") + b"/caf\xe9.png"
    os.rename(root / "cat" / "00.png", path)
    with pytest.raises(UserError, match="its name is not UTF-8: rename it") as error:
        ready(root)
    assert "\n" not in str(error.value)
