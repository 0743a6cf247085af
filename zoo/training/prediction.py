"""Predictions of a trained model for image files: needs the run folder and nothing else."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from zoo.core.errors import UserError, some
from zoo.datamodules.files.images import EXTENSIONS, UnreadableImage, read_image
from zoo.datamodules.files.progress import shown
from zoo.registry.registry import Registry
from zoo.spec import image_spec
from zoo.tasks.prediction import Prediction
from zoo.tasks.task import Task
from zoo.training.building import load_capable

BATCH = 64


def predict_files(
    registry: Registry, checkpoint_file: Path, inputs: list[str], *, progress: bool = True, **options: Any
) -> Iterator[tuple[str, Prediction]]:
    """Predict for image files and for all images in folders, in order: (file, prediction) pairs, a batch at a time.

    Classes, vocabulary and statistics come from the checkpoint, whatever today's code says. A file that cannot be read is left
    out with a warning; one that was named is an error, once the others are done.

    Args:
        progress: whether to show a progress bar.
        options: of the task's ``predict_images``, as in ``top=5``; None counts as not given.

    Raises:
        UserError: a named file is missing or not an image, a folder holds none that can be read, an option is of another task, or
            the model takes no images.
    """
    files = [file for text in inputs for file in _files(text)]
    task, run = load_capable(registry, checkpoint_file, "predict_images", "takes no image files")
    name = run.model["name"]
    if image_spec(task.spec).are_points:
        raise UserError(f"this {name} was trained on points in the plane ({run.data['name']}), not on images")
    given = {option: value for option, value in options.items() if value is not None}
    known = list(inspect.signature(task.predict_images).parameters)[1:]
    if strange := [option for option in given if option not in known]:
        takes = ", ".join(f"--{option}" for option in known) or "none"
        raise UserError(f"--{strange[0]} does not apply to {task.task}, the task of {name}: it takes {takes}")
    images = _read_all(files, {Path(text) for text in inputs}, image_spec(task.spec).shape, progress)
    return _predictions(task, images, given, inputs)


def _predictions(
    task: Task, images: Iterable[tuple[list[str], torch.Tensor]], options: dict[str, Any], inputs: list[str]
) -> Iterator[tuple[str, Prediction]]:
    is_empty = True
    for files, pixels in images:
        with torch.inference_mode():
            predictions = task.predict_images(pixels.to(task.device), **options)
        of_each = len(predictions) // len(files)
        for place, prediction in enumerate(predictions):
            is_empty = False
            yield files[place // of_each], prediction
    if is_empty:
        raise UserError(f"{some(inputs)}: no image can be read")


def _read_all(
    files: list[Path], named: set[Path], shape: tuple[int, int, int], progress: bool
) -> Iterator[tuple[list[str], torch.Tensor]]:
    if len(files) == 1 and files[0] in named:
        yield [str(files[0])], read_named(files[0], shape)[None]
        return
    refused = []

    def read(part: list[Path]) -> list[tuple[str, torch.Tensor]]:
        found = []
        for file in part:
            try:
                found.append((str(file), read_image(str(file), *shape)))
            except UnreadableImage as error:
                print(f"warning: {file} is skipped: {error}", file=sys.stderr)
                refused.extend([file] if file in named else [])
        return found

    parts: Iterable[list[tuple[str, torch.Tensor]]] = (read(files[i : i + BATCH]) for i in range(0, len(files), BATCH))
    for found in shown(parts, len(files), BATCH, "predicting") if progress else parts:
        if found:
            names, images = zip(*found, strict=True)
            yield list(names), torch.stack(images)
    if refused:
        raise UserError(f"{len(refused):,} of the files that were named cannot be read: {some(refused)}")


def read_named(file: Path, shape: tuple[int, int, int]) -> torch.Tensor:
    """uint8 [channels, height, width] of an image file that somebody named.

    Raises:
        UserError: it is missing or cannot be read.
    """
    if not file.is_file():
        raise UserError(f"{file}: {'is not a file' if file.exists() else 'no such file'}")
    try:
        return read_image(str(file), *shape)
    except UnreadableImage as error:
        raise UserError(f"{file}: {error}") from None


def _files(text: str) -> list[Path]:
    path = Path(text)
    if not path.exists():
        raise UserError(f"{text}: no such file or folder")
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.rglob("*") if file.suffix.lower() in EXTENSIONS and file.is_file())
    if not found:
        raise UserError(f"{text}: holds no images ({', '.join(EXTENSIONS)})")
    return found
