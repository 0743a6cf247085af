"""The images that a figure shows: files, or a selection of the test split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from zoo.config.run import Run
from zoo.core.errors import UserError
from zoo.pictures.predictions import open_test_data
from zoo.registry.registry import Registry
from zoo.spec import ImageSpec, Spec, image_spec
from zoo.training.prediction import read_named


@dataclass(frozen=True)
class SelectedImages:
    """Images, uint8 [n, C, H, W], and their captions: a file name or the true class.

    Attributes:
        labels: of test images, [n, ...]; None of files.
    """

    images: Tensor
    names: list[str]
    labels: Tensor | None = None


def select_images(
    registry: Registry, run: Run, spec: Spec, files: Sequence[str], data: str, settings: Sequence[str], number: int, most: int
) -> SelectedImages:
    """Read image files, or without files take evenly spaced images from the test split.

    Args:
        spec: of the network.
        data, settings: data set and options that replace those of the run.
        number: number of test images.
        most: maximum number of files.

    Raises:
        UserError: too many or unreadable files, files together with data, or data that cannot be read or does not fit.
    """
    if files and (data or settings):
        raise UserError(f"{'--data' if data else '--set'} is for test images: omit it if image files are given")
    if len(files) > most:
        raise UserError(f"{len(files)} images were given, and at most {most} fit into a picture")
    if files:
        images = torch.stack([read_named(Path(file), image_spec(spec)) for file in files])
        return SelectedImages(images, [Path(file).name for file in files])
    opened = open_test_data(registry, run, spec, data, settings)
    split = opened.splits["test"]
    chosen = torch.linspace(0, len(split) - 1, min(number, len(split))).round().long()
    images = next(split.images.batches(iter([chosen])))
    if isinstance(spec, ImageSpec):
        labels = split.labels[chosen]
        return SelectedImages(images, [f"true {opened.label_text(label)}" for label in labels], labels)
    return SelectedImages(images, [f"test image {index}" for index in chosen.tolist()])
