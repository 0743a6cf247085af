"""Models and data as plain Lightning modules, for one's own Trainer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from zoo.core.errors import UserError
from zoo.registry.registry import current_registry
from zoo.spec import ImageSpec, Spec

if TYPE_CHECKING:
    from zoo.config.recipe import Recipe
    from zoo.datamodules.bases.data_module import DataModule
    from zoo.tasks.task import Task


def create_model(
    name: str,
    spec: Spec | None = None,
    recipe: Recipe | None = None,
    *,
    num_classes: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    in_channels: int = 3,
    **options: object,
) -> Task:
    """Build a model with freshly initialized weights: a LightningModule for any Trainer.

    Args:
        name: as ``list_models`` shows it.
        spec: of the data, as in ``create_data("digits").spec``; by default that of the model's default data.
        num_classes: of image classification, in place of a spec, with ``image_size``, in pixels (a number, or height and width),
            and ``in_channels``.
        recipe: optimizer, learning rate and so on; by default the model's own.
        options: of the model, as in ``depth=32``.

    Raises:
        UserError: an unknown name or option, a value of the wrong type, or data that the model cannot take.

    Example::

        model = zoo.create_model("resnet20", num_classes=10, image_size=32)
    """
    from zoo.config.options import check_options
    from zoo.config.recipe import Recipe

    entry = current_registry().model(name)
    if spec is not None and not (num_classes is None and image_size is None):
        raise UserError("num_classes and image_size take the place of a spec: omit one or the other")
    if num_classes is not None or image_size is not None:
        if num_classes is None or image_size is None:
            raise UserError(f"{name}: give num_classes and image_size, or a spec")
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        spec = ImageSpec(in_channels, height, width, classes=tuple(map(str, range(num_classes))))
    if spec is None:
        if not entry.data:
            raise UserError(f"{name} has no default data: give a spec, as in zoo.create_data(...).spec")
        spec = create_data(entry.data, **entry.data_options).spec
    chosen = check_options(entry, options)
    model: Task = entry.load()(spec, recipe or Recipe(**entry.recipe), **chosen)
    return model


def create_data(name: str | Path, *, batch_size: int = 128, seed: int = 0, **options: object) -> DataModule:
    """Build a LightningDataModule. Nothing is downloaded or read until a Trainer, or you, call ``prepare_data`` and ``setup``.

    Args:
        name: as ``list_data`` shows it, or the path of a folder of images, one folder per class.
        batch_size: samples per device and batch.
        seed: of splits, order and augmentation.
        options: of the data set, as in ``augment="crop:4,hflip"``.

    Raises:
        UserError: an unknown name or option, or a value of the wrong type.

    Example::

        data = zoo.create_data("digits", batch_size=64)
    """
    from zoo.config.options import check_options
    from zoo.config.recipe import data_section

    section = data_section(current_registry(), name)
    entry = current_registry().data_set(section.pop("name"))
    chosen = check_options(entry, {**section, **options})
    data: DataModule = entry.load()(batch_size, seed, **chosen)
    return data
