"""Which images a picture of a network shows: files that somebody named, or some of a test split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from zoo.config.recipe import Run
from zoo.core.errors import UserError
from zoo.pictures.predictions import open_test_data
from zoo.registry.registry import Registry
from zoo.spec import ImageSpec, Spec, image_spec
from zoo.training.prediction import read_named


@dataclass(frozen=True)
class Shown:
    """Images to look at: uint8 [n, C, H, W], each with what stands beside it."""

    images: Tensor
    names: list[str]


def choose_images(
    registry: Registry, run: Run, spec: Spec, files: Sequence[str], data: str, settings: Sequence[str], number: int, most: int
) -> Shown:
    """The images of files; or without files some from all over the test split, which may be sorted by class.

    Args:
        spec: of the network that is to see them.
        data, settings: another data set than the run's, and its options, if the test split is to be of that.
        number: of test images.
        most: files that one picture holds.

    Raises:
        UserError: files are too many or cannot be read, data was given besides, or it cannot be read or does not fit.
    """
    if files and (data or settings):
        raise UserError(f"{'--data' if data else '--set'} is for test images: leave it out where image files are given")
    if len(files) > most:
        raise UserError(f"{len(files)} images were given: one picture holds {most}")
    if files:
        images = torch.stack([read_named(Path(file), image_spec(spec).shape) for file in files])
        return Shown(images, [Path(file).name for file in files])
    split = open_test_data(registry, run, spec, data, settings).splits["test"]
    chosen = torch.linspace(0, len(split) - 1, min(number, len(split))).round().long()
    images = next(split.images.batches(iter([chosen])))
    if isinstance(spec, ImageSpec):
        return Shown(images, [spec.classes[label] for label in split.labels[chosen].tolist()])
    return Shown(images, [f"test image {index}" for index in chosen.tolist()])
