"""All readers of image files give the pixels of Pillow's own conversion: in memory, by threads, in prediction, as a server."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from image_folders import picture
from PIL import Image, ImageOps

from zoo.datamodules.files.crops import Box, decode_box, decode_whole
from zoo.datamodules.files.image_files import ImageFiles
from zoo.datamodules.files.images import decode, read_image
from zoo.datamodules.files.paths import Paths
from zoo.serve.uploads import Limits, read_upload
from zoo.spec import ImageSpec

SHAPE = (12, 16)
FRAMES = [picture(16, 12, seed=seed) for seed in range(3)]


def turned(mode: str) -> tuple[Image.Image, dict]:
    """An image that stands on its side, and the tag that says so."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return picture(12, 16, mode=mode), {"exif": exif}


def with_transparency(mode: str) -> Image.Image:
    image = picture(16, 12, mode="RGBA")
    image.putalpha(Image.linear_gradient("L").resize((16, 12)))
    return image.convert(mode)


def save_deep(path: Path) -> None:
    """A PNG with 16 bits a channel, which Pillow reads but does not write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    pixels = (np.asarray(FRAMES[0]).astype(int) * 256 + 99).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = chunk(b"IHDR", struct.pack(">2I5B", 16, 12, 16, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def save_all(name: str, **options) -> Callable[[Path], None]:
    return lambda path: FRAMES[0].save(path, name, save_all=True, append_images=FRAMES[1:], **options)


def save(image: Image.Image, name: str, **options) -> Callable[[Path], None]:
    return lambda path: image.save(path, name, **options)


KINDS = {
    "frames of a GIF": save_all("GIF"),
    "pages of a TIFF": save_all("TIFF"),
    "frames of a WebP": save_all("WEBP", lossless=True),
    "frames of a PNG": save_all("PNG"),
    "images of an MPO": save_all("MPO"),
    "EXIF orientation": save(turned("RGB")[0], "JPEG", **turned("RGB")[1]),
    "EXIF orientation of a gray image": save(turned("L")[0], "JPEG", **turned("L")[1]),
    "EXIF orientation of a CMYK image": save(turned("CMYK")[0], "JPEG", **turned("CMYK")[1]),
    "CMYK": save(picture(16, 12, mode="CMYK"), "JPEG"),
    "CMYK in a TIFF": save(picture(16, 12, mode="CMYK"), "TIFF"),
    "YCbCr in a TIFF": save(picture(16, 12, mode="YCbCr"), "TIFF"),
    "gray": save(picture(16, 12, mode="L"), "JPEG"),
    "progressive": save(picture(16, 12), "JPEG", progressive=True),
    "1 bit": save(picture(16, 12, mode="1"), "PNG"),
    "1 bit in a TIFF": save(picture(16, 12, mode="1"), "TIFF"),
    "palette": save(picture(16, 12, mode="P"), "PNG"),
    "palette with transparency": save(picture(16, 12, mode="P"), "PNG", transparency=3),
    "palette with levels of transparency": save(picture(16, 12, mode="P"), "PNG", transparency=bytes(range(256))),
    "GIF with transparency": save(picture(16, 12, mode="P"), "GIF", transparency=3),
    "gray with transparency": save(with_transparency("LA"), "PNG"),
    "color with transparency": save(with_transparency("RGBA"), "PNG"),
    "transparent color": save(picture(16, 12), "PNG", transparency=picture(16, 12).getpixel((3, 3))),
    "16 bits a channel": save_deep,
}


def reference(path: Path) -> np.ndarray:
    """Pillow's own conversion, and the formula for transparent parts on white."""
    image = ImageOps.exif_transpose(Image.open(path))
    if not image.has_transparency_data:
        return np.asarray(image.convert("RGB"))
    pixels = np.asarray(image.convert("RGBA")).astype(float)
    opacity = pixels[..., 3:] / 255
    return (opacity * pixels[..., :3] + (1 - opacity) * 255).round().astype(np.uint8)


@pytest.mark.parametrize("kind", KINDS)
def test_every_reader_gives_the_pixels_of_pillow(tmp_path, monkeypatch, kind):
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    path = tmp_path / "an image"
    KINDS[kind](path)
    expected = reference(path)
    assert expected.shape == (*SHAPE, 3) and expected.std() > 9
    if kind == "16 bits a channel":
        assert np.array_equal(expected, FRAMES[0])
    pixels = decode(str(path), SHAPE)
    assert np.abs(pixels.astype(int) - expected).max() <= ("transparen" in kind), "of rounding"
    channels_first = torch.tensor(pixels.transpose(2, 0, 1))
    spec = ImageSpec(3, *SHAPE, classes=())
    assert torch.equal(read_image(str(path), spec), channels_first)
    assert torch.equal(read_upload(path.read_bytes(), spec, Limits()), channels_first)
    assert np.array_equal(decode_whole(str(path), 999), pixels)
    assert np.array_equal(decode_box(str(path), lambda height, width: Box(0, 0, height, width), SHAPE, "bilinear"), pixels)
    for keep in (True, False):
        images = ImageFiles(Paths([str(path)]), SHAPE, keep=keep)
        for _ in range(2):  # decoded, then as it is kept
            assert torch.equal(next(images.batches(iter([torch.tensor([0])])))[0], channels_first)
