"""A folder of pictures, one folder a class: whatever sizes and formats, decoded once and kept.

What fits in memory is decoded by threads (Pillow works outside the interpreter's lock) and remembered, so that the next
start reads one file. What does not is checked once, and then read by worker processes batch by batch.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from PIL import Image, ImageOps
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.base import ImageData, Images, ImagesInMemory, Split, split_by_class
from zoo.errors import UserError
from zoo.fetch import cache_folder
from zoo.randomness import derive_seed
from zoo.registry import register_data
from zoo.spec import ImageSpec

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm")
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM")  # others, such as EPS, would start programs
SPLIT_FOLDERS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
MIXED_SIZE = 224  # pixels a side, where the images have different sizes: what most pretrained networks take
KEPT = 8  # decoded folders in the cache
ORIENTATION = 0x0112  # EXIF tag; from 5 on, width and height are exchanged
CHUNK = 128  # images that a thread takes at a time
NAMED = 3  # of many, so many are named in a message
VERSION = 1  # of decoding; another one does not take what this one has kept


@register_data("folder", task="classification", tags=["own", "colour"])
class Folder(ImageData):
    """Your own pictures, one folder a class: root/cat/1.jpg, or root/train/cat/1.jpg and root/test/cat/2.jpg.

    With a ``train`` folder, ``test`` and ``val`` (or ``valid``, ``validation``) beside it are used; what is missing is
    split off from the training images. All images become RGB, transparent parts white; those of another size are
    scaled, the shorter side to ``size``, and the middle is cut out. What cannot be read is left out with a warning and
    listed in ``unreadable``.

    Args:
        root: the folder.
        size: pixels a side; 0 keeps the images as they are if all have one size, and else means 224.
        augment: none, standard, strong, or a list as in crop:4,hflip.
        validation: share of the training images held out for validation, where there is no folder for it.
        test: share of the images held out for testing, where there is no test folder.
        strict: refuse the folder if an image in it cannot be read, instead of leaving the image out.
        memory_gb: decoded images up to this many gigabytes are held in memory; more are read again in every epoch.
    """

    def __init__(
        self,
        batch_size: int,
        seed: int,
        root: str,
        size: int = 0,
        augment: str = "standard",
        validation: float = 0.1,
        test: float = 0.1,
        strict: bool = False,
        memory_gb: float = 2.0,
    ) -> None:
        super().__init__(batch_size, seed, root=root, size=size, augment=augment, validation=validation)
        if not 0 < test < 1:
            raise UserError(f"data.test={test}: must be above 0 and less than 1")
        self.test, self.strict, self.memory_gb = test, strict, memory_gb
        self.unreadable: list[Path] = []

    @cached_property
    def tree(self) -> Tree:
        """The image files and their classes, not opened yet.

        Raises:
            UserError: this is no folder of at least two classes.
        """
        return scan_tree(self.root)

    @property
    def fingerprint(self) -> str:
        return self.tree.fingerprint(self.size)

    def describe(self) -> ImageSpec:
        height, width = self._shape
        return ImageSpec(3, height, width, classes=self.tree.classes)

    def fetch(self) -> None:
        _ = self._content  # decoded now, by one process, and found in the cache by the others

    def read(self) -> dict[str, Split]:
        content, start, first = self._content, 0, 0
        splits = {}
        for name, files in self.tree.files.items():
            readable = content.readable[start : start + len(files)]
            count = int(readable.sum())
            if content.pixels is None:
                chosen = [files[index].path for index in readable.nonzero()[:, 0].tolist()]
                images: Images = ImageFiles(tuple(f"{self.root}{os.sep}{path}" for path in chosen), self._shape)
            else:
                images = ImagesInMemory(content.pixels[first : first + count])
            splits[name] = Split(images, torch.tensor([file.label for file in files])[readable])
            start, first = start + len(files), first + count
        del self._content  # the splits hold what is needed of it
        if "test" not in splits:
            test, train = split_by_class(splits["train"].labels, self.test, derive_seed(self.seed, "test"))
            if not len(test):
                raise UserError(f"{self.root}: no image is left for testing, each class has only one")
            splits = {**splits, "train": splits["train"].subset(train), "test": splits["train"].subset(test)}
        return splits

    @cached_property
    def _shape(self) -> tuple[int, int]:
        """(height, width) after scaling, from the headers of the images if nobody has given it."""
        if self.size:
            return self.size, self.size
        return Cache(self.fingerprint).shape() or common_size(self.tree.paths()) or (MIXED_SIZE, MIXED_SIZE)

    @cached_property
    def _content(self) -> Content:
        """What can be read of the tree: decoded, if that fits in memory."""
        paths, shape = self.tree.paths(), self._shape
        in_memory = len(paths) * 3 * shape[0] * shape[1] <= self.memory_gb * 1e9
        cache = Cache(self.fingerprint)
        content = cache.load(len(paths), shape, in_memory)
        if content is None:
            content = decode_all(paths, shape, in_memory)
            cache.save(content, shape)
        self._report(paths, content.readable)
        return content

    def _report(self, paths: list[str], readable: Tensor) -> None:
        """Say what cannot be read.

        Raises:
            UserError: a class has nothing left, or ``strict`` is set.
        """
        self.unreadable = [Path(paths[index]) for index in (~readable).nonzero()[:, 0].tolist()]
        if self.unreadable and self.strict:
            count = f" ({len(self.unreadable):,} such files)" if len(self.unreadable) > 1 else ""
            raise UserError(f"{self.unreadable[0]}: is no readable image{count}: remove it, or set data.strict=false")
        start = 0
        for name, files in self.tree.files.items():
            good = readable[start : start + len(files)].tolist()
            left = {file.label for file, is_good in zip(files, good, strict=True) if is_good}
            for label, class_name in enumerate(self.tree.classes):
                if label not in left:
                    raise UserError(f"{self.root}: class {class_name!r} of {name} has no image that can be read")
            start += len(files)
        if self.unreadable:
            names = _some([str(path) for path in self.unreadable])
            count = f"{len(self.unreadable):,} of {len(paths):,} images"
            rank_zero_warn(f"{count} cannot be read and are left out: {names}")


# ---------------------------------------------------------------------------------------------- the tree


class ImageFile(NamedTuple):
    """One file: its path below the root, its class, and what tells whether it has changed (bytes, nanoseconds)."""

    path: str
    label: int
    size: int
    modified: int


@dataclass(frozen=True)
class Tree:
    """The image files below a folder, by split."""

    root: Path
    classes: tuple[str, ...]
    files: dict[str, list[ImageFile]]

    def paths(self) -> list[str]:
        """The files of all splits, one split after the other."""
        return [f"{self.root}{os.sep}{file.path}" for files in self.files.values() for file in files]

    def fingerprint(self, size: int) -> str:
        """Changes with any file and with the ``size`` that the images are scaled to."""
        described = [f"{VERSION} {size} {self.root.resolve()}"]
        for files in self.files.values():
            described += [f"{file.path} {file.size} {file.modified}" for file in files]
        return blake2b("\n".join(described).encode(errors="surrogateescape"), digest_size=16).hexdigest()


def scan_tree(root: Path | None) -> Tree:
    """Find the images of each class without opening any.

    Raises:
        UserError: the folder is missing, or does not hold one folder for each of at least two classes.
    """
    if root is None:
        raise UserError("data.root is empty: give the folder that holds one folder of images for each class")
    if not root.is_dir():
        raise UserError(f"data.root={root}: {'is not a folder' if root.exists() else 'there is no such folder'}")
    try:
        return _scan_tree(root)
    except OSError as error:
        raise UserError(f"{error.filename or root}: cannot be read: {error.strerror}") from error


def _scan_tree(root: Path) -> Tree:
    places = _split_places(root)
    classes = _class_names(places["train"])
    for name, place in places.items():
        if own := set(_class_names(place)) ^ set(classes):
            only = {"train": sorted(own & set(classes)), name: sorted(own - set(classes))}
            told = "; ".join(f"only in {where}: {_some(names)}" for where, names in only.items() if names)
            raise UserError(f"{root}: the class folders of train and {name} differ: {told}")
    if len(classes) == 1:
        raise UserError(f"{places['train']}: holds only one class folder, {classes[0]!r}: at least two are needed")
    files = {}
    for name, place in places.items():
        files[name] = []
        for label, class_name in enumerate(classes):
            found = _image_files(place / class_name, {_identity(root), _identity(place)})
            if not found:
                raise UserError(f"{place / class_name}: holds no image ({', '.join(EXTENSIONS)})")
            files[name] += [
                ImageFile(path.removeprefix(f"{root}{os.sep}"), label, stat.st_size, stat.st_mtime_ns)
                for path, stat in sorted(found.items())
            ]
    return Tree(root, tuple(classes), files)


def _split_places(root: Path) -> dict[str, Path]:
    """The folder of each split; without such folders everything is ``train``."""
    folders = _class_names(root)
    found = {split: [name for name in names if name in folders] for split, names in SPLIT_FOLDERS.items()}
    named = [name for names in found.values() for name in names]
    # a class may be called "train": a split's folder holds folders and no images, unless there is nothing but splits
    splits = [name for name in named if set(folders) == set(named) or _holds_only_folders(root / name)]
    if not splits:
        return {"train": root}
    if "train" not in splits:
        raise UserError(f"{root}: has a folder {splits[0]!r} but no folder 'train' with class folders beside it")
    if len(found["val"]) > 1:
        raise UserError(f"{root}: {' and '.join(found['val'])} are both there: keep one folder for validation")
    return {split: root / names[0] for split, names in found.items() if names and names[0] in splits}


def _visible(folder: Path) -> list[os.DirEntry]:
    with os.scandir(folder) as entries:
        # __MACOSX is what zip files from a Mac bring along
        return [entry for entry in entries if not entry.name.startswith(".") and entry.name != "__MACOSX"]


def _class_names(folder: Path) -> list[str]:
    """The folders in a folder, sorted.

    Raises:
        UserError: there is none.
    """
    entries = _visible(folder)
    if not entries:
        raise UserError(f"{folder}: is empty; expected one folder of images for each class")
    names = sorted(entry.name for entry in entries if entry.is_dir())
    if not names:
        raise UserError(f"{folder}: holds no class folder; expected one folder of images for each class")
    return names


def _holds_only_folders(folder: Path) -> bool:
    entries = _visible(folder)
    return any(entry.is_dir() for entry in entries) and not any(_is_image(entry) for entry in entries)


def _is_image(entry: os.DirEntry) -> bool:
    return entry.name.lower().endswith(EXTENSIONS) and entry.is_file()


def _identity(folder: Path | str) -> tuple[int, int]:
    stat = os.stat(folder)
    return stat.st_dev, stat.st_ino


def _image_files(folder: Path, seen: set[tuple[int, int]]) -> dict[str, os.stat_result]:
    """All images below a folder. Links are followed, but no folder is entered twice, so a loop ends."""
    files, waiting = {}, [folder]
    while waiting:
        place = waiting.pop()
        if (identity := _identity(place)) in seen:
            continue
        seen.add(identity)
        for entry in _visible(place):
            if entry.is_dir():
                waiting.append(Path(entry.path))
            elif _is_image(entry):
                files[entry.path] = entry.stat()
    return files


def _some(names: list[str]) -> str:
    """The first names, and how many more there are."""
    rest = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + rest


# ---------------------------------------------------------------------------------------------- one image


def open_image(path: str) -> Image.Image:
    """Pillow's lazy image, of the admitted formats alone."""
    return Image.open(path, formats=FORMATS)


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) to 8; damaged EXIF data is no reason to lose the image."""
    if image.format == "PNG" and "exif" not in image.info:
        return 1  # Pillow would decode the whole image to look for it
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception:  # whatever a damaged block may raise
        return 1


def upright_size(path: str) -> tuple[int, int] | None:
    """(height, width) from the header, or None if it cannot be read."""
    try:
        with open_image(path) as image:
            # Pillow's size of a TIFF is turned already, in newer versions
            width, height = (image.tag_v2[256], image.tag_v2[257]) if image.format == "TIFF" else image.size
            return (width, height) if orientation(image) >= 5 else (height, width)
    except Exception:  # a damaged file raises almost any
        return None


def decode(path: str, shape: tuple[int, int]) -> np.ndarray:
    """RGB pixels, uint8 [height, width, 3], scaled to cover ``shape`` and cut out of the middle.

    Raises:
        Exception: the file cannot be read; a damaged one raises almost any.
    """
    height, width = shape
    with open_image(path) as image:
        if image.size != (width, height):
            # JPEG decodes at 1/2, 1/4 or 1/8 for much less work; twice the final size leaves the scaling to the filter
            image.draft("RGB", (2 * max(shape),) * 2)
        turned = ImageOps.exif_transpose(image) if orientation(image) != 1 else image
        return np.asarray(fit(to_rgb(turned), shape))


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode as RGB: 16 bits by their upper eight, floats from [0, 1] or [0, 255], transparent parts on white."""
    if image.mode.startswith("I"):
        image = Image.fromarray(np.clip(np.asarray(image).astype(np.int64) >> 8, 0, 255).astype(np.uint8))
    elif image.mode == "F":
        values = np.nan_to_num(np.asarray(image))
        image = Image.fromarray(np.clip(values * (255 if values.max() <= 1 else 1), 0, 255).round().astype(np.uint8))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def fit(image: Image.Image, shape: tuple[int, int]) -> Image.Image:
    """The largest box in the middle that has the proportions of ``shape`` (height, width), scaled to it."""
    height, width = shape
    if image.size == (width, height):
        return image
    scale = min(image.width / width, image.height / height)  # pixels there for one here
    left, top = max(0.0, (image.width - scale * width) / 2), max(0.0, (image.height - scale * height) / 2)
    return image.resize((width, height), Image.Resampling.BILINEAR, (left, top, image.width - left, image.height - top))


