"""The digits, held against scikit-learn's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from zoo.datamodules.digits import Digits


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))


def ready(seed: int = 0, **options) -> Digits:
    data = Digits(64, seed, **options)
    data.prepare_data()
    data.setup()
    return data


def rows(split) -> list[tuple]:
    """Each image with its label, comparable."""
    images = split.images.pixels.flatten(1).tolist()
    return sorted((tuple(image), label) for image, label in zip(images, split.labels.tolist(), strict=True))


def test_the_splits_together_are_scikit_learns_digits_from_0_to_255():
    data, bunch = ready(), load_digits()
    pixels = np.rint(bunch.images / 16 * 255).astype(np.uint8).reshape(len(bunch.target), -1).tolist()
    expected = sorted((tuple(image), int(label)) for image, label in zip(pixels, bunch.target, strict=True))
    assert sorted(row for split in data.splits.values() for row in rows(split)) == expected
    assert len(expected) == 1797
    for split in data.splits.values():
        assert split.images.pixels.dtype == torch.uint8 and split.images.pixels.shape[1:] == data.spec.shape == (1, 8, 8)


def test_each_split_has_its_share_of_each_class():
    data = ready(validation=0.25)
    counts = np.bincount(load_digits().target)
    test, val, train = (torch.bincount(data.splits[name].labels).numpy() for name in ("test", "val", "train"))
    assert (np.abs(test - 0.2 * counts) <= 0.5).all()
    assert (np.abs(val - 0.25 * (counts - test)) <= 0.5).all()
    assert (test + val + train == counts).all()


def test_all_seeds_share_the_test_images_and_differ_in_validation():
    first, other = ready(0), ready(1)
    assert rows(first.splits["test"]) == rows(other.splits["test"])
    assert rows(first.splits["val"]) != rows(other.splits["val"])
    assert rows(first.splits["val"]) == rows(ready(0).splits["val"])


def test_the_spec_is_known_before_setup_and_completed_by_it():
    before = Digits(64, 0).spec
    data = ready()
    assert before.shape == data.spec.shape and before.classes == data.spec.classes == tuple("0123456789")
    pixels = data.splits["train"].images.pixels.numpy() / 255.0
    assert data.spec.mean == pytest.approx((pixels.mean(),), rel=1e-9)
    assert data.spec.std == pytest.approx((pixels.std(),), rel=1e-9)


@pytest.mark.parametrize(("augment", "changes"), [("none", False), ("standard", True), ("strong", True), ("hflip", True)])
def test_only_what_is_asked_for_is_augmented(augment, changes):
    data = ready(augment=augment)
    batch = next(iter(data.train_dataloader()))
    images = batch["images"].clone()
    assert torch.equal(data.on_after_batch_transfer(batch, 0)["images"], images) != changes
    validation = next(iter(data.val_dataloader()))
    images = validation["images"].clone()
    assert torch.equal(data.on_after_batch_transfer(validation, 0)["images"], images)
