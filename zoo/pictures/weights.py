"""Pictures of weights: the templates of a linear classifier and the first filters of a convolutional network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor, nn

from zoo.config.recipe import Run, parse_setting, resolve
from zoo.core.errors import UserError
from zoo.pictures.figure import Picture
from zoo.pictures.predictions import load_trained
from zoo.pictures.tiles import draw_tiles
from zoo.registry.entry import Entry
from zoo.registry.registry import Registry
from zoo.tasks.task import Task
from zoo.training.building import build_task, open_data
from zoo.training.run_folder import RunFolder

MOST_TILES = 256
GRAY_IS_ZERO = "gray is zero, bright colors add and dark ones subtract"
RED_AND_BLUE = "red adds and blue subtracts"


def templates(registry: Registry, runs: list[RunFolder], checkpoint: str = "best") -> Picture:
    """The weights of a linear classifier, one image a class."""
    folder = runs[0]
    task, run = load_trained(registry, folder, checkpoint)
    if task.spec.are_points:
        raise UserError(f"templates are images, and {folder.name} knows points: zoo picture regions {folder.name}")
    weights = class_templates(task)
    if weights is None:
        linear = ", ".join(name for name, entry in registry.models.items() if "linear" in entry.tags)
        raise UserError(
            f"templates are those of a single linear layer, and {folder.name} is a {run.model['name']}: models that fit: {linear}"
        )
    classes = task.spec.classes
    shown = f"the first {MOST_TILES} of {len(classes)} classes" if len(classes) > MOST_TILES else f"{len(classes)} classes"
    images = as_images(weights[:MOST_TILES])
    signs = RED_AND_BLUE if images.ndim == 3 else GRAY_IS_ZERO
    figure = draw_tiles(images, classes[:MOST_TILES], f"{folder.path.name}: templates of {shown}; {signs}")
    return Picture(
        figure,
        "each tile is what one class looks for, multiplied with the image and summed up to its score: look for blurred averages "
        "of the class, and for backgrounds that it relies on",
        f"zoo picture confusion {folder.name}",
    )


def class_templates(task: Task) -> Tensor | None:
    """The weights of the only layer, [classes, C, H, W], or None if the network is not one linear layer."""
    layers = [module for module in task.modules() if next(module.parameters(recurse=False), None) is not None]
    if len(layers) != 1 or not isinstance(layers[0], nn.Linear):
        return None
    return layers[0].weight.detach().view(len(task.spec.classes), *task.spec.shape)


def filters(
    registry: Registry,
    subjects: list[RunFolder | Entry],
    checkpoint: str = "best",
    data: str = "",
    settings: Sequence[str] = (),
) -> Picture:
    """The first filters of a convolutional network: of a trained one, or of a model as it starts."""
    subject = subjects[0]
    if isinstance(subject, Entry):
        task, run = _untrained(registry, subject, data, settings)
        title, name = f"{subject.name}, untrained", subject.name
        following = f"zoo train {subject.name}"
    else:
        if data or settings:
            raise UserError(f"{'--data' if data else '--set'} is for untrained models, and {subject.name} is a run")
        task, run = load_trained(registry, subject, checkpoint)
        title, name = subject.path.name, subject.name
        following = f"zoo picture filters {run.model['name']}"
    weights = first_filters(task)
    if weights is None:
        raise UserError(f"{name} has no convolution ({run.model['name']}): `zoo list cnn` shows the models that have")
    images = as_images(weights)
    shown = f"{len(images)} filters"
    if len(images) > MOST_TILES:
        images, shown = images[:MOST_TILES], f"the first {MOST_TILES} of {len(images)} filters"
    size = "x".join(map(str, weights.shape[-2:]))
    signs = RED_AND_BLUE if images.ndim == 3 else GRAY_IS_ZERO
    figure = draw_tiles(images, (), f"{title}: {shown} of {size}; {signs}", side=60)
    return Picture(
        figure,
        "look for edges of all directions and for pairs of opposite colors: filters that still look like noise have learned "
        "nothing, and equal ones are wasted",
        following,
    )


def first_filters(task: Task) -> Tensor | None:
    """The weights of the first convolution on the way from input to output, [filters, C, H, W], or None if there is none."""
    for stage in task.stages().values():
        for module in stage.modules():
            if isinstance(module, nn.Conv2d):
                return module.weight.detach()
    return None


def as_images(weights: Tensor) -> np.ndarray:
    """Weights [n, C, H, W] as what a sheet of tiles takes.

    Three channels become colors in [0, 1], [n, H, W, 3]: each image on a scale of its own on which 0.5 is zero. Others stay
    signed, a tile for every channel of every image, [n * C, H, W].
    """
    weights = weights.float().cpu()
    if weights.shape[1] != 3:
        return weights.flatten(0, 1).numpy()
    largest = weights.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-12)
    return (0.5 + weights / largest / 2).permute(0, 2, 3, 1).numpy()


def _untrained(registry: Registry, entry: Entry, data: str, settings: Sequence[str]) -> tuple[Task, Run]:
    """The model as it starts. What its data looks like is known without reading or fetching it."""
    layers = [parse_setting(text, ("model", "data", "recipe")) for text in settings]
    run = resolve(registry, entry.name, {}, [*layers, {"data": {"name": data}} if data else {}])
    return build_task(registry, run, open_data(registry, run).spec), run
