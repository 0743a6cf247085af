import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from zoo.core.errors import UserError
from zoo.datamodules.files import crops, mapped
from zoo.datamodules.files import image_files as module
from zoo.datamodules.files.image_files import ImageFiles, RandomCrops
from zoo.datamodules.files.images import decode
from zoo.datamodules.files.paths import Paths

CROPS = RandomCrops(0.08, 20)


@pytest.fixture
def files(tmp_path) -> Paths:
    """Images of several sizes and formats, 6 of each of two classes."""
    generator = np.random.default_rng(0)
    paths = [tmp_path / f"{index:02}.{'jpg' if index % 3 else 'png'}" for index in range(12)]
    for index, path in enumerate(paths):
        smooth = Image.fromarray(generator.integers(0, 256, (3, 4, 3), np.uint8))
        smooth.resize((40 + index, 30 + index % 2), Image.Resampling.BICUBIC).save(path)
    return Paths(map(str, paths))


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def opened(files: Paths, **options) -> ImageFiles:
    return ImageFiles(files, (16, 16), labels=torch.arange(12) // 6, **options)


def drawn(images: ImageFiles, order: list[int] | None = None, seed: int | None = None) -> torch.Tensor:
    return torch.cat(list(images.batches(iter(torch.tensor(order or range(len(images))).split(5)), seed)))


def decoding_fails(*arguments):
    raise AssertionError("a file is decoded again")


@pytest.mark.parametrize("keep", [True, False])
def test_images_come_in_the_order_asked_for(files, home, keep):
    images = opened(files, keep=keep)
    expected = torch.stack([torch.tensor(decode(path, (16, 16))).permute(2, 0, 1) for path in files])
    for workers in (1, 3):
        each = module.replace(images, workers=workers)
        for order in (list(range(12)), [3, 11, 3, 0], [7]):
            assert torch.equal(drawn(each, order), expected[order])
    part = images.subset(torch.tensor([9, 2, 4])).subset(torch.tensor([2, 0]))
    assert torch.equal(drawn(part), expected[[4, 9]]) and part[1] == files[9]


def test_what_is_kept_is_not_decoded_again(files, home, monkeypatch):
    images = opened(files), opened(files, random_crops=CROPS)
    first = [drawn(each, seed=1) for each in images]
    monkeypatch.setattr(module, "decode", decoding_fails)
    monkeypatch.setattr(module, "decode_whole", decoding_fails)
    for each, expected in zip(images, first, strict=True):
        again = module.replace(each)  # as in another process: nothing is open
        assert torch.equal(drawn(again, seed=1), expected) and torch.equal(drawn(again, seed=1), expected)
        assert torch.equal(drawn(again.subset(torch.tensor([5]))), drawn(each, [5]))


def test_an_added_file_is_the_only_one_that_is_decoded(files, home, monkeypatch):
    opened_first = module.replace(opened(files), paths=Paths(list(files)[1:]), labels=None, random_crops=CROPS)
    drawn(opened_first)
    decoded = []

    def counted(path, *arguments):
        decoded.append(path)
        return crops.decode_whole(path, *arguments)

    monkeypatch.setattr(module, "decode_whole", counted)
    drawn(opened(files, random_crops=CROPS))
    assert decoded == [files[0]]


@pytest.mark.parametrize("keep", [True, False])
def test_random_crops_depend_on_seed_and_index_alone(files, home, keep):
    images = opened(files, keep=keep, random_crops=CROPS)
    first = drawn(images, seed=1)
    assert torch.equal(drawn(images, [8, 2], seed=1), first[[8, 2]])
    assert (drawn(images, seed=2) != first).flatten(1).any(1).all()
    middle = drawn(images)
    difference = middle.int() - drawn(opened(files)).int()
    assert difference.abs().float().mean() < 5  # of another resolution


@pytest.mark.parametrize("keep", [True, False])
def test_about_half_of_the_crops_are_flipped(files, home, keep):
    plain, flipped = (drawn(opened(files, keep=keep, random_crops=RandomCrops(0.08, 20, flip)), seed=1) for flip in (False, True))
    mirrored = (plain.flip(-1).int() - flipped).abs().flatten(1).amax(1) <= 1
    same = (plain == flipped).flatten(1).all(1)
    assert (mirrored ^ same).all() and 2 < mirrored.sum() < 10


def test_random_crops_are_of_the_whole_image(files, home):
    """With the smallest fraction of 1, of an image that is square, everything is left."""
    Image.open(files[0]).resize((16, 16)).save(files[0])
    for keep in (True, False):
        (image,) = drawn(opened(files, keep=keep, random_crops=RandomCrops(1.0, 20)), [0], seed=3)
        assert np.array_equal(image.permute(1, 2, 0), Image.open(files[0]))


def test_reading_leaves_the_random_state_alone(files, home):
    before = torch.get_rng_state()
    for _ in opened(files, random_crops=CROPS).batches(iter([torch.arange(4), torch.arange(4)]), 1):
        break  # threads end when nobody asks for more
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("keep", [True, False])
def test_the_next_of_the_class_takes_the_place_of_an_unreadable_file(files, home, keep, capsys):
    for index in (4, 5, 8):
        Path(files[index]).write_bytes(b"no image")
    images, expected = opened(files, keep=keep), [0, 1, 2, 3, 0, 0, 6, 7, 9, 9, 10, 11]
    for order in (list(range(12)), [5, 8]):  # the rule does not depend on what was read before
        each = module.replace(images, failed=set())
        assert torch.equal(drawn(each, order), drawn(opened(files, keep=keep), [expected[index] for index in order]))
    capsys.readouterr()
    assert torch.equal(drawn(images)[4], drawn(images, [0])[0])
    told = capsys.readouterr().err
    assert told.count("warning") == 1 and "3 of 12 images cannot be read" in told and files[8] in told
    assert images.used(torch.tensor([5, 6, 8])).tolist() == [0, 6, 9]
    assert images.failed_files() == [files[4], files[5], files[8]]
    with pytest.raises(UserError, match=r"0[458]\.\w+: is not a readable image: remove it, or set data.strict=false"):
        drawn(module.replace(images, strict=True))


def test_a_class_without_a_readable_file_is_refused(files, home):
    for index in range(6, 12):
        Path(files[index]).unlink()
    with pytest.raises(UserError, match="cannot be read, and no other image of its class can") as error:
        drawn(opened(files))
    assert "\n" not in str(error.value)


def test_identity_changes_with_files_shape_and_crops(files, home):
    images = opened(files)
    others = [images.subset(torch.tensor([0])), opened(files, random_crops=CROPS), ImageFiles(files, (16, 8))]
    assert images.identity() == opened(files).identity() not in [other.identity() for other in others]
    Path(files[3]).touch()
    former = images.identity()
    os.utime(files[3], (1, 1))
    assert images.identity() != former


KILLED = """
import os, sys, torch
from zoo.datamodules.files import image_files as module
from zoo.datamodules.files.paths import Paths

decode, calls = module.decode_whole, []
def counted(*arguments):
    calls.append(arguments)
    if len(calls) == 8:
        os._exit(9)
    return decode(*arguments)
module.decode_whole = counted
images = module.ImageFiles(Paths(sys.argv[1:]), (16, 16), workers=2, random_crops=module.RandomCrops(0.08, 20))
list(images.batches(iter(torch.arange(12).split(2)), 1))
"""


@pytest.mark.slow
def test_a_kill_loses_what_was_being_decoded_and_changes_nothing(files, home, monkeypatch):
    expected = drawn(opened(files, keep=False, random_crops=CROPS), seed=1)
    assert subprocess.run([sys.executable, "-c", KILLED, *files]).returncode == 9
    decoded = []

    def counted(*arguments):
        decoded.append(arguments)
        return crops.decode_whole(*arguments)

    monkeypatch.setattr(module, "decode_whole", counted)
    after = drawn(opened(files, random_crops=CROPS), seed=1)
    assert len(decoded) in (5, 6)  # 12 without the first 7, of which one could be half-way in the other thread
    monkeypatch.setattr(mapped, "cache_folder", lambda: home / "other")
    assert torch.equal(drawn(opened(files, random_crops=CROPS), seed=1), after) and after.shape == expected.shape
