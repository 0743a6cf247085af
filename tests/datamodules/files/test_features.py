"""Features of a frozen network in place of images."""

from __future__ import annotations

from contextlib import suppress

import pytest
import torch
from torch import Tensor

from zoo.core.errors import UserError
from zoo.datamodules.digits import Digits
from zoo.datamodules.files.features import cached_features
from zoo.datamodules.loading.splits import ImagesInMemory


def means(images: Tensor) -> Tensor:
    return images.float().mean((2, 3))


def test_features_are_computed_once_and_drawn_as_images_are() -> None:
    images = ImagesInMemory(torch.arange(150, dtype=torch.uint8).view(150, 1, 1, 1).expand(-1, 2, 3, 3).contiguous())
    seen = []

    def encode(pixels: Tensor) -> Tensor:
        seen.append(len(pixels))
        return means(pixels)

    first, second = (cached_features(images, encode, "these") for _ in range(2))
    assert sum(seen) == 150
    indices = torch.tensor([149, 3, 3])
    for kept in (first, second):
        assert len(kept) == 150
        [drawn] = kept.batches(iter([indices]))
        assert torch.equal(drawn, torch.tensor([[149.0, 149.0], [3.0, 3.0], [3.0, 3.0]]))
    [of_subset] = first.subset(torch.tensor([5, 7, 9])).batches(iter([torch.tensor([2, 0])]))
    assert of_subset[:, 0].tolist() == [9, 5]


def test_other_images_of_the_same_number_have_features_of_their_own() -> None:
    images = [ImagesInMemory(torch.full((4, 1, 2, 2), value, dtype=torch.uint8)) for value in (1, 2)]
    kept = [cached_features(each, means, "same") for each in images]
    assert [next(each.batches(iter([torch.tensor([0])]))).item() for each in kept] == [1, 2]
    assert len({each.identity() for each in (*images, *kept, kept[0].subset(torch.tensor([1])))}) == 5


def test_an_unfinished_file_is_computed_anew() -> None:
    images = ImagesInMemory(torch.zeros(100, 1, 2, 2, dtype=torch.uint8))
    calls = []

    def interrupted(pixels: Tensor) -> Tensor:
        calls.append(len(pixels))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return means(pixels)

    with suppress(KeyboardInterrupt):
        cached_features(images, interrupted, "cut")
    [drawn] = cached_features(images, means, "cut").batches(iter([torch.arange(100)]))
    assert drawn.shape == (100, 1)


def test_a_data_set_gives_features_of_the_images_it_would_give() -> None:
    def ready() -> Digits:
        data = Digits(32, 0, augment="none")
        data.setup()
        return data

    pixels, features = ready(), ready()
    features.cache_features(means, "a network")
    for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
        for one, other in zip(getattr(pixels, name)(), getattr(features, name)(), strict=True):
            assert torch.equal(means(one["images"]), other["images"])
            assert torch.equal(one["labels"], other["labels"])


def test_features_that_are_kept_need_no_more_than_a_cache_that_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    images = ImagesInMemory(torch.zeros(3, 1, 2, 2, dtype=torch.uint8))
    kept = cached_features(images, means, "kept")

    def refuse(*arguments: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("zoo.datamodules.files.features.FileLock", refuse)
    assert cached_features(images, means, "kept").path == kept.path
    with pytest.raises(UserError, match="features cannot be cached in .*: Permission denied; set ZOO_HOME to another folder"):
        cached_features(images, means, "new")


def test_a_damaged_file_is_computed_anew() -> None:
    images = ImagesInMemory(torch.zeros(100, 1, 2, 2, dtype=torch.uint8))
    path = cached_features(images, means, "damaged").path
    for rest in (300, 20, 0):
        path.write_bytes(path.read_bytes()[:rest])
        [drawn] = cached_features(images, means, "damaged").batches(iter([torch.arange(100)]))
        assert drawn.shape == (100, 1)
