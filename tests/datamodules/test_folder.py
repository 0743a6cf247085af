"""Folders of pictures: layouts, formats, damaged files, the cache, and reading by worker processes."""

from __future__ import annotations

import hashlib
import os
import struct
import subprocess
import sys
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from zoo.core.errors import UserError
from zoo.datamodules.files import decoded as decoded_module
from zoo.datamodules.files import images as images_module
from zoo.datamodules.files.image_files import ImageFiles
from zoo.datamodules.files.images import decode
from zoo.datamodules.folder import Folder
from zoo.datamodules.loading.splits import ImageLoader, ImagesInMemory
from zoo.spec import IGNORE

HOME = Path(__file__).resolve().parents[2]
JPEGS = HOME.parent / "data"  # cifar10-jpeg.tar.xz of ../shared/data, unpacked


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))


@pytest.fixture
def root(tmp_path) -> Path:
    return tmp_path / "pictures"


def picture(width: int = 12, height: int = 12, seed: int = 0, mode: str = "RGB") -> Image.Image:
    """Smooth colors, so that lossy formats stay near."""
    small = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def save(path: Path, image: Image.Image | None = None, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (image or picture()).save(path, **options)
    return path


def make(root: Path, count: int = 10, classes: tuple[str, ...] = ("cat", "dog"), size: tuple[int, int] = (12, 12)) -> Path:
    for position, name in enumerate(classes):
        for index in range(count):
            save(root / name / f"{index:02}.png", picture(*size, seed=100 * position + index))
    return root


def ready(root: Path, **options) -> Folder:
    data = Folder(4, 0, str(root), **options)
    data.prepare_data()
    data.setup()
    return data


def sizes(data: Folder) -> dict[str, int]:
    return {name: len(split) for name, split in data.splits.items()}


def all_pixels(data: Folder, name: str) -> Tensor:
    split = data.splits[name]
    return torch.cat(list(split.images.batches(iter(torch.arange(len(split)).split(5)))))


def decoding_fails(*_):
    raise AssertionError("decoded, though it was to be in the cache")


# ---------------------------------------------------------------------------------------------- layouts


def test_split_folders_are_read_as_torchvision_reads_them(root):
    make(root / "train")
    make(root / "test", 3)
    make(root / "val", 2)
    data = ready(root)
    assert data.spec.shape == (3, 12, 12) and data.spec.classes == ("cat", "dog")
    for name in ("train", "test", "val"):
        reference = torchvision.datasets.ImageFolder(root / name)
        expected = torch.stack([transforms.pil_to_tensor(image) for image, _ in reference])
        assert torch.equal(all_pixels(data, name), expected)
        assert data.splits[name].labels.tolist() == reference.targets
        assert data.splits[name].labels.dtype == torch.int64


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train", "valid", "test"),
        ("Training", "validation", "Testing"),
        ("TRAIN", "Val", "TEST"),
        ("training_set", "dev_set", "test_set"),
        ("train-data", "eval", "testset"),
        ("train images", "Validation Set", "test images"),
    ],
)
def test_splits_are_called_by_any_synonym_in_any_case(root, capfd, train, val, test):
    for name, count in ((train, 3), (val, 2), (test, 1)):
        make(root / name, count)
    data = ready(root)
    assert sizes(data) == {"train": 6, "val": 4, "test": 2} and data.spec.classes == ("cat", "dog")
    assert capfd.readouterr().err == ""


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


@pytest.mark.parametrize(
    ("folders", "classes", "notes"),
    [
        (["bus/", "train/"], "bus train", []),
        (["bus/", "car/", "train/", "val/", "test/"], "bus car test train val",
         ["test is read as a class like bus, car", "val is read as a class like bus, car"]),
        (["bus/front/", "car/front/", "train/front/", "train/side/"], "bus car train",
         ["train is read as a class like bus, car; for its folders: data.root={root}/train"]),
        (["Training/bus/", "Training/train/", "Testing/bus/", "Testing/train/"], "bus train", []),
        (["train/cat/", "train/dog/", "raw/", "masks/cat/", "test/cat/"], "cat dog", ["not used: masks, raw"]),
        (["train/cat/", "train/dog/", "unsorted/"], "cat dog", ["not used: unsorted"]),
        (["train/cat/", "train/dog/", "Test/"], "cat dog",
         ["Test has no class folders, so it is for prediction: zoo predict RUN {root}/Test"]),
        (["train/cat/", "train/dog/", "test/images/"], "cat dog",
         ["test has no class folders, so it is for prediction: zoo predict RUN {root}/test"]),
    ],
)  # fmt: skip
def test_which_folders_are_splits_classes_or_unused(root, capfd, folders, classes, notes):
    for folder in folders:
        save(root / folder / "a.png", picture(seed=len(folder)))
    tree = Folder(4, 0, str(root)).tree
    assert tree.classes == tuple(classes.split())
    told = capfd.readouterr().err.splitlines()
    assert told == [f"warning: {root}: {note.format(root=root)}" for note in notes]


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


