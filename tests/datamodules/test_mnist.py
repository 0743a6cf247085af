"""MNIST and Fashion-MNIST from tiny IDX files, held against torchvision's reader, and the real MNIST where it lies."""

from __future__ import annotations

import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from zoo.core.errors import UserError
from zoo.datamodules import mnist
from zoo.datamodules.mnist import FashionMnist, Mnist, read_idx

REAL = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "mnist"
# of the uncompressed files, as published
REAL_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))


def idx(array: np.ndarray) -> bytes:
    header = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


def write(folder: Path, compressed: bool = True, names: str = "-idx", **changes: bytes) -> None:
    """Forty images for training, twenty for testing; ``changes`` replaces the content of a file."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for part, count in (("train", 40), ("t10k", 20)):
        contents = {
            f"{part}_images": (f"{part}-images-idx3-ubyte", idx(random.integers(0, 256, (count, 28, 28)))),
            f"{part}_labels": (f"{part}-labels-idx1-ubyte", idx(np.arange(count) % 10)),
        }
        for key, (name, content) in contents.items():
            content, name = changes.get(key, content), name.replace("-idx", names)
            if compressed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(content))
            else:
                (folder / name).write_bytes(content)


@pytest.mark.parametrize(("cls", "reference"), [(Mnist, "MNIST"), (FashionMnist, "FashionMNIST")])
@pytest.mark.parametrize("compressed", [True, False])
def test_reads_as_torchvision_does(tmp_path, cls, reference, compressed):
    write(tmp_path / reference / "raw", compressed=False)
    write(tmp_path / "plain", compressed)
    for root in (tmp_path, tmp_path / "plain"):
        data = cls(8, 0, root=str(root), validation=0)
        data.prepare_data()
        data.setup()
        for name, train in (("train", True), ("test", False)):
            expected = getattr(torchvision.datasets, reference)(tmp_path, train=train)
            split = data.splits[name]
            assert torch.equal(split.images.pixels[:, 0], expected.data)
            assert torch.equal(split.labels, expected.targets)
            assert split.images.pixels.dtype == torch.uint8 and split.labels.dtype == torch.int64


def test_files_named_with_a_dot_are_found(tmp_path):
    write(tmp_path, compressed=False, names=".idx")
    data = Mnist(8, 0, root=str(tmp_path))
    data.setup()
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 30, "val": 10, "test": 20}


def test_spec_is_known_without_files():
    assert Mnist(8, 0).spec.shape == FashionMnist(8, 0).spec.shape == (1, 28, 28)
    assert Mnist(8, 0).spec.classes[7] == "7"
    assert list(FashionMnist(8, 0).spec.classes) == [
        name.lower().replace("t-shirt/top", "t-shirt") for name in torchvision.datasets.FashionMNIST.classes
    ]
    assert Mnist(8, 0, size=32).spec.shape == (1, 32, 32)
    assert "hflip" not in Mnist.standard and "hflip" in FashionMnist.standard


@pytest.mark.parametrize("cls", [Mnist, FashionMnist])
@pytest.mark.parametrize("given", [True, False])
def test_what_is_missing_is_fetched_with_its_hash(tmp_path, monkeypatch, cls, given):
    asked = []

    def fetch(name, *sources, folder):
        asked.append(name)
        assert len(sources) >= 2
        for source in sources:
            assert source.startswith("https://") and source.endswith(f"{name}#sha256={cls.hashes[name]}")
        write(folder)
        return folder / name

    monkeypatch.setattr(mnist, "fetch", fetch)
    root = tmp_path / "given"
    write(root)
    (root / "t10k-labels-idx1-ubyte.gz").unlink()
    data = cls(8, 0, root=str(root) if given else "")
    data.setup()
    assert len(data.splits["test"]) == 20
    assert asked == (["t10k-labels-idx1-ubyte.gz"] if given else list(cls.hashes))


def test_the_published_hashes():
    readme = REAL.parent / "README.md"
    if not readme.is_file():
        pytest.skip(f"{readme} is not here")
    lines = readme.read_text().splitlines()
    for cls, title in ((Mnist, "MNIST"), (FashionMnist, "Fashion-MNIST")):
        for name, digest in cls.hashes.items():
            assert any(line.startswith(f"| {title} `{name}`") and digest in line for line in lines)


IMAGES, LABELS = idx(np.zeros((40, 28, 28))), idx(np.arange(40) % 10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_images": IMAGES[:-1]}, "declares 31,360 bytes but holds only 31,359"),
        ({"train_images": IMAGES + b"x"}, "holds more"),
        ({"train_images": IMAGES[:7]}, "not an IDX file"),
        ({"train_images": b""}, "not an IDX file"),
        ({"train_images": b"<html>sign in</html>"}, "not an IDX file"),
        ({"train_images": LABELS}, "not an IDX file of bytes in 3 dimensions"),
        ({"train_images": idx(np.zeros((40, 32, 32)))}, "32x32 pixels, not 28x28"),
        ({"train_images": idx(np.zeros((39, 28, 28)))}, "39 images and 40 labels"),
        ({"train_labels": idx(np.full(40, 10))}, "the label 10"),
        ({"train_images": bytes((0, 0, 8, 3)) + struct.pack(">3I", 2**32 - 1, 28, 28)}, "implausible"),
    ],
)
@pytest.mark.parametrize("compressed", [True, False])
def test_a_wrong_file_is_one_line_that_names_it(tmp_path, change, message, compressed):
    write(tmp_path, compressed, **change)
    with pytest.raises(UserError, match=message) as error:
        Mnist(8, 0, root=str(tmp_path)).setup()
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_a_truncated_archive_is_one_line(tmp_path):
    write(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    content = path.read_bytes()
    for damaged in (content[:-20], content[:12], content[:500] + b"\xff" * 100 + content[600:]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="damaged or truncated|not an IDX") as error:
            Mnist(8, 0, root=str(tmp_path)).setup()
        assert "\n" not in str(error.value)


def test_no_more_is_unpacked_than_announced(tmp_path):
    path = tmp_path / "bomb.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(idx(np.arange(10)))
        for _ in range(64):
            file.write(bytes(2**20))
    with pytest.raises(UserError, match="holds more"):
        read_idx(path, dimensions=1)


def test_one_is_not_taken_for_the_other(tmp_path):
    labels = idx(np.array([7, 2, 1, 0, 4, 1, 4, 9, 5, 9] * 2))
    write(tmp_path, t10k_labels=labels)
    Mnist(8, 0, root=str(tmp_path)).setup()
    with pytest.raises(UserError, match="labels of MNIST, not of FashionMNIST"):
        FashionMnist(8, 0, root=str(tmp_path)).setup()


def test_the_real_files():
    if not REAL.is_dir():
        pytest.skip(f"{REAL} is not here")
    for name, digest in REAL_SHA256.items():
        assert hashlib.sha256(gzip.decompress((REAL / f"{name}.gz").read_bytes())).hexdigest() == digest
    data = Mnist(128, 0, root=str(REAL))
    data.setup()
    assert len(data.splits["train"]) + len(data.splits["val"]) == 60000
    counts = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert torch.bincount(data.splits["test"].labels).tolist() == counts
    assert data.spec.mean[0] == pytest.approx(0.1307, abs=5e-4) and data.spec.std[0] == pytest.approx(0.3081, abs=5e-4)
    with pytest.raises(UserError, match="labels of MNIST"):
        FashionMnist(128, 0, root=str(REAL)).setup()
