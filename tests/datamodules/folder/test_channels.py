"""Gray folders are held in one channel, others in three."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from image_folders import all_pixels, picture, ready, save
from PIL import Image

from zoo.datamodules.files import value_range as module
from zoo.datamodules.folder import Folder

CROPS = {"memory_gb": 0, "augment": "resized-crop:0.5"}


def gray(root, mode="L", count=10, kind="png"):
    for position, name in enumerate(("cat", "dog")):
        for index in range(count):
            save(root / name / f"{index}.{kind}", picture(16, 12, seed=100 * position + index).convert(mode))
    return root


@pytest.mark.parametrize(("mode", "kind"), [("L", "png"), ("L", "jpg"), ("1", "png"), ("LA", "png")])
@pytest.mark.parametrize("options", [{}, {"memory_gb": 0}])
def test_gray_is_one_channel(root, mode, kind, options):
    data = Folder(4, 0, str(gray(root, mode, kind=kind)), size=8, **options)
    assert data.spec.shape == (1, 8, 8)  # before anything is decoded
    data = ready(root, size=8, augment="none", **options)
    color = ready(root, size=8, augment="none", channels=3, **options)
    pixels, repeated = all_pixels(data, "train"), all_pixels(color, "train")
    assert data.spec.shape == (1, 8, 8) and len(data.spec.mean) == 1
    assert torch.equal(pixels.expand(-1, 3, -1, -1), repeated)
    assert data.spec.mean[0] == pytest.approx(color.spec.mean[0])


def test_random_crops_of_gray_are_those_of_three_equal_channels(root):
    gray(root, kind="jpg")
    drawn = []
    for channels in (0, 3):
        data = ready(root, size=8, channels=channels, **CROPS)
        drawn.append(next(data.splits["train"].images.batches(iter([torch.arange(8)]), seed=5)))
    assert drawn[0].shape == (8, 1, 8, 8) and torch.equal(drawn[0].expand(-1, 3, -1, -1), drawn[1])


@pytest.mark.parametrize("mode", ["RGB", "P", "RGBA"])
def test_one_image_with_colors_makes_it_three(root, mode):
    save(gray(root) / "dog" / "x.png", picture(16, 12).convert(mode))
    assert Folder(4, 0, str(root)).spec.shape == (3, 12, 16)


def test_a_file_that_is_no_image_decides_nothing(root):
    (gray(root) / "dog" / "x.png").write_bytes(b"no image")
    assert Folder(4, 0, str(root)).spec.shape == (1, 12, 16)


@pytest.mark.parametrize("options", [{}, {"memory_gb": 0}, {"memory_gb": 0, "keep": False}, CROPS])
def test_colors_found_later_become_gray_and_are_said(root, options, monkeypatch, capsys):
    monkeypatch.setattr(module, "HEADERS", 2)  # the first of each class
    other = save(gray(root) / "cat" / "5.png", picture(16, 12))
    data = ready(root, size=8, validation=0, **options)
    assert data.spec.channels == 1
    found = {name: all_pixels(data, name) for name in ("train", "test")}
    said = [line for line in capsys.readouterr().err.splitlines() if "become gray" in line]
    assert len(said) == 1 and said[0].startswith("1 of ") and said[0].endswith(f" images have colors and become gray: {other}")
    (image,) = [found[name][data.splits[name].files.index(str(other))] for name in found if str(other) in data.splits[name].files]
    if "augment" not in options:
        assert np.array_equal(image[0], picture(16, 12).convert("L").resize((8, 8), Image.Resampling.BILINEAR, (2, 0, 14, 12)))


def test_a_gray_model_is_tested_on_gray_and_a_color_model_on_color(root, zoo):
    small = ("--set", "trainer.accelerator=cpu", "--epochs", "1", "--set", "data.size=8")
    save(root / "color" / "cat" / "x.png", picture(16, 12))
    gray(root / "color"), gray(root / "gray")
    for trained, other in (("gray", "color"), ("color", "gray")):
        answer = zoo("train", "softmax", "--data", "folder", "--set", f"data.root={root / trained}", "--name", trained, *small)
        assert answer.code == 0, answer.err
        answer = zoo("test", trained, "--set", f"data.root={root / other}")
        assert answer.code == 0, answer.err
