"""Pixels of image files: formats, modes, orientation, sizes."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from image_folders import picture, save
from PIL import Image
from torchvision.transforms.v2 import functional as transforms

from zoo.datamodules.files import images as images_module
from zoo.datamodules.files.images import decode


@pytest.fixture
def root(tmp_path) -> Path:
    return tmp_path / "pictures"


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.gif", "a.tif", "a.TIFF", "a.webp", "a.ppm", "a.jpg", "a.JPEG"])
def test_formats(root, name):
    path = save(root / name, picture(), **({"lossless": True} if name.endswith("webp") else {}))
    expected = np.asarray(Image.open(path).convert("RGB"))
    assert np.array_equal(decode(str(path), (12, 12)), expected)
    assert np.abs(expected.astype(int) - np.asarray(picture())).mean() < 16  # the file is what was meant


def test_modes(root):
    gray = np.asarray(picture(mode="L"))
    for image in (
        Image.fromarray(gray),
        Image.fromarray(gray.astype(np.uint16) * 257),
        Image.fromarray(gray).convert("LA"),
        Image.fromarray(gray).convert("P"),
    ):
        assert np.array_equal(decode(str(save(root / "a.png", image)), (12, 12)), np.stack([gray] * 3, 2)), image.mode
    for image in (Image.fromarray(gray.astype(np.int32) * 257), Image.fromarray(gray.astype(np.float32) / 255)):
        assert np.array_equal(decode(str(save(root / "a.tif", image)), (12, 12)), np.stack([gray] * 3, 2)), image.mode
    plain = b"P5 2 1 65535\n" + struct.pack(">2H", 65535, 256 * 7)
    (root / "a.pgm").write_bytes(plain)
    assert decode(str(root / "a.pgm"), (1, 2))[0, :, 0].tolist() == [255, 7]
    assert decode(str(save(root / "a.jpg", picture(mode="CMYK"))), (12, 12)).shape == (12, 12, 3)


def test_what_is_transparent_is_white(root):
    image = Image.new("RGBA", (2, 1), (200, 100, 0, 255))
    image.putpixel((1, 0), (200, 100, 0, 0))
    assert decode(str(save(root / "a.png", image)), (1, 2)).tolist() == [[[200, 100, 0], [255, 255, 255]]]
    palette = Image.new("P", (2, 1))
    palette.putpalette([0, 0, 0, 9, 8, 7])
    palette.putpixel((1, 0), 1)
    assert decode(str(save(root / "b.png", palette, transparency=0)), (1, 2)).tolist() == [[[255] * 3, [9, 8, 7]]]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.webp"])
def test_exif_orientation(root, orientation, name):
    upright = picture(16, 8)
    # how a camera stores it: the inverse of what the tag asks for
    turned = [None, None, 0, 3, 1, 5, 2, 6, 4][orientation]
    stored = upright if turned is None else upright.transpose(Image.Transpose(turned))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(root / "cat" / name, stored, exif=exif)
    assert images_module.upright_size(str(path)) == (8, 16)
    assert np.abs(decode(str(path), (8, 16)).astype(int) - np.asarray(upright)).mean() < 12


@pytest.mark.parametrize(("width", "height"), [(40, 20), (20, 60), (30, 30), (7, 9), (1, 50)])
def test_other_sizes_are_scaled_and_cut_like_torchvision(root, width, height):
    image = picture(width, height)
    pixels = decode(str(save(root / "a.png", image)), (10, 10))
    scaled = transforms.resize(image, 10, transforms.InterpolationMode.BILINEAR)
    expected = np.asarray(transforms.center_crop(scaled, [10, 10])).astype(int)
    difference = np.abs(pixels - expected)
    if max(width, height) % min(width, height):
        assert difference.mean() < 5  # torchvision rounds the longer side to whole pixels before it cuts
    else:
        assert difference.max() <= 1


def test_large_jpegs_are_read_at_less_than_full_size_with_the_same_result(root):
    path = save(root / "a.jpg", picture(800, 600), quality=95)
    expected = Image.open(path).crop((100, 0, 700, 600)).resize((32, 32), Image.Resampling.BILINEAR)
    assert np.abs(decode(str(path), (32, 32)).astype(int) - np.asarray(expected)).mean() < 1


def test_damaged_exif_is_no_reason_to_lose_an_image(root):
    path = save(root / "a.jpg", picture(), exif=b"Exif\0\0broken")
    assert decode(str(path), (12, 12)).shape == (12, 12, 3)
    assert images_module.upright_size(str(path)) == (12, 12)
