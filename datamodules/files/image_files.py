"""Images in files that do not fit in memory, decoded by threads before their batch is needed, and kept where the disk suffices.

Pillow, torch and the file system release the interpreter's lock, so threads decode side by side without copies between processes.
"""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from zoo.core.errors import UserError, some
from zoo.core.ranks import rank_zero_print
from zoo.datamodules.files.crops import LONGEST, Box, center_box, cut_into, decode_box, decode_whole, random_box, uniforms
from zoo.datamodules.files.decoded import VERSION, identity_of_files, say_converted
from zoo.datamodules.files.digests import DigestTable
from zoo.datamodules.files.formats import how_to_read
from zoo.datamodules.files.images import FIT, decode, mode_of
from zoo.datamodules.files.mapped import MappedImages, open_mapped
from zoo.datamodules.files.paths import Paths
from zoo.datamodules.files.pixel_format import RGB, PixelFormat, is_gray
from zoo.datamodules.files.threads import reading_threads
from zoo.spec import Crop

CHUNK = 16  # images that a thread takes at a time
AHEAD = 2  # batches that are begun while one is used, at least
USUAL = 1.5  # the area of a photograph, in squares of its shorter side
NAMED = 3  # files in a message


@dataclass(frozen=True)
class RandomCrops:
    """Crops of the whole image, drawn anew for each image in each epoch.

    Attributes:
        min_scale: the smallest fraction of the area.
        stored_size: the shorter side of images that are kept, in pixels.
        flip: flip left to right, with probability 0.5.
    """

    min_scale: float
    stored_size: int
    flip: bool = False


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Image files, of which those that cannot be read are found when they are to be.

    In place of an unreadable one comes the next readable, in the order of the files: of its class, or of all without labels.

    Args:
        paths: all files of which these are some, so that several selections share what is kept.
        shape: (height, width) that they are resized and cropped to.
        crop: how, where it is not at random.
        chosen: int64 [n], which of the paths; None for all.
        labels: int64 [n], their classes, if an image is not to be replaced by one of another class.
        strict: what is unreadable is an error.
        keep: keep decoded images in the cache, if its disk suffices.
        workers: threads; 0 for one a core.
        random_crops: crops in training.
        pixel_format: color or gray, and the range of deep values.
        digests: of the content of the paths, which gets those of files that are read.
        failed: which of the paths could not be read, shared by all selections of them.
        colored: the files with colors that became gray, shared likewise.
    """

    paths: Paths
    shape: tuple[int, int]
    crop: Crop = FIT
    chosen: np.ndarray | None = None
    labels: Tensor | None = None
    strict: bool = False
    keep: bool = True
    workers: int = 0
    random_crops: RandomCrops | None = None
    pixel_format: PixelFormat = RGB
    digests: DigestTable | None = field(default=None, repr=False)
    failed: set[int] = field(default_factory=set, repr=False)
    colored: set[str] = field(default_factory=set, repr=False)
    _replacements: dict[int, int] = field(default_factory=dict, init=False, repr=False)  # by index, of what is unreadable

    def __len__(self) -> int:
        return len(self.paths) if self.chosen is None else len(self.chosen)

    def __getitem__(self, index: int) -> str:
        """The path of an image."""
        return self.paths[self._row(index)]

    def batches(self, orders: Iterator[Tensor], seed: int | None = None) -> Iterator[Tensor]:
        """Images, uint8 [n, C, H, W] in the memory format ``channels_last``, for each tensor of indices.

        Args:
            seed: of the random crops, if there are any: it is another in each epoch.

        Raises:
            UserError: a file that cannot be read and has no replacement.
        """
        warnings.filterwarnings("ignore", module="PIL")  # about large images and odd metadata
        self._mapped  # noqa: B018 - opened by one thread
        known, converted = self.failed.copy(), self.colored.copy()
        workers = self.workers or cores()
        threads = reading_threads(workers)
        begun: deque[tuple[Tensor, list[Future[None]]]] = deque()
        try:
            for indices in orders:
                begun.append(self._begin(threads, indices, seed))
                if len(begun) > AHEAD and sum(len(tasks) for _, tasks in begun) > 2 * workers:
                    yield _finished(*begun.popleft())
            while begun:
                yield _finished(*begun.popleft())
        finally:
            threads.shutdown(cancel_futures=True)
            if colored := sorted(self.colored - converted):
                say_converted(colored, len(self))
            self._warn_of(sorted(self.failed - known))

    def subset(self, indices: Tensor) -> ImageFiles:
        chosen = indices.numpy() if self.chosen is None else self.chosen[indices.numpy()]
        return replace(self, chosen=chosen, labels=None if self.labels is None else self.labels[indices])

    def used(self, indices: Tensor) -> Tensor:
        return torch.tensor([self._replacements.get(index, index) for index in indices.tolist()], dtype=torch.int64)

    def _warn_of(self, rows: list[int]) -> None:
        if rows:
            files = [self.paths[row] for row in rows]
            count, names = f"{len(rows):,} of {len(self):,} images", some(files, NAMED)
            other = "another with its text" if self.labels is None else "another of its class"
            effect = f"{other} takes the place of each in training, and none in evaluation"
            rank_zero_print(f"warning: {count} cannot be read: {names}; {effect}{how_to_read(files)}")

    def failed_files(self) -> list[str]:
        """The paths of those, of all selections, that were found to be unreadable."""
        return [self.paths[row] for row in sorted(self.failed)]

    def identity(self) -> str:
        files = self.paths if self.chosen is None else self.paths[self.chosen]
        return identity_of_files(files, self.shape, self.crop, self.pixel_format) + ("-whole" if self.random_crops else "")

    @cached_property
    def _mapped(self) -> MappedImages | None:
        """What is kept of all the paths."""
        if not self.keep:
            return None
        side = self.random_crops and self.random_crops.stored_size
        channels = self.pixel_format.channels
        row = LONGEST * side * side * channels if side else self.shape[0] * self.shape[1] * channels
        usual = min(row, int(USUAL * side * side * channels)) if side else row
        identity = f"{VERSION} {side or (self.shape, self.crop)} {self.pixel_format}"
        return open_mapped(identity, self.paths, row, usual, self.chosen)

    def _row(self, index: int) -> int:
        return index if self.chosen is None else int(self.chosen[index])

    def _begin(self, threads: ThreadPoolExecutor, indices: Tensor, seed: int | None) -> tuple[Tensor, list[Future[None]]]:
        shape, pinned = (len(indices), self.pixel_format.channels, *self.shape), torch.cuda.is_initialized()
        batch = torch.empty(shape, dtype=torch.uint8, pin_memory=pinned, memory_format=torch.channels_last)
        out = batch.permute(0, 2, 3, 1).numpy()
        draws = None if seed is None or self.random_crops is None else uniforms(seed, indices).tolist()
        tasks = [
            threads.submit(self._read, out[first : first + CHUNK], part, draws and draws[first : first + CHUNK])
            for first, part in zip(range(0, len(indices), CHUNK), indices.split(CHUNK), strict=True)
        ]
        return batch, tasks

    def _read(self, out: np.ndarray, indices: Tensor, draws: list[list[float]] | None) -> None:
        """Write images to ``out``, uint8 [n, H, W, C]."""
        if self._mapped is not None and self.random_crops is None:
            rows = indices.numpy() if self.chosen is None else self.chosen[indices.numpy()]
            if self._mapped.take(rows, out):
                return
        for place, index in enumerate(indices.tolist()):
            self._write(out[place], index, draws and draws[place])
            if self.digests is not None:
                self.digests.note(self._row(self._replacements.get(index, index)))

    def _box(self, height: int, width: int, draws: list[float] | None) -> Box:
        if draws is None:
            return center_box(height, width, self.shape[1] / self.shape[0])
        return random_box(height, width, self.random_crops.min_scale, draws)

    def _write(self, out: np.ndarray, index: int, draws: list[float] | None) -> None:
        """Write an image to ``out``, uint8 [H, W, C], or the next readable one in its place."""
        if self._decode_into(out, index, draws):
            return
        if self.strict:
            raise UserError(f"{self[index]}: is not a readable image: remove it, or set data.strict=false")
        unreadable = [index]
        for other in self._alternatives(index):
            other = self._replacements.get(other, other)
            if self._decode_into(out, other, draws):
                self.failed.update(map(self._row, unreadable))
                self._replacements.update(dict.fromkeys(unreadable, other))
                return
            unreadable.append(other)
        if self.labels is None:
            raise UserError(f"{self[index]}: cannot be read, and no other of the {len(self):,} images can")
        raise UserError(f"{self[index]}: cannot be read, and no other image of its class can: add some, or remove the class")

    def _alternatives(self, index: int) -> Iterable[int]:
        """The other indices, of the same class if there are classes: those that follow, then from the first on."""
        if self.labels is None:
            return chain(range(index + 1, len(self)), range(index))
        members = (self.labels == self.labels[index]).nonzero()[:, 0].tolist()
        place = members.index(index)
        return members[place + 1 :] + members[:place]

    def _decode(self, file: str) -> np.ndarray:
        self._look_for_color(file)
        return decode(file, self.shape, self.crop, self.pixel_format)

    def _decode_whole(self, file: str) -> np.ndarray:
        self._look_for_color(file)
        return decode_whole(file, self.random_crops.stored_size, self.pixel_format)

    def _look_for_color(self, file: str) -> None:
        if self.pixel_format.channels == 1 and not is_gray(mode_of(file) or "L"):
            self.colored.add(file)

    def _decode_into(self, out: np.ndarray, index: int, draws: list[float] | None) -> bool:
        """Write an image as it is used; False if it cannot be read."""
        row, crops = self._row(index), self.random_crops
        file, interpolation = self.paths[row], self.crop.interpolation
        flip = draws is not None and crops.flip and draws[-1] < 0.5
        if self._mapped is None:
            choose = partial(self._box, draws=draws)
            try:
                if draws is None:
                    out[...] = self._decode(file)
                else:
                    self._look_for_color(file)
                    out[...] = decode_box(file, choose, self.shape, interpolation, self.pixel_format, flip)
            except Exception:  # a damaged file raises almost any
                return False
        elif crops is None:
            pixels = self._mapped.get(row, file, self._decode)
            if pixels is None:
                return False
            out[...] = pixels
        else:
            whole = self._mapped.get(row, file, self._decode_whole)
            if whole is None:
                return False
            cut_into(out, whole, self._box(*whole.shape[:2], draws), interpolation, flip)
        return True


def _finished(batch: Tensor, tasks: list[Future[None]]) -> Tensor:
    for task in tasks:
        task.result()
    return batch


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
