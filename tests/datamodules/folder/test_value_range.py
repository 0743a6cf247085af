"""Deep images, those of more than 8 bits, get one range of values for the whole set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from image_folders import all_pixels, make, ready
from PIL import Image

from zoo.core.errors import UserError
from zoo.datamodules.bases import image_file_data
from zoo.datamodules.files import value_range as module
from zoo.datamodules.folder import Folder

LEVELS = {"dim": (1000, 1400), "bright": (3000, 5080)}  # the lowest and the highest value of each class


def deep(root: Path, kind="I;16", levels=LEVELS, splits=("train", "test"), count=4) -> Path:
    """Images with a gradient between the two values of their class."""
    for split in splits:
        for name, (low, high) in levels.items():
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                values = np.roll(np.linspace(low, high, 48).reshape(6, 8), number, 1)
                path = root / split / name / f"{number}.{'tif' if kind in 'IF' else 'png'}"
                Image.fromarray(values.astype({"I;16": np.uint16, "I": np.int32, "F": np.float32}[kind])).save(path)
    return root


@pytest.mark.parametrize("kind", ["I;16", "I", "F"])
def test_the_range_is_that_of_all_training_images(root, kind):
    deep(root, kind)
    brighter = np.full((6, 8), 6000).astype({"I;16": np.uint16, "I": np.int32, "F": np.float32}[kind])
    Image.fromarray(brighter).save(root / "test" / "dim" / ("a.tif" if kind in "IF" else "a.png"))
    data = ready(root, validation=0, augment="none")
    assert data.spec.value_range == (1000, 5080) and data.spec.shape == (1, 6, 8)
    pixels = dict(zip(data.splits["train"].files, all_pixels(data, "train"), strict=True))
    for path, found in pixels.items():
        values = np.asarray(Image.open(path), np.float64)
        assert np.array_equal(found[0], ((values - 1000) / 16).round())  # (5080 - 1000) / 255 = 16
    assert all_pixels(data, "test").flatten(1).min(1).values.tolist().count(255) == 1  # what is above the range is white


def test_images_held_out_do_not_count(root):
    deep(root, splits=["all"], count=20)
    root = root / "all"
    first = ready(root, validation=0.3, test=0.3)
    held_out = [*first.splits["val"].files, *first.splits["test"].files]
    for path in held_out:
        Image.fromarray(np.full((6, 8), 60000, np.uint16)).save(path)
    again = ready(root, validation=0.3, test=0.3)
    assert set(held_out) == {*again.splits["val"].files, *again.splits["test"].files}
    assert again.spec.value_range == first.spec.value_range == (1000, 5080)


def test_the_spec_is_known_without_decoding(root, monkeypatch):
    deep(root)
    monkeypatch.setattr(image_file_data, "measured_values", None)
    assert Folder(4, 0, str(root)).spec.shape == (1, 6, 8)


def test_it_is_measured_once(root, monkeypatch):
    deep(root)
    expected = all_pixels(ready(root, validation=0), "train")
    monkeypatch.setattr(module, "_measure", None)
    assert torch.equal(all_pixels(ready(root, validation=0), "train"), expected)


def test_a_range_can_be_given(root):
    data = ready(deep(root), value_range=[0, 2550], validation=0)
    assert data.spec.value_range == (0, 2550)
    assert {int(image.max()) for image in all_pixels(data, "train")} == {140, 255}
    with pytest.raises(UserError, match=r"^data.value_range=\[5, 2\]: "):
        Folder(4, 0, str(root), value_range=[5, 2])


def test_the_range_of_a_trained_model_is_used(root):
    trained = ready(deep(root / "a"), validation=0)
    other = Folder(4, 0, str(deep(root / "b", levels={"dim": (0, 500), "bright": (600, 60000)})))
    other.use_preprocessing(trained.spec)
    other.prepare_data()
    other.setup()
    assert other.spec.value_range == (1000, 5080)
    assert {int(image.max()) for image in all_pixels(other, "train")} == {0, 255}


def test_size_and_crop_of_a_trained_model_are_used(root):
    trained = ready(make(root / "a", size=(40, 20)), size=16, crop="squash", validation=0)
    for options in ({}, {"memory_gb": 0}):
        other = Folder(4, 0, str(make(root / "b", size=(12, 12))), augment="none", **options)
        other.use_preprocessing(trained.spec)
        other.prepare_data()
        other.setup()
        assert other.spec.shape == (3, 16, 16) and other.spec.crop == trained.spec.crop
        same = ready(root / "b", size=16, crop="squash", augment="none", **options)
        assert torch.equal(all_pixels(other, "train"), all_pixels(same, "train"))


def test_beyond_memory_it_is_that_of_a_sample(root, monkeypatch):
    deep(root)
    whole = ready(root, validation=0, augment="none")
    data = ready(root, memory_gb=0, validation=0, augment="none")
    assert data.spec == whole.spec and torch.equal(all_pixels(data, "train"), all_pixels(whole, "train"))
    monkeypatch.setattr(image_file_data, "SAMPLED", 4)  # every second file, among them the first of each class
    paths = sorted((root / "train").rglob("*.png"))
    Image.fromarray(np.full((6, 8), 9000, np.uint16)).save(paths[1])
    assert ready(root, memory_gb=0, validation=0).spec.value_range == (1000, 5080)
    assert ready(root, validation=0).spec.value_range == (1000, 9000)


def test_what_is_not_a_number_is_the_lowest_value(root):
    deep(root, "F")
    values = np.full((6, 8), 3040, np.float32)
    values[0, :3] = np.nan, np.inf, -np.inf
    Image.fromarray(values).save(root / "train" / "dim" / "0.tif")
    data = ready(root, validation=0, augment="none")
    assert data.spec.value_range == (1000, 5080)
    (place,) = [place for place, file in enumerate(data.splits["train"].files) if file.endswith("train/dim/0.tif")]
    row = all_pixels(data, "train")[place, 0, 0]
    assert row[:4].tolist() == [0, 255, 0, 128]


def test_a_nearly_constant_class_is_named_with_a_range_that_shows_it(root, capsys):
    levels = {"dark": (100, 180), "bright": (0, 60000)}
    data = ready(deep(root, levels=levels), validation=0)
    (warning,) = data.notes
    assert warning in capsys.readouterr().err and "images of dark are nearly constant" in warning
    assert "0 to 60,000" in warning and "data.value_range=[100,180]" in warning
    narrower = ready(root, validation=0, value_range=[100, 180])
    shown = all_pixels(narrower, "train")[narrower.splits["train"].labels == narrower.spec.classes.index("dark")]
    assert not narrower.notes and shown.unique().numel() == 48


@pytest.mark.parametrize("options", [{}, {"memory_gb": 0}])
def test_a_class_outside_a_chosen_range_is_named(root, options):
    deep(root, levels={"dim": (1000, 1400), "bright": (2000, 3000)})
    (warning,) = ready(root, validation=0, value_range=[0, 2000], **options).notes
    assert warning.startswith("all images of bright are outside data.value_range=[0,2000] and become black or white")
    assert not ready(root, validation=0, value_range=[0, 2001], **options).notes


def test_a_few_extreme_pixels_are_said(root):
    deep(root, levels={"dim": (1000, 1400), "bright": (1000, 2000)}, count=1)
    values = np.tile(np.linspace(1000, 1400, 40).astype(np.uint16), (40, 1))
    values[3, 3] = 65535  # of 1,600 pixels
    Image.fromarray(values).save(root / "train" / "dim" / "hot.png")
    (warning,) = ready(root, validation=0, size=8).notes
    assert "1,000 to 65,535" in warning and "data.value_range=[1000," in warning
    assert not ready(root, validation=0, size=8, value_range=[1000, 2000]).notes


def test_a_constant_set_is_black(root):
    data = ready(deep(root, levels={"a": (7, 7), "b": (7, 7)}), validation=0)
    assert data.spec.value_range == (7, 8) and not all_pixels(data, "train").any() and "of a, b are nearly" in data.notes[0]
