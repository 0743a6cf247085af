"""What is held out of a folder, and what the splits hold."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from image_folders import all_pixels, make, picture, ready, save, sizes
from PIL import Image
from torchvision.transforms.v2 import functional as transforms

from zoo.datamodules.folder import Folder


def test_without_split_folders_the_seed_decides(root):
    make(root, 20)
    data = ready(root, test=0.25)
    assert sum(sizes(data).values()) == 40 and all(sizes(data).values())
    parts = torch.cat([all_pixels(data, name) for name in ("train", "val", "test")])
    assert len(parts.flatten(1).unique(dim=0)) == 40  # nothing twice, nothing lost
    assert torch.equal(all_pixels(data, "test"), all_pixels(ready(root, test=0.25), "test"))
    other = Folder(4, 1, str(root), test=0.25)
    other.setup()
    assert not torch.equal(all_pixels(data, "test"), all_pixels(other, "test"))


def test_files_that_come_go_or_are_renamed_move_no_other_from_its_split(root):
    make(root, 60)
    options = {"test": 0.2, "validation": 0.2}

    def where() -> dict[str, str]:
        data = ready(root, **options)
        return {path: name for name, split in data.splits.items() for path in split.files}

    def share(salt: str, name: str) -> float:
        """The rule, worked by hand."""
        seed = int.from_bytes(hashlib.blake2b(f"0/{salt}".encode(), digest_size=8).digest(), "big") >> 1
        return int.from_bytes(hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest(), "big") / 2**64

    before = where()
    for path, split in before.items():
        name = Path(path).relative_to(root).as_posix()
        assert split == ("test" if share("testing", name) < 0.2 else "val" if share("hold out", name) < 0.2 else "train")
    for index in range(0, 60, 7):
        save(root / "cat" / f"new{index}.png", picture(seed=500 + index))
        (root / "dog" / f"{index:02}.png").unlink()
        (root / "cat" / f"{index:02}.png").rename(root / "cat" / f"renamed{index}.png")
    make(root, 30, ("ant",))
    after = where()
    assert len(after.keys() & before.keys()) == 120 - 2 * 9
    assert all(after[path] == before[path] for path in after.keys() & before.keys())
    elsewhere = root.rename(root.parent / "elsewhere")
    moved = {path: name for name, split in ready(elsewhere, **options).splits.items() for path in split.files}
    assert {path.replace(str(elsewhere), str(root)): split for path, split in moved.items()} == after


def test_folds_of_files_are_disjoint_and_cover_everything(root):
    make(root, 30)
    held = [ready(root, validation=f"{fold}/4").splits for fold in range(1, 5)]
    assert all(splits["test"].files == held[0]["test"].files for splits in held)
    files = [file for splits in held for file in splits["val"].files]
    assert sorted(files) == sorted({*held[0]["train"].files, *held[0]["val"].files})


def test_validation_folder_without_test_folder(root):
    make(root / "train")
    make(root / "val", 2)
    found = sizes(ready(root, test=0.3))
    assert found["train"] + found["test"] == 20 and found["test"] and found["val"] == 4


def test_classes_that_a_split_lacks_are_mapped_by_name_and_named(root, capfd):
    make(root / "train", 4, ("cat", "dog", "owl"))
    make(root / "val", 2, ("owl",))
    make(root / "test", 3, ("cat", "owl"))
    (root / "test" / "dog").mkdir()
    data = ready(root)
    assert capfd.readouterr().err.splitlines() == [
        f"warning: {root}: no validation image of cat, dog: not in the validation metrics",
        f"warning: {root}: no test image of dog: not in the test metrics",
    ]
    assert data.spec.classes == ("cat", "dog", "owl")
    assert {name: split.labels.unique().tolist() for name, split in data.splits.items()} == {
        "train": [0, 1, 2], "val": [2], "test": [0, 2],
    }  # fmt: skip


@pytest.mark.parametrize("layout", ["together", "train", "train, val and test"])
def test_the_files_of_the_splits_hold_what_is_in_them(root, layout):
    if layout == "together":
        make(root, 10)
    else:
        make(root / "train", 10)
    if "test" in layout:
        make(root / "val", 2)
        make(root / "test", 3)
    broken = next(path for path in sorted(root.rglob("*.png")))
    broken.write_bytes(b"no image")
    data = ready(root)
    assert set(data.splits) == {"train", "val", "test"}
    for name, split in data.splits.items():
        assert len(split.files) == len(split.labels)
        read = torch.stack([transforms.pil_to_tensor(Image.open(path)) for path in split.files])
        assert torch.equal(read, all_pixels(data, name)) and str(broken) not in split.files


@pytest.mark.parametrize(("limit", "spread"), [(1, True), (0.3, True), (1.0, False)])
def test_a_part_of_an_evaluation_is_of_all_classes(root, limit, spread):
    data = Folder(8, 0, str(make(root, 40, ("a", "b", "c", "d"))), test=0.5)
    data.setup()
    labels = data.splits["test"].labels
    data.trainer = SimpleNamespace(
        limit_val_batches=limit, limit_test_batches=limit, strategy=SimpleNamespace(root_device=torch.device("cpu")),
        global_rank=0, world_size=1, lightning_module=None,
    )  # fmt: skip
    batches = [batch["labels"] for batch in data.test_dataloader()]
    assert (batches[0].unique().numel() > 1) == spread
    assert torch.equal(torch.cat(batches).sort().values, labels.sort().values), "the same images"
    assert torch.equal(torch.cat(batches), labels) != spread
