"""Saliency maps of classifiers: the gradient of a class score with respect to the image, and SmoothGrad."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from zoo.pictures.explained import explain
from zoo.pictures.figure import Picture
from zoo.pictures.maps import PERCENTILE, draw_maps, draw_scale
from zoo.registry.registry import Registry
from zoo.tasks.images import ImageModel
from zoo.training.run_folder import RunFolder

TILE = 1.6  # inches per side
SAMPLES, NOISE = 50, 0.15  # of SmoothGrad, as its authors recommend


def saliency(
    registry: Registry,
    runs: list[RunFolder],
    images: Sequence[str] = (),
    checkpoint: str = "best",
    data: str = "",
    settings: Sequence[str] = (),
    class_name: str = "",
) -> Picture:
    """Draw saliency maps for the predicted class, or for ``class_name``."""
    found = explain(registry, runs[0], "saliency", images, checkpoint, data, settings, class_name)
    inputs = found.task, found.pixels, found.classes
    maps = torch.stack([saliency_map(gradients) for gradients in (score_gradients(*inputs), smooth_gradients(*inputs))], 1)
    return Picture(
        draw_saliency(found.rgb, maps.cpu().numpy(), found.titles, f"{runs[0].path.name}: saliency maps for {found.whose}"),
        "bright pixels influence the class score most: check whether they belong to the object, or to the background, borders "
        "and watermarks",
        found.again,
    )


def score_gradients(task: ImageModel, images: Tensor, classes: Tensor) -> Tensor:
    """Gradient of the class score, before softmax, with respect to the pixels, [n, C, H, W] (Simonyan et al. 2013, section 3).

    Args:
        images: pixels from 0 to 255, float [n, C, H, W].
        classes: int64 [n].
    """
    with torch.enable_grad():
        images = images.detach().clone().requires_grad_()
        scores = task(task.normalize(images)).gather(1, classes[:, None])
        return torch.autograd.grad(scores.sum(), images)[0]


def smooth_gradients(
    task: ImageModel, images: Tensor, classes: Tensor, samples: int = SAMPLES, noise: float = NOISE, seed: int = 0
) -> Tensor:
    """SmoothGrad: mean of ``score_gradients`` over noisy copies, [n, C, H, W] (Smilkov et al. 2017, section 3).

    Args:
        samples: copies per image.
        noise: standard deviation relative to the range of values of the image.
    """
    deviation = noise * (images.amax((1, 2, 3), keepdim=True) - images.amin((1, 2, 3), keepdim=True))
    generator = torch.Generator().manual_seed(seed)  # on the CPU, for the same noise on all devices
    total = torch.zeros_like(images)
    for _ in range(samples):
        perturbation = torch.randn(images.shape, generator=generator).to(images.device)
        total += score_gradients(task, images + deviation * perturbation, classes)
    return total / samples


def saliency_map(gradients: Tensor) -> Tensor:
    """Maximum magnitude over channels, [n, H, W], of gradients [n, C, H, W] (Simonyan et al. 2013, section 3.1)."""
    return gradients.abs().amax(1)


def draw_saliency(images: np.ndarray, maps: np.ndarray, titles: Sequence[str], heading: str) -> Figure:
    """Draw each image next to its two maps, each map on its own scale.

    Args:
        images: RGB in [0, 1], [n, H, W, 3].
        maps: gradient and SmoothGrad, [n, 2, H, W].
        titles: to the left of each image.
    """
    limits = np.percentile(maps, PERCENTILE, axis=(2, 3))
    figure, grid = draw_maps(images, maps, limits, titles, ("gradient", "SmoothGrad"), heading, TILE)
    label = f"gradient magnitude relative to the {PERCENTILE}th percentile of each map"
    draw_scale(figure, grid, 1, label, is_exceeded=True)
    return figure
