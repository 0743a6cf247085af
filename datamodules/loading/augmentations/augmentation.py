"""Augmentation of whole batches on their device, with random parameters for each image.

A description is a comma-separated list, applied in order, each with optional arguments::

    crop:4,hflip,rand:2,9,mixup:0.2

Parameters come from a CPU generator, so that a seed gives the same images on every device.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial

import torch

from zoo.core.errors import UserError
from zoo.datamodules.loading.loader import Batch
from zoo.registry.augmentations import parse_augmentation
from zoo.registry.registry import current_registry

Transform = Callable[[Batch, torch.Generator], Batch]


class Augmentation:
    """Applies the transforms of a description, in order, to a batch on its device.

    Args:
        description: as above; the empty one and ``none`` change nothing.
        classes: their number, for the soft targets of mixup and cutmix.
        side: the shorter side of the images, which no argument in pixels may exceed; None for any.

    Attributes:
        mixing: the items that mix labels.

    Raises:
        UserError: an unknown transform, or an argument that is not a positive number or too large.
    """

    def __init__(self, description: str, classes: int, side: int | None = None) -> None:
        self.transforms: list[Transform] = []
        self.mixing: list[str] = []
        for entry, arguments in parse_augmentation(current_registry(), description):
            function = entry.load()
            for option in entry.options:
                value = arguments[option.name]
                if option.type == "Pixels" and side is not None and value > max(side, option.default):
                    raise UserError(f"augmentation '{entry.name}:{value}': the images have {side} pixels, which is the most")
            if "classes" in inspect.signature(function).parameters:
                self.mixing.append(entry.name)
                arguments["classes"] = classes
            self.transforms.append(partial(function, **arguments))

    def __call__(self, batch: Batch, seed: int) -> Batch:
        """Transform ``images``, uint8 [N, C, H, W]; mixing adds ``targets``, [N, classes], and leaves ``labels`` as they are."""
        if not self.transforms:
            return batch
        generator = torch.Generator().manual_seed(seed)
        for transform in self.transforms:
            batch = transform(batch, generator)
        return batch
