"""How torchvision and timm prepare images for their published weights, as specs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from zoo.core.errors import UserError
from zoo.spec import CROP_MODES, Crop, ImageSpec


def torchvision_spec(weights: Any) -> ImageSpec:
    """The spec of a member of one of torchvision's enumerations of weights."""
    transform = weights.transforms()
    (size,), (resized,) = transform.crop_size, transform.resize_size
    crop = Crop("center", size / resized, transform.interpolation.value)
    return ImageSpec(3, size, size, unique(weights.meta["categories"]), tuple(transform.mean), tuple(transform.std), crop)


def timm_spec(config: Any) -> ImageSpec:
    """The spec of a ``PretrainedCfg`` of timm.

    Raises:
        UserError: its images are cropped in a way that the zoo has not, or are not square.
    """
    channels, height, width = config.input_size
    if config.crop_mode not in CROP_MODES or height != width:
        raise UserError(
            f"timm's {config.architecture} takes images of {height}x{width} with crop mode {config.crop_mode!r}: "
            "bestiary prepares square ones, with center or squash"
        )
    resized = math.floor(height / config.crop_pct)  # as timm.data.transforms_factory rounds it
    crop = Crop(config.crop_mode, height / resized, config.interpolation)
    return ImageSpec(channels, height, width, timm_classes(config), tuple(config.mean), tuple(config.std), crop)


def timm_classes(config: Any) -> tuple[str, ...]:
    """The class names of a ``PretrainedCfg``: those of ImageNet's subsets, its own, or numbers."""
    from timm.data import ImageNetInfo, infer_imagenet_subset

    if names := config.label_names:
        described = config.label_descriptions or {}
        return unique([described.get(name, name) for name in names])
    if subset := infer_imagenet_subset({"num_classes": config.num_classes}):
        info = ImageNetInfo(subset)
        return unique(info.label_descriptions(), info.label_names())
    return numbered(config.num_classes)


def numbered(count: int) -> tuple[str, ...]:
    """Names of classes of which nothing but the number is known."""
    return tuple(f"class {place}" for place in range(count))


def unique(names: Sequence[str], identifiers: Sequence[str] = ()) -> tuple[str, ...]:
    """Class names, of which several that are alike, as ImageNet's two cranes, get their identifier or index in brackets."""
    counts = Counter(names)
    marks = identifiers or range(len(names))
    return tuple(name if counts[name] == 1 else f"{name} ({mark})" for name, mark in zip(names, marks, strict=True))
