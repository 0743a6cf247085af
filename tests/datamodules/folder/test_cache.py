"""The cache of decoded images."""

from __future__ import annotations

import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from image_folders import all_pixels, decoding_fails, make, picture, ready, save, sizes
from PIL import Image

from zoo.datamodules.files import decoded as decoded_module
from zoo.datamodules.folder import Folder


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
            expected = hashlib.sha256(save(root.parent / "expected.bmp", picture(seed=seed)).read_bytes())
            assert data.splits["train"].content()[index] == expected.digest()[:16]


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

    def slowly(paths, shape, *how):
        decoded.append(len(paths))
        time.sleep(0.3)  # long enough for the other to arrive
        return decode_all(paths, shape, *how)

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