# ---------------------------------------------------------------------------------------------- all images


@dataclass(frozen=True)
class Content:
    """What was found in the files.

    Attributes:
        readable: bool, one for each file.
        pixels: uint8 [N, 3, H, W] of the N readable ones, or None where they do not fit in memory.
    """

    readable: Tensor
    pixels: Tensor | None


def common_size(paths: list[str]) -> tuple[int, int] | None:
    """(height, width) if all images whose header can be read have the same, else None."""
    sizes: set[tuple[int, int] | None] = set()
    for found in _in_threads(lambda chunk: {upright_size(path) for path in paths[chunk]}, len(paths), "looking at"):
        sizes |= found - {None}
        if len(sizes) > 1:
            return None
    return sizes.pop() if sizes else None


def decode_all(paths: list[str], shape: tuple[int, int], in_memory: bool) -> Content:
    """Decode every file once, to keep the pixels or only to learn which files can be read."""
    readable = np.zeros(len(paths), bool)
    pixels = np.empty((len(paths), 3, *shape), np.uint8) if in_memory else None

    def work(chunk: slice) -> None:
        for index in range(len(paths))[chunk]:
            try:
                image = decode(paths[index], shape)
            except Exception:  # a damaged file raises almost any
                continue
            readable[index] = True
            if pixels is not None:
                pixels[index] = image.transpose(2, 0, 1)

    for _ in _in_threads(work, len(paths), "decoding" if in_memory else "checking"):
        pass
    if pixels is not None and not readable.all():
        pixels = pixels[readable]
    return Content(torch.from_numpy(readable), None if pixels is None else torch.from_numpy(pixels))


