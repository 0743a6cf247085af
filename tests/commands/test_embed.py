"""``zoo embed``: features in each format are those of the network, and files are named and left out as in ``zoo predict``."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pyarrow import parquet

import zoo as zoo_package
from zoo.core.errors import UserError
from zoo.datamodules.files.images import read_image

QUICK = ["--epochs", "1", "--set", "trainer.limit_train_batches=2", "--set", "trainer.limit_val_batches=1"]


@pytest.fixture
def photos(zoo) -> Path:
    """A run named ``first``, and a folder of four pictures, one of them of an awkward name, and one that is damaged."""
    assert (
        zoo("train", "convnet", *QUICK, "--set", "model.channels=[4]", "--set", "model.hidden_size=6", "--name", "first").code
        == 0
    )
    folder = Path("photos")
    folder.mkdir()
    for number, name in enumerate(("a", "b", "c", 'so, "called" ü')):
        pixels = np.random.default_rng(number).integers(0, 255, (11, 9), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    (folder / "z.png").write_bytes(b"no image")
    return folder


def test_every_format_holds_what_the_head_is_given(zoo, photos: Path) -> None:
    files = [str(path) for path in sorted(photos.iterdir())][:4]
    run = zoo_package.load("first")
    images = torch.stack([read_image(file, run.model.spec) for file in files])
    with torch.inference_mode():
        expected = run.model.hidden(run.model.forward_features(run.model.normalize(images)))
    answer = zoo("embed", "first", "photos")
    assert answer.code == 0 and answer.err.startswith("warning: photos/z.png is skipped: ")
    assert answer.out.splitlines() == ["features.npz: 6 features of each of 4 images", "next: zoo probe first --data FOLDER"]
    kept = np.load("features.npz")
    assert kept["files"].tolist() == files and kept["features"].dtype == np.float32
    assert np.array_equal(kept["features"], expected)
    assert json.loads(zoo("embed", "first", "photos", "-o", "to/f.parquet", "--json").out) == {
        "file": "to/f.parquet", "images": 4, "features": 6,
    }  # fmt: skip
    table = parquet.read_table("to/f.parquet")
    assert table["file"].to_pylist() == files and np.array_equal(table["features"].to_pylist(), expected)
    assert zoo("embed", "first", "photos", "-o", "f.csv").code == 0
    header, *rows = csv.reader(Path("f.csv").read_text().splitlines())
    assert header == ["file", *(f"feature_{place}" for place in range(6))] and [row[0] for row in rows] == files
    assert np.array_equal(np.array([row[1:] for row in rows], np.float32), expected)
    names, features = run.embed(["photos/b.png", images[0], Image.open("photos/c.png")], batch_size=2)
    assert names == ["photos/b.png", "image", "image"] and torch.allclose(features, expected[[1, 0, 2]], atol=1e-6)


def test_a_mistake_is_one_line_and_writes_nothing(zoo, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments, words in (
        (["photos", "-o", "f.txt"], ["--output f.txt", ".npz, .parquet, .csv"]),
        (["absent.png"], ["absent.png: no such file"]),
        (["photos/z.png"], ["photos/z.png"]),
        (["photos", "-o", "photos/a.png/f.csv"], ["photos/a.png is not a folder"]),
    ):
        assert zoo("embed", "first", *arguments).is_one_line_error(*words)
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    assert zoo("embed", "first", "photos", "-o", "f.parquet").is_one_line_error("needs pyarrow", "pip install 'bestiary[hf]'")
    assert sorted(path.name for path in Path().iterdir()) == ["photos", "runs"]
    named = zoo("embed", "first", "photos/a.png", "photos/z.png")
    assert named.code == 2 and named.err.splitlines()[-1].endswith("cannot be read: photos/z.png")
    assert np.load("features.npz")["files"].tolist() == ["photos/a.png"]


@pytest.mark.parametrize(
    ("model", "options", "pooled"),
    [
        ("resnet20", {"depth": 8, "width": 4}, lambda task, images: task.forward_features(images).mean((2, 3))),
        ("vit", {"patch_size": 8, "embed_dim": 16, "depth": 1}, lambda task, images: task.forward_features(images).mean((2, 3))),
        ("torchvision", {"network": "squeezenet1_1"}, lambda task, images: task.network.features(images).mean((2, 3))),
        ("timm", {"network": "test_efficientnet"}, lambda task, images: pre_logits(task.network, images)),
        ("efficientnet-lite0", {"network": "test_efficientnet"}, lambda task, images: pre_logits(task.network, images)),
    ],
)
def test_features_are_those_of_the_library_before_its_head(model: str, options: dict, pooled) -> None:
    spec = zoo_package.ImageSpec(3, 32, 32, classes=("a", "b"), mean=(0.5,) * 3, std=(0.25,) * 3)
    task = zoo_package.create_model(model, spec, **options).eval()
    pixels = task.example_batch(3)["images"]
    with torch.inference_mode():
        assert torch.equal(task.embed(pixels), pooled(task, task.normalize(pixels)))


def pre_logits(network: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    return network.forward_head(network.forward_features(images), pre_logits=True)


def test_nearest_neighbors_have_no_features() -> None:
    task = zoo_package.create_model("knn", zoo_package.ImageSpec(1, 2, 2, classes=("a", "b")))
    with pytest.raises(UserError, match="has no features"):
        task.embed(task.example_batch(1)["images"])
