"""Attention maps of transformers for images: each head of a layer, and attention rollout.

Forward pre-hooks collect the attention weights, so models need no support for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from zoo.core.errors import UserError
from zoo.layers.attention import SelfAttention
from zoo.pictures.caption_attention import word_attention
from zoo.pictures.figure import Picture
from zoo.pictures.maps import PERCENTILE, draw_maps, draw_scale
from zoo.pictures.predictions import load_trained, to_rgb
from zoo.pictures.shown import select_images
from zoo.registry.registry import Registry
from zoo.spec import ImageSpec
from zoo.tasks.captioning import Captioner
from zoo.tasks.prediction import Prediction
from zoo.tasks.task import Task
from zoo.training.run_folder import RunFolder

TEST_IMAGES = 6
MAX_FILES = 24
MAX_HEADS = 16


def attention(
    registry: Registry,
    runs: list[RunFolder],
    images: Sequence[str] = (),
    checkpoint: str = "best",
    data: str = "",
    settings: Sequence[str] = (),
    layer: str = "",
) -> Picture:
    """Draw the attention of each head of one layer over images, and the rollout through all layers."""
    folder = runs[0]
    task, run = load_trained(registry, folder, checkpoint)
    if isinstance(task, Captioner):
        return word_attention(registry, folder, task, run, images, data, settings, layer)
    depth = sum(isinstance(module, ATTENTION) for module in task.modules())
    if not depth:
        raise UserError(f"{folder.name} has no attention ({run.model['name']}): `zoo list attention` lists models with attention")
    if not isinstance(task.spec, ImageSpec):
        raise UserError(f"attention maps need images, and {folder.name} was trained on {run.data['name']}")
    number = _layer_number(layer, depth)
    shown = select_images(registry, run, task.spec, images, data, settings, TEST_IMAGES, MAX_FILES)
    predictions, weights = attention_weights(task, shown.images)
    chosen = weights[number - 1][:, :MAX_HEADS]
    heads = [f"head {i}" for i in range(1, chosen.shape[1] + 1)]
    maps = torch.cat([patch_maps(chosen, task.spec), patch_maps(rollout(weights), task.spec)[:, None]], 1)
    said = map(_said, task.to_predictions(predictions))
    titles = [f"{name}\npredicted {each}" for name, each in zip(shown.names, said, strict=True)]
    heading = f"{folder.path.name}: attention maps of layer {number} of {depth}, and rollout through all layers"
    return Picture(
        draw_attention(to_rgb(shown.images), maps.numpy(), titles, [*heads, "rollout"], heading),
        "bright patches receive the most attention: look for heads that attend to different patches, and for heads that are near "
        "1 everywhere, which attend uniformly",
        f"zoo picture attention {folder.name} --layer {number - 1 if number > 1 else depth}",
    )


def _said(prediction: Prediction) -> str:
    return prediction.name if prediction.probability is None else f"{prediction.name} ({prediction.probability:.0%})"


def _layer_number(text: str, depth: int) -> int:
    if not text:
        return depth
    if not text.isdecimal() or not 1 <= int(text) <= depth:
        raise UserError(f"--layer {text}: must be an attention layer, from 1 to {depth}")
    return int(text)


# ---------------------------------------------------------------------------------------------- attention weights

ATTENTION = (SelfAttention, nn.MultiheadAttention)


def attention_weights(task: Task, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Run a network and collect its attention weights.

    Returns:
        Predictions, [n, outputs], and the weights of each layer in execution order, [n, heads, queries, keys].
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
    # not the layer itself, which would call the hook again
    return layer.forward(queries, *rest, need_weights=True, average_attn_weights=False)[1]


def rollout(weights: Sequence[Tensor]) -> Tensor:
    """Attention rollout (Abnar and Zuidema 2020, section 3): from output tokens (rows) to input tokens (columns), [n, T, T].

    Heads are averaged, the residual connection counts as identity with a weight of one half, and layers multiply.

    Args:
        weights: per layer from input to output, [n, heads, T, T].
    """
    rolled = torch.eye(weights[0].shape[-1])
    for of_layer in weights:
        mixed = of_layer.mean(1) / 2 + torch.eye(of_layer.shape[-1]) / 2
        rolled = mixed @ rolled
    return rolled


def patch_maps(weights: Tensor, spec: ImageSpec) -> Tensor:
    """Attention of the class token, or else of the mean over all tokens, to the patches: [..., T, T] to [..., rows, columns]."""
    rows, columns, has_token = patch_grid(weights.shape[-1], spec)
    read = weights[..., 0, 1:] if has_token else weights.mean(-2)
    return read.unflatten(-1, (rows, columns))


def patch_grid(tokens: int, spec: ImageSpec) -> tuple[int, int, bool]:
    """Rows and columns of the grid of square patches that gives this number of tokens, and whether there is a class token.

    Raises:
        UserError: no patch size gives this number.
    """
    for patch in range(1, min(spec.height, spec.width) + 1):
        rows, columns = spec.height // patch, spec.width // patch
        if spec.height % patch == spec.width % patch == 0 and rows * columns in (tokens, tokens - 1):
            return rows, columns, rows * columns < tokens
    raise UserError(f"the {tokens} tokens of this network are not patches of {spec.height}x{spec.width} pixels")


# ---------------------------------------------------------------------------------------------- drawing


def draw_attention(
    images: np.ndarray, maps: np.ndarray, row_titles: Sequence[str], map_titles: Sequence[str], heading: str
) -> Figure:
    """Draw a row per image: the image with its patch grid, then its maps, on one color scale.

    Args:
        images: RGB in [0, 1], [n, H, W, 3].
        maps: attention weights, [n, maps, rows, columns]; drawn relative to uniform attention, with the maximum below each.
        row_titles: to the left of each image; map_titles: above the first row.
    """
    multiples = maps * math.prod(maps.shape[2:])
    limit = max(float(np.percentile(multiples, PERCENTILE)), 2.0)  # a single patch must not dominate the scale
    figure, grid = draw_maps(images, multiples, np.full(maps.shape[:2], limit), row_titles, map_titles, heading)
    for row, values in zip(grid, multiples, strict=True):
        _draw_patches(row[0], maps.shape[2:])
        for axes, largest in zip(row[1:], values.max((1, 2)), strict=True):
            axes.set_xlabel(f"{largest:.1f}×", fontsize=7, labelpad=2)
    label = "attention relative to uniform (1 = uniform attention); the maximum is below each map"
    draw_scale(figure, grid, limit, label, is_exceeded=bool(multiples.max() > limit))
    return figure


def _draw_patches(axes: Axes, patches: Sequence[int]) -> None:
    """Draw the grid of (rows, columns) of patches over an image."""
    height, width = axes.images[0].get_size()
    for draw, side, parts in ((axes.axhline, height, patches[0]), (axes.axvline, width, patches[1])):
        for part in range(1, parts):
            draw(part * side / parts - 0.5, color="white", alpha=0.6, linewidth=0.5)