def _in_threads(work: Callable[[slice], Any], count: int, what: str) -> Iterator[Any]:
    """What ``work`` gives for each chunk of ``count`` images, in order."""
    chunks = [slice(start, start + CHUNK) for start in range(0, count, CHUNK)]
    Image.init()  # here, since loading the formats in several threads at once is not safe
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, about large images and odd metadata
            yield from _shown(pool.map(work, chunks), count, what)
    finally:
        pool.shutdown(cancel_futures=True)  # when interrupted, do not first finish all that waits


def _shown(results: Iterable[Any], count: int, what: str) -> Iterator[Any]:
    """The same results, with a bar on a terminal and one line in a log."""
    if not sys.stderr.isatty():
        print(f"{what} {count:,} images", file=sys.stderr, flush=True)
        yield from results
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task):
            return Text(f"{task.speed or 0:,.0f} images/s")

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"{what} images", total=count)
        for number, result in enumerate(results, start=1):
            progress.update(task, completed=min(number * CHUNK, count))
            yield result


@dataclass(frozen=True)
class ImageFiles(Dataset):
    """Images in files that are known to be readable, decoded by worker processes when a batch is asked for.

    Args:
        paths: the files.
        shape: (height, width) that they are brought to.
    """

    paths: tuple[str, ...]
    shape: tuple[int, int]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, indices: list[int]) -> Tensor | str:
        """One batch, or what is wrong with it: exceptions of a worker arrive as many lines."""
        pixels = np.empty((len(indices), 3, *self.shape), np.uint8)
        for position, index in enumerate(indices):
            try:
                pixels[position] = decode(self.paths[index], self.shape).transpose(2, 0, 1)
            except Exception as error:  # a damaged file raises almost any
                return f"{self.paths[index]}: could be read before, and now cannot: {' '.join(str(error).split())}"
        return torch.from_numpy(pixels)

    def batches(self, orders: Iterator[Tensor]) -> Iterator[Tensor]:
        loader = DataLoader(
            self,
            batch_size=None,  # an order is one index of the "data set", and gives a batch
            sampler=(indices.tolist() for indices in orders),
            num_workers=min(4, os.cpu_count() or 1),
            worker_init_fn=_silence,
            generator=torch.Generator(),  # workers' seeds are not drawn from the run's own random numbers
        )
        for batch in loader:
            if isinstance(batch, str):
                raise UserError(batch)
            yield batch

    def subset(self, indices: Tensor) -> ImageFiles:
        return ImageFiles(tuple(self.paths[index] for index in indices.tolist()), self.shape)


