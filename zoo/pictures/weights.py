"""Weights as images: templates of a linear classifier and filters of the first convolution."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor, nn

from zoo.config.resolution import resolve
from zoo.config.run import Run
from zoo.config.settings import parse_setting
from zoo.core.errors import UserError
from zoo.pictures.figure import Picture
from zoo.pictures.predictions import load_trained
from zoo.pictures.tiles import draw_tiles
from zoo.registry.entry import Entry
from zoo.registry.registry import Registry
from zoo.tasks.task import Task
from zoo.training.building import build_task, open_data
from zoo.training.run_folder import RunFolder

MAX_TILES = 256
LARGE_FILTER = 5  # pixels, from which a filter has a shape that can be recognized
GRAY_IS_ZERO = "gray is zero, each tile has its own scale"
RED_AND_BLUE = "red is positive, blue negative"


def templates(registry: Registry, runs: list[RunFolder], checkpoint: str = "best") -> Picture:
    """Draw the weights of a linear classifier, one image per class."""
    folder = runs[0]
    task, run = load_trained(registry, folder, checkpoint)
    if task.spec.are_points:
        raise UserError(f"templates need images, and {folder.name} was trained on points: zoo picture regions {folder.name}")
    weights = class_templates(task)
    if weights is None:
        linear = ", ".join(name for name, entry in registry.models.items() if "linear" in entry.tags)
        raise UserError(
            f"templates are weights of a single linear layer, not of {folder.name} ({run.model['name']}); linear models: {linear}"
        )
    return Picture(
        _draw(weights, task.spec.output_names, f"{folder.path.name}: templates of", "classes"),
        "the score of a class is the dot product of its template and the image: look for blurred averages of the class, and for "
        "backgrounds that it relies on",
        f"zoo picture confusion {folder.name}",
    )


def class_templates(task: Task) -> Tensor | None:
    """Weights of a single linear layer as images, [classes, C, H, W]; None for other networks."""
    layers = [module for module in task.modules() if next(module.parameters(recurse=False), None) is not None]
    if len(layers) != 1 or not isinstance(layers[0], nn.Linear):
        return None
    return layers[0].weight.detach().view(task.spec.outputs, *task.spec.shape)


def filters(
    registry: Registry,
    sources: list[RunFolder | Entry],
    checkpoint: str = "best",
    data: str = "",
    settings: Sequence[str] = (),
) -> Picture:
    """Draw the filters of the first convolution of a run, or of a model at initialization."""
    source = sources[0]
    if isinstance(source, Entry):
        task, run = _untrained(registry, source, data, settings)
        title, name = f"{source.name}, untrained", source.name
        following = f"zoo train {source.name}"
    else:
        if data or settings:
            raise UserError(f"{'--data' if data else '--set'} is for untrained models, and {source.name} is a run")
        task, run = load_trained(registry, source, checkpoint)
        title, name = source.path.name, source.name
        following = f"zoo picture filters {run.model['name']}"
    weights = first_filters(task)
    if weights is None:
        raise UserError(f"{name} has no convolution ({run.model['name']}): `zoo list cnn` lists models with convolutions")
    size = "x".join(map(str, weights.shape[-2:]))
    look_for = (
        "look for edges in all directions and for pairs of opposite colors: filters that look like noise are hardly trained"
        if min(weights.shape[-2:]) >= LARGE_FILTER
        else f"filters of {size} are too small to look like anything, trained or not: compare them with those at initialization"
    )
    return Picture(
        _draw(weights, (), f"{title}:", f"filters of {size}", side=60),
        f"{look_for}; identical ones are redundant",
        following,
    )


def first_filters(task: Task) -> Tensor | None:
    """Weights of the first convolution, [filters, C, H, W]; None if there is none."""
    for stage in task.stages().values():
        for module in stage.modules():
            if isinstance(module, nn.Conv2d):
                return module.weight.detach()
    return None


def _draw(weights: Tensor, titles: Sequence[str], heading: str, unit: str, side: int = 130) -> Figure:
    images = as_images(weights)
    number = f"the first {MAX_TILES} of {len(images)}" if len(images) > MAX_TILES else len(images)
    colors = RED_AND_BLUE if images.ndim == 3 else GRAY_IS_ZERO
    return draw_tiles(images[:MAX_TILES], titles[:MAX_TILES], f"{heading} {number} {unit}; {colors}", side)


def as_images(weights: Tensor) -> np.ndarray:
    """Convert weights, [n, C, H, W], for ``draw_tiles``.

    Three channels become RGB in [0, 1], [n, H, W, 3], each image scaled on its own with zero at 0.5. Others stay signed, with a
    tile per channel, [n * C, H, W].
    """
    weights = weights.float().cpu()
    if weights.shape[1] != 3:
        return weights.flatten(0, 1).numpy()
    largest = weights.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-12)
    return (0.5 + weights / largest / 2).permute(0, 2, 3, 1).numpy()


def _untrained(registry: Registry, entry: Entry, data: str, settings: Sequence[str]) -> tuple[Task, Run]:
    """Build the model at initialization; the spec of its data needs no download."""
    layers = [parse_setting(text, ("model", "data", "recipe")) for text in settings]
    run = resolve(registry, entry.name, {}, [*layers, {"data": {"name": data}} if data else {}])
    return build_task(registry, run, open_data(registry, run).spec), run
