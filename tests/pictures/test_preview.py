"""The picture of a data set, read back with Pillow."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from zoo.datamodules.bases.classification import ClassificationData
from zoo.datamodules.bases.images import PREVIEWED as SAMPLES
from zoo.datamodules.bases.images import PREVIEWED_VERSIONS as VERSIONS
from zoo.datamodules.digits import Digits
from zoo.datamodules.loading.splits import ImagesInMemory, Split
from zoo.pictures.plane import class_colors
from zoo.pictures.preview import CAPTION, GAP, write_preview
from zoo.spec import ImageSpec


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))


class Colors(ClassificationData):
    """Random colors, not square, some images of each class."""

    def __init__(self, augment="hflip", count=30, height=40, width=90):
        super().__init__(4, 0, root=None, size=0, augment=augment, validation=0.2)
        self.count, self.height, self.width = count, height, width

    def build_spec(self):
        return ImageSpec(3, self.height, self.width, classes=("a", "a rather long name of a class that has no room", "c"))

    def load_splits(self):
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (self.count, 3, self.height, self.width), generator=generator, dtype=torch.uint8)
        split = Split(ImagesInMemory(images), torch.arange(self.count) % 3)
        return {"train": split, "test": split}


def draw(data, name, path):
    data.prepare_data()
    data.setup()
    return write_preview(data, data.preview(), name, path)


def tiles(path, height: int, width: int, columns: int) -> np.ndarray:
    """The pictures of the sheet, [rows, columns, height, width, 3]."""
    with Image.open(path) as picture:
        assert picture.format == "PNG" and picture.mode == "RGB"
        sheet = np.asarray(picture)
    top = 2 * CAPTION + GAP
    rows = []
    for row in range(1 + VERSIONS):
        y = top + row * (height + GAP) + (GAP if row else 0)  # the samples stand apart
        rows.append([sheet[y : y + height, GAP + c * (width + GAP) :][:, :width] for c in range(columns)])
    assert sheet.shape[0] == y + height + GAP
    assert sheet.shape[1] >= columns * (width + GAP) + GAP
    return np.array(rows)


def test_digits_are_drawn_as_enlarged_pixels_of_different_classes(tmp_path):
    data = Digits(16, 0)
    path = tmp_path / "new folder" / "digits.png"
    assert draw(data, "digits", path) == path
    drawn = tiles(path, 72, 72, SAMPLES)  # 8 pixels, each 9 wide
    pixels = drawn[:, :, 4::9, 4::9]
    assert np.array_equal(pixels.repeat(9, 2).repeat(9, 3), drawn)
    assert (pixels == pixels[..., :1]).all()  # gray
    train = data.splits["train"]
    everything = train.images.pixels[:, 0].numpy()
    shown = [int((everything == sample[..., 0]).all((1, 2)).nonzero()[0][0]) for sample in pixels[0]]
    assert len(set(train.labels[shown].tolist())) == SAMPLES


def test_versions_differ_from_each_other_and_within_a_row(tmp_path):
    draw(Digits(16, 0, augment="crop:3"), "digits", tmp_path / "digits.png")
    drawn = tiles(tmp_path / "digits.png", 72, 72, SAMPLES)[:, :, 4::9, 4::9, 0].astype(int)
    versions = {drawn[row].tobytes() for row in range(1 + VERSIONS)}
    assert len(versions) == 1 + VERSIONS
    shifts = set()
    for row in range(1, 1 + VERSIONS):
        for column in range(SAMPLES):
            padded = np.pad(drawn[0, column], 3)
            fits = [
                (y, x) for y in range(7) for x in range(7) if np.array_equal(padded[y : y + 8, x : x + 8], drawn[row, column])
            ]
            assert fits
            shifts.add(fits[0])
    assert len(shifts) > 8


def test_color_images_keep_their_shape_and_their_versions_are_what_augmentation_makes(tmp_path):
    data = Colors()
    draw(data, "colors", tmp_path / "colors.png")
    drawn = tiles(tmp_path / "colors.png", 80, 180, SAMPLES)  # doubled, so that the shorter side has 72 pixels
    originals = data.splits["train"].images.pixels.permute(0, 2, 3, 1).numpy().repeat(2, 1).repeat(2, 2)
    assert all((originals == sample).all((1, 2, 3)).any() for sample in drawn[0])
    mirrored = [(drawn[row] == drawn[0, :, :, ::-1]).all((1, 2, 3)) for row in range(1, 1 + VERSIONS)]
    kept = [(drawn[row] == drawn[0]).all((1, 2, 3)) for row in range(1, 1 + VERSIONS)]
    assert (np.array(mirrored) ^ np.array(kept)).all() and np.array(mirrored).any() and np.array(kept).any()


def test_without_augmentation_there_are_samples_alone(tmp_path):
    draw(Colors(augment="hflip"), "colors", tmp_path / "both.png")
    draw(Colors(augment="none"), "colors", tmp_path / "colors.png")
    with Image.open(tmp_path / "colors.png") as picture:
        sheet = np.asarray(picture)
    top = 2 * CAPTION + GAP
    assert sheet.shape[0] == top + 80 + 2 * GAP
    samples = tiles(tmp_path / "both.png", 80, 180, SAMPLES)[0]
    for column, sample in enumerate(samples):
        assert (sheet[top : top + 80, GAP + column * (180 + GAP) :][:, :180] == sample).all()


@pytest.mark.parametrize("augment", ["mixup:1", "cutmix", "resized-crop,jitter,mixup"])
def test_mixed_images_can_be_drawn(tmp_path, augment):
    draw(Colors(augment=augment), "colors", tmp_path / "colors.png")
    drawn = tiles(tmp_path / "colors.png", 80, 180, SAMPLES)
    assert not (drawn[1:] == drawn[0]).all((2, 3, 4)).all()


def test_large_images_are_not_enlarged_and_few_are_enough(tmp_path):
    data = Colors(count=6, height=100, width=73, augment="vflip")
    draw(data, "few", tmp_path / "few.png")
    columns = len(data.splits["train"])
    assert columns < SAMPLES
    drawn = tiles(tmp_path / "few.png", 100, 73, columns)
    originals = data.splits["train"].images.pixels.permute(0, 2, 3, 1).numpy()
    assert sorted(sample.tobytes() for sample in drawn[0]) == sorted(image.tobytes() for image in originals)


def test_the_same_seed_draws_the_same_picture_and_replaces_the_old_one(tmp_path):
    path = tmp_path / "digits.png"
    path.write_bytes(b"old")
    first = draw(Digits(16, 0), "digits", path).read_bytes()
    assert draw(Digits(16, 0), "digits", path).read_bytes() == first
    assert draw(Digits(16, 1), "digits", path).read_bytes() != first
    assert [file.name for file in tmp_path.iterdir() if file.suffix == ".png"] == ["digits.png"]


def test_points_are_drawn_as_points(zoo):
    answer = zoo("data", "preview", "spirals", "--set", "data.num_samples=30", "-o", "points.png")
    assert answer.code == 0 and "training and test points" in answer.out
    with Image.open("points.png") as picture:
        assert picture.format == "PNG" and picture.width > picture.height > 300
        colors = {tuple(pixel) for pixel in np.asarray(picture.convert("RGB")).reshape(-1, 3)}
    expected = {tuple(round(255 * value) for value in color) for color in class_colors(3)}
    assert expected <= colors
    assert zoo("data", "preview", "spirals", "-o", "points.jpg").is_one_line_error(".png")
