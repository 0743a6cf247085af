"""Which files count as images, and by what: endings against Pillow's own list, content, and formats that are not installed."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from image_folders import picture
from PIL import Image

from zoo.datamodules.files import formats
from zoo.datamodules.files.formats import FORMATS, is_image, why_no_image
from zoo.datamodules.files.images import UnreadableImage, read_image, upright_size
from zoo.datamodules.flickr8k import Flickr8k
from zoo.spec import ImageSpec

SPEC = ImageSpec(3, 12, 12, classes=())
ENDINGS = [(ending, name) for name, endings in FORMATS.items() for ending in endings]
PLAIN = {"apng": "PNG", "avifs": "AVIF", "mpo": "JPEG", "pfm": None, "heics": "HEIF", "heifs": "HEIF", "hif": "HEIF"}


def test_endings_are_those_of_pillow():
    """And of pillow-heif, where it is installed."""
    theirs: dict[str, set[str]] = {}
    for ending, name in Image.registered_extensions().items():
        theirs.setdefault("JPEG" if name == "MPO" else name, set()).add(ending.removeprefix("."))
    for name in formats.READABLE:
        assert set(FORMATS[name]) == theirs[name]


@pytest.mark.parametrize(("ending", "name"), ENDINGS)
def test_a_file_of_each_ending_is_read_as_pillow_reads_it(tmp_path, ending, name):
    if name not in formats.READABLE:
        pytest.skip(f"{name} cannot be read here")
    image = picture(mode="F") if ending == "pfm" else picture()
    for path in (tmp_path / f"a.{ending}", tmp_path / f"B.{ending.upper()}"):
        image.save(path, PLAIN.get(ending, name))
        assert is_image(str(path))
        if ending != "pfm":
            expected = np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1)
            assert np.array_equal(read_image(str(path), SPEC), expected)


@pytest.mark.parametrize("name", ["photo", "IMG.2020.12.03", "photo.jpg?width=300", "photo.jpg_large", "émile", "🐈"])
def test_without_an_ending_the_content_decides(tmp_path, name):
    path = tmp_path / name
    picture().save(path, "PNG")
    assert is_image(str(path))
    for content in (b"", b"P2P networks: notes", b"BMX", b"%PDF-1.7", b"<svg xmlns='http://www.w3.org/2000/svg'/>"):
        path.write_bytes(content)
        assert why_no_image(str(path)) == "of other types"


def test_a_wrong_ending_of_an_image_does_not_matter_and_that_of_something_else_does(tmp_path):
    picture().save(tmp_path / "a.png", "BMP")
    assert np.array_equal(read_image(str(tmp_path / "a.png"), SPEC), np.asarray(picture()).transpose(2, 0, 1))
    for name in ("a.txt", "a.dng", "a.nef", "a.npy", "a.jpg.download"[:-4]):  # raw photographs are TIFF by their content
        picture().save(tmp_path / name, "TIFF")
        assert why_no_image(str(tmp_path / name)) == "of other types"


def test_a_format_that_is_not_installed_is_named_with_what_reads_it(tmp_path, monkeypatch):
    path = tmp_path / "a.heic"
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    monkeypatch.setattr(formats, "READABLE", ("JPEG", "PNG"))
    assert why_no_image(str(path)) == "of type HEIF, which needs pip install 'bestiary[heic]'"
    for source in (str(path), BytesIO(path.read_bytes())):
        with pytest.raises(UnreadableImage, match=r"^of type HEIF, which needs pip install 'bestiary\[heic\]'$"):
            read_image(source, SPEC)
    for content in (b"\0\0\0\x18ftypmp42\0\0\0\0", b"", b"text"):
        path.write_bytes(content)
        with pytest.raises(UnreadableImage, match=r"^not an image$"):
            read_image(str(path), SPEC)


@pytest.mark.skipif("AVIF" not in formats.READABLE, reason="this Pillow does not read AVIF")
@pytest.mark.parametrize("memory_gb", [1, 0])
def test_what_could_not_be_read_is_tried_again_once_its_format_is_installed(tmp_path, monkeypatch, memory_gb):
    """As after a user has followed the advice."""
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    folder = tmp_path / "photos"
    folder.mkdir()
    lines = ["image,caption"]
    for number in range(40):
        picture(seed=number).save(folder / f"{number}.avif", "AVIF" if number % 2 else "PNG")
        lines.append(f"{number}.avif,a picture")
    (folder / "captions.txt").write_text("\n".join(lines))
    installed = formats.READABLE
    for readable in (tuple(name for name in installed if name != "AVIF"), installed):
        monkeypatch.setattr(formats, "READABLE", readable)
        data = Flickr8k(4, 0, str(folder), size=12, min_count=1, memory_gb=memory_gb)
        data.setup()
        images = data.splits["train"].images
        list(images.batches(iter([torch.arange(len(images))])))
        names = {Path(name).name for name in (images.failed_files() if memory_gb == 0 else map(str, data.unreadable))}
        if readable == installed:
            assert not names
        else:
            assert names and all(int(name.partition(".")[0]) % 2 for name in names)


def test_a_turned_heic_is_turned_once(tmp_path):
    pytest.importorskip("pillow_heif")
    exif = Image.Exif()
    exif[0x0112] = 6
    path, stored = str(tmp_path / "a.heic"), picture(64, 32)
    stored.save(path, exif=exif.tobytes(), quality=100)
    upright = np.asarray(stored.transpose(Image.Transpose.ROTATE_270)).astype(int)
    assert upright_size(path) == (64, 32)
    assert np.abs(read_image(path, ImageSpec(3, 64, 32, classes=())).permute(1, 2, 0).numpy() - upright).mean() < 6


def test_what_starts_programs_is_not_opened(tmp_path):
    for name in ("script.eps", "script.png", "script"):
        Path(tmp_path / name).write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
        with pytest.raises(UnreadableImage):
            read_image(str(tmp_path / name), SPEC)
    assert [is_image(str(tmp_path / name)) for name in ("script.eps", "script.png", "script")] == [False, True, False]