def _silence(worker: int) -> None:
    warnings.simplefilter("ignore")  # of Pillow, about large images and odd metadata


# ---------------------------------------------------------------------------------------------- the cache


class Cache:
    """What was decoded before, one file for each state of a folder. Every fault of it costs time and nothing else."""

    def __init__(self, fingerprint: str) -> None:
        self.folder = cache_folder() / "folder"
        self.path = self.folder / f"{fingerprint}.safetensors"

    def shape(self) -> tuple[int, int] | None:
        """(height, width), if the folder has been read before."""
        try:
            with safe_open(self.path, "pt") as file:
                height, width = json.loads(file.metadata()["shape"])
                return height, width
        except Exception:  # missing or damaged, in whatever way
            return None

    def load(self, count: int, shape: tuple[int, int], in_memory: bool) -> Content | None:
        """What was kept of ``count`` files, or None if it is missing, damaged or less than is asked for."""
        try:
            with safe_open(self.path, "pt") as file:
                checksums = json.loads(file.metadata()["checksums"])
                tensors = {name: file.get_tensor(name) for name in ("readable", "pixels")[: 1 + in_memory]}
            if any(zlib.crc32(tensor.numpy()) != checksums[name] for name, tensor in tensors.items()):
                return None
            content = Content(tensors["readable"], tensors.get("pixels"))
            if content.readable.shape != (count,):
                return None
            if in_memory and content.pixels.shape != (int(content.readable.sum()), 3, *shape):
                return None
            os.utime(self.path)  # the ones used last are kept
        except Exception:
            return None
        return content

    def save(self, content: Content, shape: tuple[int, int]) -> None:
        """Keep it, if the cache can be written, and drop what has not been used for longest."""
        tensors = {"readable": content.readable}
        if content.pixels is not None:
            tensors["pixels"] = content.pixels
        checksums = {name: zlib.crc32(tensor.numpy()) for name, tensor in tensors.items()}
        beside = self.folder / f".{self.path.stem}.{os.getpid()}.part"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file(tensors, beside, {"shape": json.dumps(shape), "checksums": json.dumps(checksums)})
            os.replace(beside, self.path)
            self._prune()
        except Exception:  # a full disk or a read-only folder, in the words of whichever library
            pass
        finally:
            with suppress(OSError):
                beside.unlink(missing_ok=True)

    def _prune(self) -> None:
        by_age = sorted(self.folder.glob("*.safetensors"), key=lambda path: path.stat().st_mtime)
        left_by_killed = [path for path in self.folder.glob(".*.part") if path.stat().st_mtime < time.time() - 86400]
        for path in by_age[:-KEPT] + left_by_killed:
            path.unlink(missing_ok=True)
