"""Where a network looks: attention drawn beside images, head by head, and followed through all layers.

Weights are taken from the layers themselves while a network runs, so models need to do nothing for it; drawing takes maps over
images, wherever they come from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from torch import Tensor, nn

from zoo.core.errors import UserError
from zoo.layers.attention import SelfAttention
from zoo.pictures.figure import SEQUENTIAL, Picture
from zoo.pictures.predictions import as_colors, load_trained
from zoo.pictures.shown import choose_images
from zoo.registry.registry import Registry
from zoo.spec import ImageSpec
from zoo.tasks.task import Task
from zoo.training.run_folder import RunFolder

SHOWN_IMAGES = 6  # of a test split
MOST_IMAGES = 24  # files
MOST_HEADS = 16
TILE = 0.95  # inches a side
BELOW_THE_TOP = 99  # per cent of all values that the scale of colors reaches to


def attention(
    registry: Registry,
    runs: list[RunFolder],
    images: Sequence[str] = (),
    checkpoint: str = "best",
    data: str = "",
    settings: Sequence[str] = (),
    layer: str = "",
) -> Picture:
    """Where each head of one layer looks, and where the image goes on its way to the head of the network."""
    folder = runs[0]
    task, run = load_trained(registry, folder, checkpoint)
    depth = sum(isinstance(module, ATTENTION) for module in task.modules())
    if not depth:
        raise UserError(f"{folder.name} has no attention ({run.model['name']}): `zoo list attention` shows the models that have")
    if not isinstance(task.spec, ImageSpec):
        raise UserError(f"attention is drawn over images, and {folder.name} reads something else ({run.data['name']})")
    number = _layer_number(layer, depth)
    shown = choose_images(registry, run, task.spec, images, data, settings, SHOWN_IMAGES, MOST_IMAGES)
    probabilities, weights = watch(task, shown.images)
    chosen = weights[number - 1][:, :MOST_HEADS]
    heads = [f"head {i}" for i in range(1, chosen.shape[1] + 1)]
    maps = torch.cat([looked_at(chosen, task.spec), looked_at(rollout(weights), task.spec)[:, None]], 1)
    best = [f"{name}\n{p:.0%} {task.spec.classes[i]}" for name, p, i in zip(shown.names, *_best(probabilities), strict=True)]
    heading = f"{folder.path.name}: attention of layer {number} of {depth}, and rolled out through all"
    return Picture(
        draw_attention(as_colors(shown.images), maps.numpy(), best, [*heads, "rollout"], heading),
        "bright patches are those that the output is gathered from: look for heads that look elsewhere than the others, and for "
        "heads that are near 1 all over, which look everywhere alike",
        f"zoo picture attention {folder.name} --layer {number - 1 if number > 1 else depth}",
    )


def _best(probabilities: Tensor) -> tuple[list[float], list[int]]:
    best = probabilities.max(1)
    return best.values.tolist(), best.indices.tolist()


def _layer_number(text: str, depth: int) -> int:
    if not text:
        return depth
    if not text.isdecimal() or not 1 <= int(text) <= depth:
        raise UserError(f"--layer {text}: must be a number from 1 to {depth}, the layers with attention that the network has")
    return int(text)


# ---------------------------------------------------------------------------------------------- where the weights come from

ATTENTION = (SelfAttention, nn.MultiheadAttention)


def watch(task: Task, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """What a network says of images, and how it attends meanwhile.

    Returns:
        The probabilities, [n, classes], and for each layer in the order in which they run the weights, [n, heads, T, T]: how much
        each of T places (rows) takes from each (columns).
    """
    weights: list[Tensor] = []
    layers = [module for module in task.modules() if isinstance(module, ATTENTION)]
    hooks = [layer.register_forward_pre_hook(lambda layer, inputs: weights.append(_weights(layer, *inputs))) for layer in layers]
    try:
        with torch.inference_mode():
            return task.predict_step({"images": images}), weights
    finally:
        for hook in hooks:
            hook.remove()


def _weights(layer: SelfAttention | nn.MultiheadAttention, queries: Tensor, *rest: Tensor) -> Tensor:
    if isinstance(layer, SelfAttention):
        return layer.weights(queries)
    # its forward, not the layer itself, which would call the hook again
    return layer.forward(queries, *rest, need_weights=True, average_attn_weights=False)[1]


def rollout(weights: Sequence[Tensor]) -> Tensor:
    """How much of each place of the input (columns) is in each place of the output (rows), [n, T, T].

    Attention rollout (Abnar and Zuidema 2020, section 3): half of a block's output is its shortcut, the other half what the heads
    gather on average, and layers follow each other as a product of matrices.

    Args:
        weights: of each layer from input to output, [n, heads, T, T].
    """
    rolled = torch.eye(weights[0].shape[-1])
    for of_layer in weights:
        mixed = of_layer.mean(1) / 2 + torch.eye(of_layer.shape[-1]) / 2
        rolled = mixed @ rolled
    return rolled


def looked_at(weights: Tensor, spec: ImageSpec) -> Tensor:
    """Weights [..., T, T] as maps over the patches of an image, [..., rows, columns], for the places that are read in the end.

    That is the class token if there is one in front of the patches, and else the mean over all patches.
    """
    rows, columns, has_token = patch_grid(weights.shape[-1], spec)
    read = weights[..., 0, 1:] if has_token else weights.mean(-2)
    return read.unflatten(-1, (rows, columns))


def patch_grid(places: int, spec: ImageSpec) -> tuple[int, int, bool]:
    """How many rows and columns of square patches an image has if they make so many places, and whether one more is a token.

    Raises:
        UserError: no patches make so many places.
    """
    for patch in range(1, min(spec.height, spec.width) + 1):
        rows, columns = spec.height // patch, spec.width // patch
        if spec.height % patch == spec.width % patch == 0 and rows * columns in (places, places - 1):
            return rows, columns, rows * columns < places
    raise UserError(f"the {places} places that this network attends to are not the patches of {spec.height}x{spec.width} pixels")


# ---------------------------------------------------------------------------------------------- drawing


def draw_attention(
    images: np.ndarray, maps: np.ndarray, row_titles: Sequence[str], map_titles: Sequence[str], heading: str
) -> Figure:
    """A row for each image: the image itself, cut into its patches, then its maps, all on one scale that a bar below tells.

    Args:
        images: colors in [0, 1], [n, H, W, 3].
        maps: shares of attention, [n, maps, rows, columns]; drawn as multiples of an equal share, with the largest below each.
        row_titles: beside each image; map_titles: above the first row.
    """
    count, columns = len(images), 1 + maps.shape[1]
    multiples = maps * math.prod(maps.shape[2:])
    limit = max(float(np.percentile(multiples, BELOW_THE_TOP)), 2.0)  # a single patch must not take all colors
    norm, extend = Normalize(0, limit), "max" if multiples.max() > limit else "neither"
    figure = Figure((1.5 + TILE * columns, 1.5 + (TILE + 0.22) * count), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.04, h_pad=0.05)
    grid = figure.subplots(count, columns, squeeze=False)
    for row, image, of_image, title in zip(grid, images, multiples, row_titles, strict=True):
        _draw_image(row[0], image, maps.shape[2:])
        row[0].set_ylabel(title, rotation=0, ha="right", va="center", fontsize=8, labelpad=6)
        for axes, values in zip(row[1:], of_image, strict=True):
            axes.imshow(values, cmap=SEQUENTIAL, norm=norm, interpolation="nearest")
            axes.set_xlabel(f"{values.max():.1f}×", fontsize=7, labelpad=2)
    for axes, title in zip(grid[0], ["image", *map_titles], strict=True):
        axes.set_title(title, fontsize=9)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    figure.suptitle(f"{heading}\n", fontsize=10)  # the empty line keeps it off the titles below
    bar = figure.colorbar(
        ScalarMappable(norm, SEQUENTIAL), ax=grid, orientation="horizontal", extend=extend, shrink=0.6, aspect=40
    )
    bar.set_label("attention to a patch, as a multiple of an equal share; the number below a map is its largest", fontsize=8)
    return figure


def _draw_image(axes: Axes, image: np.ndarray, patches: Sequence[int]) -> None:
    """The image under the grid of its (rows, columns) of patches."""
    axes.imshow(image, interpolation="nearest")
    height, width = image.shape[:2]
    for draw, side, parts in ((axes.axhline, height, patches[0]), (axes.axvline, width, patches[1])):
        for part in range(1, parts):
            draw(part * side / parts - 0.5, color="white", alpha=0.6, linewidth=0.5)
