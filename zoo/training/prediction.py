"""Predictions and features of a trained model for images: files, folders, Pillow images, arrays and tensors."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from zoo.core.errors import UserError, some
from zoo.core.files import LeftOut, describe_left_out, expanded, files_below, require_regular
from zoo.core.ranks import rank_zero_print
from zoo.datamodules.files.formats import why_no_image
from zoo.datamodules.files.images import UnreadableImage, array_to_image, read_image
from zoo.datamodules.files.progress import shown
from zoo.spec import ImageSpec, image_spec
from zoo.tasks.images import ImageModel
from zoo.tasks.prediction import Prediction
from zoo.tasks.task import Task

BATCH = 64
ImageInput = str | Path | Image.Image | np.ndarray | torch.Tensor
Batches = Iterator[tuple[list[str], torch.Tensor]]  # files, and their images or features


@dataclass(frozen=True)
class Source:
    """An image to predict for; ``is_named`` if the user named it, and not a folder that it is in."""

    name: str
    content: Path | Image.Image
    is_named: bool = True

    def read(self, spec: ImageSpec) -> torch.Tensor:
        """uint8 [channels, height, width]; raises UnreadableImage."""
        content = str(self.content) if isinstance(self.content, Path) else self.content
        return read_image(content, spec)


def predict(
    task: Task, name: str, inputs: Sequence[ImageInput], *, batch_size: int = BATCH, progress: bool = True, **options: Any
) -> Iterator[tuple[str, Prediction]]:
    """Predict for images and for all images in folders, in order: (file, prediction) pairs, a batch at a time.

    Classes, vocabulary and statistics are those of the task's spec. A file that cannot be read is left out with a warning; one
    that was named is an error, once the others are done.

    Args:
        name: of the model, for messages.
        inputs: image files, folders, Pillow images, and arrays or tensors as ``array_to_image`` takes them, or batches of them.
        progress: whether to show a progress bar.
        options: of the task's ``predict_images``, as in ``top=5``; None counts as not given.

    Raises:
        UserError: a named file is missing or not an image, a folder holds none that can be read, an option is of another task, or
            the model takes no images.
    """
    sources = _require_sources(task, name, inputs)
    given = {option: value for option, value in options.items() if value is not None}
    known = list(inspect.signature(task.predict_images).parameters)[1:]
    if strange := [option for option in given if option not in known]:
        takes = ", ".join(f"--{option}" for option in known) or "none"
        raise UserError(f"--{strange[0]} does not apply to {task.task}, the task of {name}: it takes {takes}")
    return _predictions(task, _read(sources, image_spec(task.spec), inputs, batch_size, progress, "predicting"), given)


def embed(
    task: Task, name: str, inputs: Sequence[ImageInput], *, batch_size: int = BATCH, progress: bool = True
) -> Iterator[tuple[list[str], torch.Tensor]]:
    """Features in front of the head: (files, features) pairs, float32 [n, features] on the CPU, a batch at a time.

    Images are read, and unreadable ones treated, as in ``predict``, with the same arguments.

    Raises:
        UserError: as ``predict``, or the model has no features.
    """
    sources = _require_sources(task, name, inputs)
    if not isinstance(task, ImageModel):
        raise UserError(task.cannot(name, "has no features of single images"))
    return _features(task, _read(sources, task.spec, inputs, batch_size, progress, "computing features of"))


def _require_sources(task: Task, name: str, inputs: Sequence[ImageInput]) -> list[Source]:
    """What is to be read for a model that takes images."""
    if not inputs:
        raise UserError("there is nothing to predict for: give images")
    takes_images = hasattr(task, "predict_images")
    is_deep = takes_images and bool(image_spec(task.spec).value_range)
    sources = [source for each in inputs for source in _sources(each, is_deep)]
    if not takes_images:
        raise UserError(task.cannot(name, "takes no image files"))
    if image_spec(task.spec).are_points:
        raise UserError(f"this {name} was trained on points in the plane, not on images")
    return sources


def _predictions(task: Task, images: Batches, options: dict[str, Any]) -> Iterator[tuple[str, Prediction]]:
    for files, pixels in images:
        with torch.inference_mode():
            predictions = task.predict_images(pixels.to(task.device), **options)
        of_each = len(predictions) // len(files)
        for place, prediction in enumerate(predictions):
            yield files[place // of_each], prediction


def _features(task: ImageModel, images: Batches) -> Batches:
    for files, pixels in images:
        with torch.inference_mode():
            features = task.embed(pixels.to(task.device))
        yield files, features.cpu()


def _read(
    sources: list[Source], spec: ImageSpec, inputs: Sequence[ImageInput], batch_size: int, progress: bool, verb: str
) -> Batches:
    """Yield files and their images, uint8 [n, C, H, W].

    Args:
        inputs: as they were given, for the message that none can be read.
        verb: of the progress bar.
    """
    images = _read_all(sources, spec, batch_size, verb if progress else "")
    is_empty = True
    for batch in _name_constant(images, spec.value_range) if spec.value_range else images:
        is_empty = False
        yield batch
    if is_empty:
        names = [str(each) if isinstance(each, (str, Path)) else "image" for each in inputs]
        raise UserError(f"{some(names)}: no image can be read")


def _read_all(sources: list[Source], spec: ImageSpec, batch_size: int, verb: str) -> Batches:
    if len(sources) == 1 and sources[0].is_named:
        only = sources[0].content
        yield [sources[0].name], (read_named(only, spec) if isinstance(only, Path) else sources[0].read(spec))[None]
        return
    refused = []

    def read(part: list[Source]) -> list[tuple[str, torch.Tensor]]:
        found = []
        for source in part:
            try:
                found.append((source.name, source.read(spec)))
            except UnreadableImage as error:
                rank_zero_print(f"warning: {source.name} is skipped: {error}")
                refused.extend([source.name] if source.is_named else [])
        return found

    parts: Iterable[list[tuple[str, torch.Tensor]]] = (
        read(sources[i : i + batch_size]) for i in range(0, len(sources), batch_size)
    )
    for found in shown(parts, len(sources), batch_size, verb) if verb else parts:
        if found:
            names, images = zip(*found, strict=True)
            yield list(names), torch.stack(images)
    if refused:
        raise UserError(f"{len(refused):,} of the files that were named cannot be read: {some(refused)}")


def _name_constant(images: Batches, value_range: tuple[float, ...]) -> Batches:
    """Pass images on, and say which show nothing, as those of other values than the network was trained on do."""
    found: list[str] = []
    for names, pixels in images:
        flat = pixels.flatten(1)
        found += [name for name, same in zip(names, (flat.amin(1) == flat.amax(1)).tolist(), strict=True) if same]
        yield names, pixels
    if found:
        low, high = value_range
        rank_zero_print(
            f"warning: {len(found):,} image{' is' if len(found) == 1 else 's are'} constant for the network, "
            f"which takes gray values of more than 8 bits from {low:,g} to {high:,g}: {some(found)}"
        )


def read_one(given: ImageInput, spec: ImageSpec) -> torch.Tensor:
    """uint8 [channels, height, width] of one image.

    Raises:
        UserError: it is missing or cannot be read, or these are several.
    """
    sources = _sources(given, bool(spec.value_range))
    if len(sources) != 1 or not sources[0].is_named:
        raise UserError(f"{given if isinstance(given, (str, Path)) else 'a batch'}: give one image")
    content = sources[0].content
    return read_named(content, spec) if isinstance(content, Path) else sources[0].read(spec)


def read_named(file: Path, spec: ImageSpec) -> torch.Tensor:
    """uint8 [channels, height, width] of an image file that somebody named.

    Raises:
        UserError: it is missing or cannot be read.
    """
    require_regular(file)
    try:
        return read_image(str(file), spec)
    except UnreadableImage as error:
        raise UserError(f"{file}: {error}") from None


def _sources(given: ImageInput, is_deep: bool) -> list[Source]:
    if isinstance(given, Image.Image):
        return [Source("image", given)]
    if isinstance(given, (np.ndarray, torch.Tensor)):
        if isinstance(given, torch.Tensor):
            given = given.float() if given.is_floating_point() else given  # NumPy has no bfloat16
        array = given.numpy(force=True) if isinstance(given, torch.Tensor) else given
        return [Source("image", array_to_image(each, is_deep)) for each in (array if array.ndim == 4 else [array])]
    if not isinstance(given, (str, Path)):
        raise UserError(f"{type(given).__name__} is not an image: give paths, Pillow images, arrays or tensors")
    path = expanded(given)
    if not str(given) or not path.exists():
        raise UserError(f"{given}: no such file or folder")
    if not path.is_dir():
        require_regular(path)
        return [Source(str(path), path)]
    return _in_folder(path)


def _in_folder(folder: Path) -> list[Source]:
    left_out: LeftOut = {}
    try:
        found = sorted(map(Path, files_below(folder, left_out, why_no_image)))
    except OSError as error:
        raise UserError(f"{error.filename or folder}: cannot be read: {(error.strerror or str(error)).lower()}") from None
    others = describe_left_out(left_out, folder)
    if not found:
        raise UserError(f"{folder}: holds no images{others and f'; left out: {others}'}")
    if others:
        rank_zero_print(f"warning: {folder}: left out: {others}")
    return [Source(str(file), file, is_named=False) for file in found]