def test_hidden_and_foreign_files_are_ignored_and_folders_below_a_class_are_read(root):
    make(root, 10)
    make(root / "cat" / "below", 1, classes=("deeper",))
    save(root / ".hidden" / "a.png")
    save(root / "cat" / ".thumbnail.png")
    save(root / "__MACOSX" / "cat" / "a.png")
    (root / "cat" / "notes.txt").write_text("a cat")
    (root / "list.csv").write_text("a,b")
    data = ready(root, validation=0)
    assert data.spec.classes == ("cat", "dog")
    assert sum(sizes(data).values()) == 21


def test_links_that_go_round_end(root):
    make(root, 3)
    elsewhere = make(root.parent / "elsewhere", 2, classes=("more",))
    (root / "cat" / "again").symlink_to(root / "cat")
    (root / "cat" / "up").symlink_to(root)
    (root / "dog" / "more").symlink_to(elsewhere / "more")
    (root / "dog" / "gone.png").symlink_to(root / "nothing")
    assert [len(files) for files in Folder(4, 0, str(root)).tree.files.values()] == [3 + 5]


def test_description_needs_headers_only(root, monkeypatch):
    make(root, 10, size=(20, 10))
    monkeypatch.setattr(decoded_module, "decode", decoding_fails)
    (root / "cat" / "no image.jpg").write_bytes(b"text")
    spec = Folder(4, 0, str(root)).spec
    assert spec.shape == (3, 10, 20) and spec.classes == ("cat", "dog")
    assert Folder(4, 0, str(root), size=7).spec.shape == (3, 7, 7)
    save(root / "cat" / "other.png", picture(20, 11))
    assert Folder(4, 0, str(root)).spec.shape == (3, 224, 224)


# ---------------------------------------------------------------------------------------------- pixels


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


# ---------------------------------------------------------------------------------------------- what cannot be read


