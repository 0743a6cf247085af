"""Which pixels a classifier goes by: the gradient of a class's score by the image, alone and averaged over noise."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from zoo.core.errors import UserError, unknown
from zoo.pictures.figure import SEQUENTIAL, Picture
from zoo.pictures.predictions import as_colors, load_trained
from zoo.pictures.shown import choose_images
from zoo.registry.registry import Registry
from zoo.tasks.classification import Classifier, require_classifier
from zoo.training.run_folder import RunFolder

SHOWN_IMAGES = 6  # of a test split
MOST_IMAGES = 16  # files
ROWS = 4  # with more images, they stand two in a row
TILE = 1.6  # inches a side
SAMPLES, NOISE = 50, 0.15  # of SmoothGrad, as its authors advise: noisy copies, and deviation as a share of the image's range
BELOW_THE_TOP = 99  # per cent of a map's pixels that the scale of colors reaches to: single ones must not take all colors


def saliency(
    registry: Registry,
    runs: list[RunFolder],
    images: Sequence[str] = (),
    checkpoint: str = "best",
    data: str = "",
    settings: Sequence[str] = (),
    class_name: str = "",
) -> Picture:
    """Images beside what moves the score of a class most: of the likeliest one, or of one that was named."""
    folder = runs[0]
    task, run = load_trained(registry, folder, checkpoint)
    require_classifier(task, folder.name, "zoo picture saliency")
    if task.one_pass:
        raise UserError(f"{folder.name} compares images and has no gradients ({run.model['name']}): there is nothing to draw")
    classes = task.spec.classes
    if class_name and class_name not in classes:
        raise unknown("class", class_name, classes)
    shown = choose_images(registry, run, task.spec, images, data, settings, SHOWN_IMAGES, MOST_IMAGES)
    task.to("cuda" if torch.cuda.is_available() else "cpu").requires_grad_(False)
    pixels = shown.images.to(task.device).float()
    with torch.no_grad():
        likely = task.predict_step({"images": pixels}).sort(1, descending=True)
    chosen = torch.full_like(likely.indices[:, 0], classes.index(class_name)) if class_name else likely.indices[:, 0]
    probabilities = likely.values[likely.indices == chosen[:, None]].tolist()
    gradients = score_gradients(task, pixels, chosen), smooth_gradients(task, pixels, chosen)
    maps = torch.stack([saliency_map(each) for each in gradients], 1).cpu().numpy()
    titles = [f"{name}\n{p:.0%} {classes[i]}" for name, p, i in zip(shown.names, probabilities, chosen.tolist(), strict=True)]
    of_class = f"for {class_name}" if class_name else "for the likeliest class"
    heading = f"{folder.path.name}: what moves the score {of_class}"
    again = " ".join(["zoo picture saliency", folder.name, *map(shlex.quote, images)])
    return Picture(
        draw_saliency(as_colors(shown.images), maps, titles, heading),
        "bright pixels are those that the score depends on most, dark ones hardly matter: look for the thing itself, and for "
        "backgrounds, borders and marks that the network goes by instead",
        again if class_name else f"{again} --class {shlex.quote(classes[likely.indices[0, 1]])}",
    )


def score_gradients(task: Classifier, images: Tensor, classes: Tensor) -> Tensor:
    """The gradient of each image's score of its class, before softmax, by its pixels, [n, C, H, W].

    Simonyan et al. 2013, section 3.

    Args:
        images: pixels from 0 to 255, float [n, C, H, W].
        classes: int64 [n].
    """
    with torch.enable_grad():
        images = images.detach().clone().requires_grad_()
        scores = task(task.normalize(images)).gather(1, classes[:, None])
        return torch.autograd.grad(scores.sum(), images)[0]


def smooth_gradients(
    task: Classifier, images: Tensor, classes: Tensor, samples: int = SAMPLES, noise: float = NOISE, seed: int = 0
) -> Tensor:
    """The mean of ``score_gradients`` over noisy copies of each image, [n, C, H, W] (SmoothGrad; Smilkov et al. 2017, section 3).

    Args:
        samples: copies of each image.
        noise: its standard deviation as a share of the range from the darkest to the brightest value of the image.
    """
    deviation = noise * (images.amax((1, 2, 3), keepdim=True) - images.amin((1, 2, 3), keepdim=True))
    generator = torch.Generator().manual_seed(seed)  # on the CPU, so that it is the same noise everywhere
    total = torch.zeros_like(images)
    for _ in range(samples):
        disturbance = torch.randn(images.shape, generator=generator).to(images.device)
        total += score_gradients(task, images + deviation * disturbance, classes)
    return total / samples


def saliency_map(gradients: Tensor) -> Tensor:
    """The largest magnitude over the channels, [n, H, W], of gradients [n, C, H, W] (Simonyan et al. 2013, section 3.1)."""
    return gradients.abs().amax(1)


def draw_saliency(images: np.ndarray, maps: np.ndarray, titles: Sequence[str], heading: str) -> Figure:
    """Each image beside its two maps, each map on a scale of its own.

    Args:
        images: colors in [0, 1], [n, H, W, 3].
        maps: the gradient's and SmoothGrad's, [n, 2, H, W].
        titles: beside each image.
    """
    across = 1 if len(images) <= ROWS else 2
    rows = -(-len(images) // across)
    figure = Figure(((3 * TILE + 1.2) * across, 1.1 + (TILE + 0.08) * rows), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03)
    grid = figure.subplots(rows, 3 * across, squeeze=False)
    places = grid.reshape(rows * across, 3)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    for place, image, of_image, title in zip(places, images, maps, titles, strict=False):
        place[0].imshow(image, interpolation="nearest")
        place[0].set_ylabel(title, rotation=0, ha="right", va="center", fontsize=8, labelpad=6)
        for axes, values in zip(place[1:], of_image, strict=True):
            top = float(np.percentile(values, BELOW_THE_TOP)) or 1.0
            axes.imshow(values, cmap=SEQUENTIAL, vmin=0, vmax=top, interpolation="nearest")
    for axes, title in zip(grid[0], ["image", "gradient", "SmoothGrad"] * across, strict=True):
        axes.set_title(title, fontsize=9)
    figure.suptitle(f"{heading}\neach map on a scale of its own", fontsize=10)
    return figure
