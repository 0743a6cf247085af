"""A folder of images that is not held in memory."""

from __future__ import annotations

import pytest
import torch
from image_folders import all_pixels, make, picture, ready, save, sizes
from torch import Tensor

from zoo.core.errors import UserError
from zoo.datamodules.files.image_files import ImageFiles, RandomCrops
from zoo.datamodules.folder import Folder
from zoo.datamodules.loading.splits import ImageLoader, ImagesInMemory
from zoo.spec import IGNORE


@pytest.mark.parametrize("keep", [True, False])
def test_reading_from_files_gives_the_same_batches(root, keep):
    make(root, 12)
    save(root / "cat" / "other.jpg", picture(30, 17))
    options = {"size": 8, "validation": 0.2, "test": 0.2}
    memory, files = ready(root, **options), ready(root, **options, memory_gb=0, keep=keep)
    assert isinstance(memory.splits["train"].images, ImagesInMemory)
    assert isinstance(files.splits["train"].images, ImageFiles)
    assert files.spec == memory.spec
    for loader in 2 * ("train_dataloader", "val_dataloader", "test_dataloader"):  # decoded, then as they were kept
        pairs = list(zip(getattr(memory, loader)(), getattr(files, loader)(), strict=True))
        assert pairs
        for ours, theirs in pairs:
            assert torch.equal(ours["images"], theirs["images"]) and torch.equal(ours["labels"], theirs["labels"])
            assert ours.get("seed") == theirs.get("seed")


def test_random_crops_of_files_depend_on_epoch_and_index_alone(root):
    make(root, 12, size=(40, 30))
    options = {"size": 16, "augment": "resized-crop:0.1,hflip", "memory_gb": 0}
    data, again = ready(root, **options), ready(root, **options, workers=1)
    assert data.augmentation.transforms == [] and data.splits["train"].images.random_crops == RandomCrops(0.1, 19, flip=True)

    def epoch(data: Folder, number: int, first: int = 0, **place: int) -> list[Tensor]:
        loader = ImageLoader(data.splits["train"], 2, seed=0, position=lambda: (number, first), **place)
        return [batch["images"] for batch in loader]

    whole = epoch(data, 0)
    assert all(map(torch.equal, epoch(again, 0, first=3), whole[3:]))  # as after a resume
    assert not any(map(torch.equal, epoch(again, 1), whole))
    parts = [epoch(again, 0, rank=rank, world=2) for rank in range(2)]
    assert all(map(torch.equal, (each for pair in zip(*parts, strict=True) for each in pair), whole))
    first, second = data.preview().augmented[:2]
    assert not torch.equal(first, second)


def test_what_cannot_be_read_from_files_is_named_and_not_counted(root, capfd):
    make(root / "train", 6)
    make(root / "test", 3)
    for path in (root / "train" / "cat" / "02.png", root / "test" / "dog" / "01.png"):
        path.write_bytes(b"no image")
    for _ in range(2):  # decoded, then kept
        data = ready(root, memory_gb=0, validation=0)
        assert sizes(data) == {"train": 12, "val": 0, "test": 6}
        assert torch.equal(all_pixels(data, "train")[2], all_pixels(data, "train")[3])
        labels = torch.cat([batch["labels"] for batch in data.test_dataloader()])
        assert labels.tolist() == [0, 0, 0, 1, IGNORE, 1]
        assert data.summarize()["unreadable"] == [str(root / "train/cat/02.png"), str(root / "test/dog/01.png")]
        told = capfd.readouterr().err
        assert "1 of 12 images cannot be read: " in told and "1 of 6 images cannot be read: " in told
    with pytest.raises(UserError, match=r"02.png: is not a readable image: remove it, or set data.strict=false"):
        all_pixels(ready(root, memory_gb=0, validation=0, strict=True), "train")
