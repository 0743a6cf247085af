"""Views of an image for test-time augmentation: mirrored and slightly shifted ones, whose predictions are averaged."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from itertools import product

import torch
from torch import Tensor

SHIFT = 32  # an image is shifted by its side over this, at least by one pixel


def views_of(familiar: Collection[str], height: int, width: int) -> list[Callable[[Tensor], Tensor]]:
    """All views of images [N, C, H, W] that are made of what a network is familiar with, the unchanged image first.

    Args:
        familiar: tags of augmentations: ``mirrors-x``, ``mirrors-y``, and ``moves``, for shifts along the diagonal.
    """
    axes = [axis for tag, axis in (("mirrors-x", -1), ("mirrors-y", -2)) if tag in familiar]
    mirrored = [[axis for axis, is_used in zip(axes, used, strict=True) if is_used] for used in product((0, 1), repeat=len(axes))]
    shifts = (0, 1, -1) if "moves" in familiar else (0,)
    step_y, step_x = (max(1, round(side / SHIFT)) for side in (height, width))
    return [partial(view, axes=each, down=shift * step_y, right=shift * step_x) for each, shift in product(mirrored, shifts)]


def view(images: Tensor, axes: Collection[int] = (), down: int = 0, right: int = 0) -> Tensor:
    """Mirror images [N, C, H, W] along the axes, and shift them by pixels; behind the border they are reflected."""
    for axis, shift in ((-2, down), (-1, right)):
        if shift:
            side = images.shape[axis]
            source = (torch.arange(side, device=images.device) - shift).abs()
            images = images.index_select(axis, torch.where(source < side, source, 2 * (side - 1) - source).clamp_(0))
    return images.flip(list(axes)) if axes else images