def bomb(path: Path) -> None:
    """A PNG of 30000x30000 pixels in a few bytes."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">2I5B", 30000, 30000, 8, 0, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b""))


@pytest.fixture
def damaged(root) -> Path:
    make(root, 10)
    bomb(root / "cat" / "bomb.png")
    whole = save(root / "dog" / "cut.jpg", picture(12, 12)).read_bytes()
    (root / "dog" / "cut.jpg").write_bytes(whole[: len(whole) - 60])
    (root / "dog" / "empty.gif").write_bytes(b"")
    (root / "dog" / "page.jpg").write_text("<html>")
    (root / "dog" / "script.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    return root


def test_what_cannot_be_read_is_left_out_and_listed(damaged, capfd):
    for _ in range(2):  # decoded, then from the cache
        data = ready(damaged, validation=0)
        (told,) = capfd.readouterr().err.splitlines()
        assert told.startswith("warning: 5 of 25 images cannot be read and are skipped: ")
        assert "bomb.png" in told and "and 2 more" in told
        names = ["bomb.png", "cut.jpg", "empty.gif", "page.jpg", "script.png"]
        assert [path.name for path in data.unreadable] == names
        assert data.spec.shape == (3, 12, 12)
        assert sizes(data) == {"train": 18, "val": 0, "test": 2}
        assert len(torch.cat([all_pixels(data, "train"), all_pixels(data, "test")])) == 20
        assert all(int(split.labels.sum()) == len(split) // 2 for split in data.splits.values())


def test_strict_refuses_it(damaged):
    for _ in range(2):
        with pytest.raises(UserError, match=r"bomb.png: is not a readable image \(5 such.*data.strict=false") as error:
            ready(damaged, strict=True)
        assert "\n" not in str(error.value)


def test_damaged_exif_is_no_reason_to_lose_an_image(root):
    path = save(root / "a.jpg", picture(), exif=b"Exif\0\0broken")
    assert decode(str(path), (12, 12)).shape == (12, 12, 3)
    assert images_module.upright_size(str(path)) == (12, 12)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda root: None, "no such folder"),
        (lambda root: root.write_text("file"), "is not a folder"),
        (lambda root: root.mkdir(), "is empty"),
        (lambda root: save(root / "a.png"), "no class folder"),
        (lambda root: (root / ".git").mkdir(parents=True), "is empty"),
        (lambda root: make(root, classes=("cat",)), "only one class folder, 'cat'"),
        (lambda root: (make(root), (root / "owl").mkdir()), "owl: holds no image"),
        (lambda root: (make(root), (root / "dog" / "00.png").rename(root / "x.png"),
                       [path.write_text("x") for path in (root / "dog").iterdir()]), "class 'dog' of train has no"),
        (lambda root: (make(root / "train"), make(root / "test", classes=("cat", "cow"))),
         "test: has classes that .*train lacks: cow: rename or remove"),
        (lambda root: make(root / "test"), "has a folder 'test' but no folder 'train'"),
        (lambda root: (save(root / "train" / "a.png"), save(root / "test" / "a.png")), "train: holds no class folder"),
        (lambda root: (make(root / "train"), make(root / "val"), make(root / "valid")), "val and valid both exist"),
        (lambda root: (make(root / "train", 1), make(root / "test", 2)),
         r"none of 2 images is held out for validation by data.validation=0.1: data.validation=0.\d+ holds one out$"),
        (lambda root: (make(root / "train"), make(root / "test", classes=("Cat", "dog"))),
         "lacks: Cat: rename or remove them; did you mean 'cat'"),
    ],
)  # fmt: skip
def test_a_folder_that_is_none_is_one_line(root, build, message):
    build(root)
    with pytest.raises(UserError, match=message) as error:
        ready(root)
    assert "\n" not in str(error.value) and str(root) in str(error.value)


@pytest.mark.parametrize("options", [{"test": 0}, {"test": 1.0}, {"test": -0.1}, {"size": -1}, {"validation": 1.0}])
def test_options_out_of_range(root, options):
    with pytest.raises(UserError, match=f"data.{next(iter(options))}="):
        Folder(4, 0, str(root), **options)


def test_a_root_that_is_not_there_names_the_nearest(root):
    make(root)
    with pytest.raises(UserError, match="no such folder; did you mean 'pictures'"):
        ready(root.parent / "picture")
    with pytest.raises(UserError, match=f"no such folder: {root} holds no 'owls'"):
        ready(root / "owls" / "train")


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


def test_no_root():
    with pytest.raises(UserError, match="data.root is empty"):
        Folder(4, 0, "").build_spec()


# ---------------------------------------------------------------------------------------------- the cache


def test_the_second_start_decodes_nothing(root, monkeypatch):
    make(root)
    first = ready(root)
    monkeypatch.setattr(decoded_module, "decode", decoding_fails)
    monkeypatch.setattr(decoded_module, "upright_size", decoding_fails)
    second = ready(root)
    assert second.spec == first.spec
    for name in ("train", "val", "test"):
        assert torch.equal(all_pixels(first, name), all_pixels(second, name))


def test_a_changed_folder_or_size_is_read_again(root):
    make(root)
    ready(root)
    image = root / "cat" / "00.png"
    before = image.stat()
    save(image, picture(seed=77))
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))
    data = ready(root, validation=0)
    everything = torch.cat([all_pixels(data, "train"), all_pixels(data, "test")])
    assert any(np.array_equal(np.asarray(picture(seed=77)), pixels.permute(1, 2, 0).numpy()) for pixels in everything)
    assert ready(root, size=6).splits["train"].images.pixels.shape[1:] == (3, 6, 6)
    assert ready(root).splits["train"].images.pixels.shape[1:] == (3, 12, 12)


def test_files_that_change_places_are_read_again(root):
    make(root / "train", 3)
    one, other = (save(root / "train" / name / "x.bmp", picture(seed=seed)) for name, seed in (("cat", 50), ("dog", 51)))
    make(root / "test", 2)
    for path in (one, other):
        os.utime(path, ns=(10**18, 10**18))
    before = ready(root, validation=0)
    one.rename(root / "aside"), other.rename(one), (root / "aside").rename(other)
    assert one.stat().st_size == other.stat().st_size and one.stat().st_mtime_ns == other.stat().st_mtime_ns
    for data, seeds in ((before, (50, 51)), (ready(root, validation=0), (51, 50))):
        files = data.splits["train"].files
        for path, seed in zip((one, other), seeds, strict=True):
            index = files.index(str(path))
            assert np.array_equal(all_pixels(data, "train")[index].permute(1, 2, 0).numpy(), np.asarray(picture(seed=seed)))
            expected = hashlib.blake2b(save(root.parent / "expected.bmp", picture(seed=seed)).read_bytes(), digest_size=16)
            assert data.splits["train"].content()[index] == expected.digest()


def test_statistics_follow_the_content(root):
    make(root)
    first = ready(root).spec.mean
    for path in root.rglob("*.png"):
        Image.new("RGB", (12, 12), (255, 0, 0)).save(path)
        os.utime(path, (1, 1))
    assert ready(root).spec.mean == (1.0, 0.0, 0.0) != first


def test_a_damaged_cache_is_made_anew(root, tmp_path, capfd, monkeypatch):
    make(root)
    monkeypatch.setattr("zoo.datamodules.files.progress.WORTH_A_LINE", 1)
    expected = all_pixels(ready(root), "train")
    cache = next((tmp_path / "home" / "folder").glob("*.safetensors"))
    whole = cache.read_bytes()
    for content in (b"", whole[:-5], whole[:200] + b"\xff" * 50, whole[:-50] + bytes(50), b"\xff" * len(whole)):
        cache.write_bytes(content)
        capfd.readouterr()
        assert torch.equal(all_pixels(ready(root), "train"), expected)
        assert "decoding" in capfd.readouterr().err
        assert len(cache.read_bytes()) == len(whole)


def test_a_cache_that_cannot_be_written_is_no_reason_to_stop(root, tmp_path):
    make(root)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "folder").write_text("in the way")
    assert sizes(ready(root)) == {"train": 16, "val": 2, "test": 2}


def test_processes_that_start_together_decode_once(root, monkeypatch):
    decoded = []

    def slowly(paths, shape, in_memory, crop):
        decoded.append(len(paths))
        time.sleep(0.3)  # long enough for the other to arrive
        return decode_all(paths, shape, in_memory)

    decode_all = decoded_module.decode_all
    monkeypatch.setattr(decoded_module, "decode_all", slowly)
    files = [str(path) for path in make(root).rglob("*.png")]
    with ThreadPoolExecutor(2) as both:  # each with a lock of its own, as processes have
        contents = list(both.map(lambda _: decoded_module.kept_content(files, (8, 8), 1.0, "together"), range(2)))
    assert decoded == [len(files)] and torch.equal(contents[0].pixels, contents[1].pixels)


def test_the_cache_is_bounded(root, tmp_path):
    make(root, 3)
    for size in range(2, 13):
        ready(root, size=size)
        ready(root, size=2)  # used again and again, so it stays
    kept = list((tmp_path / "home" / "folder").glob("*.safetensors"))
    assert len(kept) == decoded_module.KEPT
    assert decoded_module.Cache(Folder(4, 0, str(root), size=2).fingerprint).path in kept


# ---------------------------------------------------------------------------------------------- read from files


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
    assert len(data.augmentation.transforms) == 1  # the flip
    assert data.splits["train"].images.random_crops.stored_size == 19

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


# ---------------------------------------------------------------------------------------------- real pictures


def test_real_jpegs(tmp_path):
    if not (JPEGS / "train" / "cat").is_dir():
        pytest.skip(f"{JPEGS} is not here: cifar10-jpeg.tar.xz of ../shared/data, unpacked")
    root = tmp_path / "some"
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (root / part / name).mkdir(parents=True)
            for path in sorted((JPEGS / part / name).iterdir())[:50]:
                (root / part / name / path.name).symlink_to(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = ready(root)
    for name in ("train", "test"):
        reference = torchvision.datasets.ImageFolder(root / name)
        ours = all_pixels(data, name)
        theirs = torch.stack([transforms.pil_to_tensor(image) for image, _ in reference])
        if name == "test":
            assert torch.equal(ours, theirs)
        else:
            ours = torch.cat([ours, all_pixels(data, "val")])
            assert torch.equal(ours.flatten(1).long().sum(1).sort()[0], theirs.flatten(1).long().sum(1).sort()[0])


def test_one_line_is_printed_in_a_log_where_it_takes_long(root, capfd, monkeypatch):
    make(root)
    ready(root)
    assert capfd.readouterr().err == ""
    make(root, count=11)
    monkeypatch.setattr("zoo.datamodules.files.progress.WORTH_A_LINE", 20)
    ready(root)
    assert capfd.readouterr().err.splitlines() == ["scanning 22 images", "decoding 22 images"]
    ready(root)
    assert capfd.readouterr().err == ""


def test_the_registry_reads_it_without_torch():
    code = (
        "import sys; from zoo.registry.registry import scan; entries = scan().data;"
        "assert {'mnist', 'fashion-mnist', 'cifar10', 'cifar100', 'folder'} <= set(entries);"
        "assert entries['folder'].options[0].default == 'required';"
        "assert all(option.help for name in ('mnist', 'cifar10', 'folder') for option in entries[name].options);"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=HOME).returncode == 0


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
