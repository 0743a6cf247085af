"""Saliency maps of classifiers: the gradient of a class score with respect to the image, and SmoothGrad."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from zoo.core.errors import UserError, unknown
from zoo.core.printing import shell_word
from zoo.pictures.figure import Picture
from zoo.pictures.maps import PERCENTILE, draw_maps, draw_scale
from zoo.pictures.predictions import load_trained, to_rgb
from zoo.pictures.shown import select_images
from zoo.registry.registry import Registry
from zoo.tasks.images import ImageModel, require_image_model
from zoo.training.run_folder import RunFolder

TEST_IMAGES = 6
MAX_FILES = 16
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
    folder = runs[0]
    task, run = load_trained(registry, folder, checkpoint)
    require_image_model(task, folder.name, "zoo picture saliency")
    if task.one_pass:
        raise UserError(f"{folder.name} has no gradients ({run.model['name']}): saliency maps need a network")
    classes = task.spec.classes
    if class_name and class_name not in classes:
        raise unknown("class", class_name, classes)
    shown = select_images(registry, run, task.spec, images, data, settings, TEST_IMAGES, MAX_FILES)
    task.to("cuda" if torch.cuda.is_available() else "cpu").requires_grad_(False)
    pixels = shown.images.to(task.device).float()
    with torch.no_grad():
        likely = task.predict_step({"images": pixels}).sort(1, descending=True)
    chosen = torch.full_like(likely.indices[:, 0], classes.index(class_name)) if class_name else likely.indices[:, 0]
    probabilities = likely.values[likely.indices == chosen[:, None]].tolist()
    gradients = score_gradients(task, pixels, chosen), smooth_gradients(task, pixels, chosen)
    maps = torch.stack([saliency_map(each) for each in gradients], 1).cpu().numpy()
    word = "class" if class_name else "predicted"
    titles = [
        f"{name}\n{word} {classes[i]} ({p:.0%})" for name, p, i in zip(shown.names, probabilities, chosen.tolist(), strict=True)
    ]
    heading = f"{folder.path.name}: saliency maps for {f'class {class_name}' if class_name else 'the predicted class'}"
    again = " ".join(["zoo picture saliency", folder.name, *map(shell_word, images)])
    return Picture(
        draw_saliency(to_rgb(shown.images), maps, titles, heading),
        "bright pixels influence the class score most: check whether they belong to the object, or to the background, borders "
        "and watermarks",
        again if class_name else f"{again} --class {shell_word(classes[likely.indices[0, 1]])}",
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
