"""CIFAR from tiny archives in the official format, held against torchvision's reader, and pickles that mean harm."""

from __future__ import annotations

import io
import os
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from zoo.core.errors import UserError
from zoo.datamodules import cifar
from zoo.datamodules.cifar import Cifar10, Cifar100, read_pickle

README = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "README.md"


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))


def python2_pickle(table: dict[str, np.ndarray | list]) -> bytes:
    """What cPickle of Python 2 writes in protocol 2, byte for byte in its opcodes: text is the opcode U, arrays name
    numpy.core.multiarray, as in the official archives."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value if len(value) < 256 else b"T" + struct.pack("<i", len(value)) + value

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    def item(value) -> bytes:
        if isinstance(value, list):
            return b"](" + b"".join(text(x) if isinstance(x, bytes) else number(x) for x in value) + b"e"
        if isinstance(value, bytes):
            return text(value)
        dtype = b"cnumpy\ndtype\n(" + text(b"u1") + number(0) + number(1) + b"tR"
        dtype += b"(" + number(3) + text(b"|") + b"NNN" + number(-1) + number(-1) + number(0) + b"tb"
        empty = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(" + number(0) + b"t" + text(b"b") + b"tR"
        shape = b"(" + b"".join(map(number, value.shape)) + b"t"
        return empty + b"(" + number(1) + shape + dtype + b"\x89" + text(value.tobytes()) + b"tb"

    return b"\x80\x02}(" + b"".join(text(key.encode()) + item(value) for key, value in table.items()) + b"u."


def tables(hundred: bool, **changes) -> dict[str, dict]:
    """The files of a tiny data set, 20 images each."""
    random = np.random.default_rng(0)
    names = ("train", "test") if hundred else (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
    labels = {"fine_labels": [i * 5 % 100 for i in range(20)], "coarse_labels": list(range(20))}
    if not hundred:
        labels = {"labels": [i % 10 for i in range(20)]}
    return {
        name: {
            "batch_label": b"one of them",
            **labels,
            "data": random.integers(0, 256, (20, 3072), dtype=np.uint8),
            "filenames": [b"a.png"] * 20,
            **changes,
        }
        for name in names
    }


def write(root: Path, hundred: bool, packed: bool, dump=python2_pickle, **changes) -> dict[str, dict]:
    cls = Cifar100 if hundred else Cifar10
    contents = tables(hundred, **changes)
    files = {f"{cls.folder}/{name}": dump(table) for name, table in contents.items()}
    meta = "meta" if hundred else "batches.meta"
    names = {"fine_label_names" if hundred else "label_names": [name.encode() for name in cls.class_names]}
    files[f"{cls.folder}/{meta}"] = python2_pickle(names)
    root.mkdir(exist_ok=True)
    if packed:
        with tarfile.open(root / cls.archive, "w:gz") as tar:
            for name, content in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    else:
        (root / cls.folder).mkdir()
        for name, content in files.items():
            (root / name).write_bytes(content)
    return contents


@pytest.mark.parametrize("hundred", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_reads_as_torchvision_does(tmp_path, monkeypatch, hundred, packed):
    cls, reference = (Cifar100, torchvision.datasets.CIFAR100) if hundred else (Cifar10, torchvision.datasets.CIFAR10)
    write(tmp_path / "reference", hundred, packed=False)
    write(tmp_path / "ours", hundred, packed)
    monkeypatch.setattr(reference, "_check_integrity", lambda self: True)
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda path, md5: True)
    data = cls(8, 0, root=str(tmp_path / "ours"), validation=0)
    data.prepare_data()
    data.setup()
    for name, train in (("train", True), ("test", False)):
        expected = reference(tmp_path / "reference", train=train)
        split = data.splits[name]
        assert np.array_equal(split.images.pixels.permute(0, 2, 3, 1).numpy(), expected.data)
        assert split.labels.tolist() == expected.targets
        assert split.images.pixels.dtype == torch.uint8 and split.labels.dtype == torch.int64
    assert list(data.spec.classes) == expected.classes
    assert data.spec.shape == (3, 32, 32)


def test_the_unpacked_folder_itself_may_be_the_root(tmp_path):
    write(tmp_path, hundred=True, packed=False)
    data = Cifar100(8, 0, root=str(tmp_path / "cifar-100-python"))
    data.setup()
    assert len(data.splits["test"]) == 20


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_that_python_3_and_today_s_numpy_write(tmp_path, protocol):
    contents = write(tmp_path, False, packed=True, dump=lambda table: pickle.dumps(table, protocol=protocol))
    data = Cifar10(8, 0, root=str(tmp_path), validation=0)
    data.setup()
    assert np.array_equal(data.splits["test"].images.pixels.flatten(1).numpy(), contents["test_batch"]["data"])


def test_arrays_in_columns(tmp_path):
    values = np.asfortranarray(np.arange(6, dtype=np.uint8).reshape(2, 3))
    assert np.array_equal(read_pickle(pickle.dumps({"data": values}), "here")["data"], values)


class Harm:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    "call",
    [
        (os.system, "touch {0}"),
        (os.mkdir, "{0}"),
        (eval, "open({0!r}, 'w')"),
        (np.save, "{0}", 1),
        (getattr, "", "join"),
        (np.fromfile, "{0}"),
    ],
)
def test_a_pickle_is_never_run(tmp_path, call, protocol):
    trace = tmp_path / "trace"
    function, *arguments = (part.format(str(trace)) if isinstance(part, str) else part for part in call)
    content = pickle.dumps({"data": Harm(function, *arguments), "labels": []}, protocol=protocol)
    with pytest.raises(UserError, match="it names .* only arrays, bytes and plain containers") as error:
        read_pickle(content, "here")
    assert "\n" not in str(error.value)
    assert not trace.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>",
        b"\x80\x02}(U\x04data",  # cut off
        pickle.dumps([1, 2]),
        pickle.dumps({"data": np.zeros(3, np.float32)}),
        pickle.dumps({"data": np.array([{}], dtype=object)}),
        b"\x80\x02cos\nsystem\nq\x00.",
        b"\x80\x02Pidentity\n.",
        b"\x80\x02}q\x01U\x01xcnumpy\nndarray\n)\x81s.",  # an array that nothing was put into
        pickle.dumps({"data": np.zeros(4, np.uint8)}, protocol=2).replace(b"K\x04\x85", b"K\x05\x85"),  # another shape
    ],
)
def test_a_damaged_or_foreign_pickle_is_one_line(content):
    with pytest.raises(UserError, match="^here") as error:
        read_pickle(content, "here")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": [10] * 20}, "the label 10"),
        ({"labels": [-1] * 20}, "the label -1"),
        ({"labels": [1] * 19}, "20 images but 19 labels"),
        ({"labels": b"text"}, "no list of labels"),
        ({"labels": [b"cat"] * 20}, "no list of labels"),
        ({"data": np.zeros((20, 3071), np.uint8)}, "no table of images"),
        ({"data": np.zeros(3072, np.uint8)}, "no table of images"),
        ({"data": b"text"}, "no table of images"),
    ],
)
def test_wrong_content_is_one_line_that_names_the_file(tmp_path, change, message):
    write(tmp_path, False, packed=True, **change)
    with pytest.raises(UserError, match=message) as error:
        Cifar10(8, 0, root=str(tmp_path)).setup()
    assert "\n" not in str(error.value) and "data_batch_1" in str(error.value)


def test_a_damaged_archive_is_one_line(tmp_path):
    write(tmp_path, True, packed=True)
    path = tmp_path / Cifar100.archive
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], b"<html>", b"", content[:400] + b"\xff" * 400 + content[800:]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="refused") as error:
            Cifar100(8, 0, root=str(tmp_path)).setup()
        assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_members_are_taken_by_their_exact_name_and_only_as_files(tmp_path):
    with tarfile.open(tmp_path / Cifar100.archive, "w:gz") as tar:
        for name in ("../cifar-100-python/train", "train", "cifar-100-python/train/x"):
            tar.addfile(tarfile.TarInfo(name))
        link = tarfile.TarInfo("cifar-100-python/test")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(UserError, match="lacks cifar-100-python/train, cifar-100-python/test"):
        Cifar100(8, 0, root=str(tmp_path)).setup()
    assert not list(tmp_path.rglob("train"))  # nothing was unpacked


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar, "LARGEST", 2**22)
    with tarfile.open(tmp_path / Cifar100.archive, "w:gz") as tar:
        member = tarfile.TarInfo("cifar-100-python/first")
        member.size = 2**24
        tar.addfile(member, io.BytesIO(bytes(2**24)))
    with pytest.raises(UserError, match="unpacks to more"):
        Cifar100(8, 0, root=str(tmp_path)).setup()


def test_a_missing_part_is_named(tmp_path):
    write(tmp_path, False, packed=False)
    (tmp_path / Cifar10.folder / "data_batch_3").unlink()
    with pytest.raises(UserError, match="data_batch_3"):
        Cifar10(8, 0, root=str(tmp_path)).setup()


@pytest.mark.parametrize("cls", [Cifar10, Cifar100])
def test_the_archive_is_fetched_with_its_published_hash(tmp_path, monkeypatch, cls):
    asked = []
    monkeypatch.setattr(cifar, "fetch", lambda *arguments, **keywords: asked.append((arguments, keywords)))
    cls(8, 0, root=str(tmp_path)).prepare_data()
    (name, *sources), keywords = asked[0]
    assert (name, keywords) == (cls.archive, {"folder": tmp_path})
    assert any(source.startswith(f"https://www.cs.toronto.edu/~kriz/{name}#sha256=") for source in sources)
    hashes = {source.partition("#sha256=")[2] for source in sources}
    assert len(hashes) == 1
    if not README.is_file():
        pytest.skip(f"{README} is not here")
    line = next(line for line in README.read_text().splitlines() if f"`{name}`" in line)
    assert hashes.pop() in line
