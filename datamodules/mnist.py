"""MNIST and Fashion-MNIST: 28x28 gray images in the IDX format, found in a folder or downloaded."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from zoo.core.download import fetch
from zoo.core.errors import UserError
from zoo.core.files import cache_folder, require_regular
from zoo.datamodules.bases.classification import ClassificationData
from zoo.datamodules.loading.splits import ImagesInMemory, Split
from zoo.registry.entry import register_data
from zoo.spec import ImageSpec

SIDE = 28  # pixels
CLASSES = 10
MOST_BYTES = 2**30  # a header may announce anything; what is not believable is not read
PARTS = {"train": "train", "test": "t10k"}  # as the files are named
# the files of both are named alike, so they must not be confused
FIRST_TEST_LABELS = {"MNIST": [7, 2, 1, 0, 4, 1, 4, 9, 5, 9], "FashionMNIST": [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]}


class IdxImages(ClassificationData):
    """A data set of four IDX files. A subclass names its classes, mirrors and hashes."""

    folder: str  # below the cache, and where torchvision keeps the files below its root
    mirrors: tuple[str, ...]
    hashes: dict[str, str]  # SHA-256 of the compressed files
    class_names: tuple[str, ...]

    def build_spec(self) -> ImageSpec:
        return ImageSpec(1, SIDE, SIDE, classes=self.class_names)

    def download(self) -> None:
        for name in self.hashes:
            self._file(name)

    def load_splits(self) -> dict[str, Split]:
        return {split: self._split(part) for split, part in PARTS.items()}

    def _split(self, part: str) -> Split:
        images, labels = self._file(f"{part}-images-idx3-ubyte.gz"), self._file(f"{part}-labels-idx1-ubyte.gz")
        pixels, classes = read_idx(images, dimensions=3), read_idx(labels, dimensions=1).long()
        if pixels.shape[1:] != (SIDE, SIDE):
            raise UserError(f"{images}: its images have {pixels.shape[1]}x{pixels.shape[2]} pixels, not {SIDE}x{SIDE}")
        if len(pixels) != len(classes):
            counts = f"{len(pixels):,} images and {len(classes):,} labels"
            raise UserError(f"{images} and {labels.name} do not belong together: {counts}")
        if len(classes) and classes.max() >= CLASSES:
            raise UserError(f"{labels}: holds the label {classes.max()}, the largest is {CLASSES - 1}")
        for other, first in FIRST_TEST_LABELS.items():
            if other != self.folder and classes[:10].tolist() == first:
                raise UserError(f"{labels}: holds the labels of {other}, not of {self.folder}")
        return Split(ImagesInMemory(pixels[:, None]), classes)

    def _file(self, name: str) -> Path:
        """The file in ``root``, compressed or not, or else fetched into it."""
        home = self.root or cache_folder()
        own = home / self.folder / "raw"
        plain = name.removesuffix(".gz")
        # some collections write train-images.idx3-ubyte
        names = (name, plain, name.replace("-idx", ".idx"), plain.replace("-idx", ".idx"))
        for place in (own, home / self.folder, home) if self.root else ():
            for path in (place / each for each in names):
                if path.is_file():
                    return path
        return fetch(name, *(f"{mirror}{name}#sha256={self.hashes[name]}" for mirror in self.mirrors), folder=own)


@register_data("mnist", task="classification", tags=["gray"])
class Mnist(IdxImages):
    """70,000 handwritten digits, 28x28 gray: 60,000 for training, 10,000 for testing (LeCun et al. 1998).

    Args:
        root: folder of the IDX files, compressed or not, or to download to; default: bestiary's cache.
    """

    light = "none"  # a mirrored digit is another sign
    standard = "crop:2"
    strong = "crop:2,cutout:7"
    folder = "MNIST"
    class_names = tuple("0123456789")
    mirrors = (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    )
    hashes = {
        "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    }


@register_data("fashion-mnist", task="classification", tags=["gray"])
class FashionMnist(IdxImages):
    """70,000 images of clothing, 28x28 gray: 60,000 for training, 10,000 for testing (Xiao et al. 2017).

    Args:
        root: folder of the IDX files, compressed or not, or to download to; default: bestiary's cache.
    """

    standard = "crop:2,hflip"
    strong = "crop:2,hflip,cutout:7"
    folder = "FashionMNIST"
    class_names = (
        "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
    )  # fmt: skip
    mirrors = (
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
        "https://fashion-mnist.s3.eu-central-1.amazonaws.com/",
    )
    hashes = {
        "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    }


def read_idx(path: Path, dimensions: int) -> Tensor:
    """The array of an IDX file of bytes, gzipped or not (http://yann.lecun.com/exdb/mnist).

    No more is decompressed than the header announces, and no more is believed than ``MOST_BYTES``.

    Raises:
        UserError: it is no such file, has another number of dimensions, or its content is not as long as it announces.
    """
    require_regular(path)
    try:
        with path.open("rb") as file:
            compressed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if compressed else path.open("rb") as file:
            return _read_idx(file, path, dimensions)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: the compressed file is damaged or truncated: {error}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error


def _read_idx(file: BinaryIO, path: Path, dimensions: int) -> Tensor:
    header = file.read(4 + 4 * dimensions)
    # two zero bytes, the type (8: unsigned byte), the number of dimensions, then each size as big-endian 32 bits
    if header[:4] != bytes((0, 0, 8, dimensions)) or len(header) < 4 + 4 * dimensions:
        raise UserError(f"{path}: is not an IDX file of bytes in {dimensions} dimensions")
    sizes = struct.unpack(f">{dimensions}I", header[4:])
    expected = math.prod(sizes)
    if expected > MOST_BYTES:
        raise UserError(f"{path}: declares an array of {'x'.join(map(str, sizes))} bytes, which is implausible")
    content = file.read(expected + 1)
    if len(content) != expected:
        found = f"only {len(content):,}" if len(content) < expected else "more"
        raise UserError(f"{path}: declares {expected:,} bytes but holds {found}")
    return torch.from_numpy(np.frombuffer(content, np.uint8).reshape(sizes).copy())
