"""Which files below a class folder are its images."""

from __future__ import annotations

from image_folders import make, ready, save, sizes

from zoo.datamodules.folder import Folder


def test_hidden_and_foreign_files_are_ignored_and_folders_below_a_class_are_read(root):
    make(root, 10)
    make(root / "cat" / "below", 1, classes=("deeper",))
    save(root / ".hidden" / "a.png")
    save(root / "cat" / ".thumbnail.png")
    save(root / "__MACOSX" / "cat" / "a.png")
    (root / "cat" / "notes.txt").write_text("a cat")
    (root / "list.csv").write_text("a,b")
    data = ready(root, validation=0)
    assert data.spec.classes == ("cat", "dog")
    assert sum(sizes(data).values()) == 21


def test_links_that_go_round_end(root):
    make(root, 3)
    elsewhere = make(root.parent / "elsewhere", 2, classes=("more",))
    (root / "cat" / "again").symlink_to(root / "cat")
    (root / "cat" / "up").symlink_to(root)
    (root / "dog" / "more").symlink_to(elsewhere / "more")
    (root / "dog" / "gone.png").symlink_to(root / "nothing")
    assert [len(files) for files in Folder(4, 0, str(root)).tree.files.values()] == [3 + 5]
