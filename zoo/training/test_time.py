"""Test-time augmentation: predictions averaged over views like those that a network was trained on."""

from __future__ import annotations

from typing import Any

from zoo.core.errors import UserError
from zoo.registry.augmentations import parse_augmentation
from zoo.registry.registry import Registry
from zoo.spec import image_spec
from zoo.tasks.task import Task
from zoo.tasks.views import views_of


def average_views(registry: Registry, task: Task, name: str, data: dict[str, Any]) -> None:
    """Let a network average its predictions over mirrored and shifted images, as far as its training did the same to images.

    Where it was trained without augmentation, images are mirrored as in the preset ``light`` of its data.

    Args:
        name: of the model, for messages.
        data: the data section of its training.

    Raises:
        UserError: it predicts no classes of images, or knows no other views of an image.
    """
    merges = hasattr(task, "merge_views") and not image_spec(task.spec).are_points
    if not merges:
        raise UserError(f"--tta averages the probabilities of classes of images, which {name} does not predict: omit it")
    spec, of_data = image_spec(task.spec), registry.data_set(data["name"]).load()
    augment = str(data.get("augment", "none"))
    preset = "light" if augment == "none" else augment
    description = of_data.transforms_of(preset, min(spec.height, spec.width)) if hasattr(of_data, "transforms_of") else augment
    tags = {tag for entry, _ in parse_augmentation(registry, description) for tag in entry.tags}
    task.views = views_of(tags, spec.height, spec.width)
    if len(task.views) == 1:
        raise UserError(
            f"--tta averages over mirrored and shifted images, and {name} was trained on images that are neither "
            f"(data.augment={augment}): omit it"
        )
