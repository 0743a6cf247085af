"""What a trained model says of image files: needs the run folder and nothing else."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from datamodules.images import EXTENSIONS, UnreadableImage, read_image
from zoo.errors import UserError
from zoo.registry import Registry
from zoo.spec import NavigationSpec, TextSpec
from zoo.training.checkpoints import read_checkpoint
from zoo.training.engine import load_task

BATCH = 64


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of one file, best first, each with its probability."""

    file: str
    top: list[tuple[str, float]]

    @property
    def name(self) -> str:
        return self.top[0][0]

    @property
    def probability(self) -> float:
        return self.top[0][1]

    def to_dict(self) -> dict[str, Any]:
        top = [{"class": name, "probability": probability} for name, probability in self.top]
        return {"file": self.file, "class": self.name, "probability": self.probability, "top": top}


def predict_files(registry: Registry, checkpoint_file: Path, inputs: list[str], top: int) -> list[Prediction]:
    """Predictions for image files and for all images in folders, in order.

    Class names and statistics come from the checkpoint, so they are those of the training whatever today's code says.

    A file in a folder that cannot be read is left out with a warning; one that was named is an error.

    Raises:
        UserError: a named file is missing or not an image, a folder holds none that can be read, or the model was trained on
            points, which are in no file.
    """
    files = [file for text in inputs for file in _files(text)]
    named = {Path(text) for text in inputs}
    task, run = load_task(registry, read_checkpoint(checkpoint_file), checkpoint_file)
    if isinstance(task.spec, TextSpec):
        raise UserError(f"this {run.model['name']} writes text, and knows no images: zoo sample")
    if isinstance(task.spec, NavigationSpec):
        raise UserError(f"this {run.model['name']} finds its way in a world of views, and takes no images: zoo picture path RUN")
    if task.spec.are_points:
        raise UserError(f"this {run.model['name']} was trained on points in the plane ({run.data['name']}), not on images")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    task.to(device)
    classes = task.spec.classes
    predictions = []
    with torch.inference_mode():
        for start in range(0, len(files), BATCH):
            part = files[start : start + BATCH]
            pixels = {file: _read(file, task.spec.shape, file in named) for file in part}
            read = {file: image for file, image in pixels.items() if image is not None}
            if not read:
                continue
            best = task.outputs({"images": torch.stack(list(read.values())).to(device)}).topk(min(top, len(classes)))
            for file, values, indices in zip(read, best.values.tolist(), best.indices.tolist(), strict=True):
                names = [classes[index] for index in indices]
                predictions.append(Prediction(str(file), list(zip(names, values, strict=True))))
    if not predictions:
        raise UserError(f"{', '.join(inputs)}: no image can be read")
    return predictions


def read_named(file: Path, shape: tuple[int, int, int]) -> torch.Tensor:
    """uint8 [channels, height, width] of an image file that somebody named.

    Raises:
        UserError: it is missing or cannot be read.
    """
    if not file.is_file():
        raise UserError(f"{file}: {'is no file' if file.exists() else 'no such file'}")
    try:
        return read_image(str(file), *shape)
    except UnreadableImage as error:
        raise UserError(f"{file}: {error}") from None


def _read(file: Path, shape: tuple[int, int, int], is_named: bool) -> torch.Tensor | None:
    if is_named:
        return read_named(file, shape)
    try:
        return read_image(str(file), *shape)
    except UnreadableImage as error:
        print(f"warning: {file} is left out: {error}", file=sys.stderr)
        return None


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
