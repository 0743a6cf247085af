"""Layouts of folders of images: which folders are splits, classes, or neither."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
import torchvision
from image_folders import all_pixels, decoding_fails, make, picture, ready, save, sizes
from torchvision.transforms.v2 import functional as transforms

from zoo.core.errors import UserError
from zoo.datamodules.files import decoded as decoded_module
from zoo.datamodules.folder import Folder

HOME = Path(__file__).resolve().parents[3]
JPEGS = HOME.parent / "data"  # cifar10-jpeg.tar.xz of ../shared/data, unpacked


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


@pytest.mark.parametrize(
    ("folders", "classes", "notes"),
    [
        (["bus/", "train/"], "bus train", []),
        (["bus/", "car/", "train/", "val/", "test/"], "bus car test train val",
         ["test is read as a class like bus, car", "val is read as a class like bus, car"]),
        (["bus/front/", "car/front/", "train/front/", "train/side/"], "bus car train",
         ["train is read as a class like bus, car; for its folders: data.root={root}/train"]),
        (["train1/bus/", "train1/car/", "holdout/bus/", "holdout/car/"], "holdout train1",
         ["the classes holdout, train1 all have folders bus, car: if these are the classes, "
          "name the folders around them train, val and test"]),
        (["bus/front/", "bus/side/", "car/front/", "car/side/"], "bus car", []),
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


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda root: None, "no such folder"),
        (lambda root: root.write_text("file"), "is not a folder"),
        (lambda root: root.mkdir(), "is empty"),
        (lambda root: save(root / "a.png"), "no class folder"),
        (lambda root: (root / ".git").mkdir(parents=True), "is empty"),
        (lambda root: make(root, classes=("cat",)), "only one class folder, 'cat'"),
        (lambda root: make(root / "all"), "only one class folder, 'all'.*; for its folders: data.root=.*/all$"),
        (lambda root: (make(root), (root / "loop").symlink_to(root)), "loop: is a link to .*/pictures, which holds no image for"),
        (lambda root: (make(root), (root / "state.json").write_text("{}")), "set hf reads it, with --set data.path=.*pictures$"),
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


def test_description_needs_headers_only(root, monkeypatch):
    make(root, 10, size=(20, 10))
    monkeypatch.setattr(decoded_module, "decode", decoding_fails)
    (root / "cat" / "no image.jpg").write_bytes(b"text")
    spec = Folder(4, 0, str(root)).spec
    assert spec.shape == (3, 10, 20) and spec.classes == ("cat", "dog")
    assert Folder(4, 0, str(root), size=7).spec.shape == (3, 7, 7)
    save(root / "cat" / "other.png", picture(20, 11))
    assert Folder(4, 0, str(root)).spec.shape == (3, 224, 224)


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
