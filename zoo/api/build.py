"""Models and data as plain Lightning modules, for one's own Trainer."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.core.errors import UserError
from zoo.registry.registry import current_registry
from zoo.spec import KINDS, ImageSpec, Spec
from zoo.training.trained_models import trained_models

if TYPE_CHECKING:
    from zoo.config.recipe import Recipe
    from zoo.datamodules.bases.data_module import DataModule
    from zoo.registry.entry import Entry
    from zoo.tasks.task import Task

LARGEST = 1_000_000  # number of classes, channels or pixels a side


def create_model(
    name: str,
    spec: Spec | DataModule | None = None,
    recipe: Recipe | Mapping[str, Any] | None = None,
    *,
    num_classes: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    in_channels: int | None = None,
    pretrained: bool = False,
    **options: object,
) -> Task:
    """Build a model with freshly initialized or trained weights: a LightningModule for any Trainer.

    Args:
        name: as ``list_models`` shows it; with ``pretrained``, as ``load`` takes it.
        spec: of the data, as in ``create_data("digits").spec``, or the data itself; by default that of the model's default data.
        num_classes: of image classification, in place of a spec, with ``image_size``, in pixels (a number, or height and width),
            and ``in_channels``, 3 by default; of trained weights, size and channels are by default those of their training.
        pretrained: load the trained weights of ``name``; for a given spec, an image classifier gets a new head.
        recipe: optimizer, learning rate and so on; a dict changes the model's own, which is the default.
        options: of the model, as in ``depth=32``.

    Raises:
        UserError: an unknown name or option, a value of the wrong type, or data that the model cannot take.

    Examples:
        >>> model = zoo.create_model("resnet20", num_classes=10, image_size=32)
        >>> model = zoo.create_model("resnet20.digits", pretrained=True)
    """
    from zoo.config.options import check_options
    from zoo.config.recipe import Recipe
    from zoo.config.resolution import recipe_with

    images = {"num_classes": num_classes, "image_size": image_size, "in_channels": in_channels}
    images = {key: value for key, value in images.items() if value is not None}
    if spec is not None and images:
        raise UserError("num_classes and image_size take the place of a spec: omit one or the other")
    if pretrained:
        return _create_pretrained(name, spec, images, recipe, options)
    if images:
        spec = _image_spec(name, **images)
    if (included := trained_models().get(name)) and name not in current_registry().models:
        raise UserError(f"{name} is a trained model: add pretrained=True, or name {included.model} for initial weights")
    entry = current_registry().model(name)
    if spec is None:
        if not entry.data:
            raise UserError(f"{name} has no default data: give a spec, as in zoo.create_data(...).spec")
        spec = create_data(entry.data, **entry.data_options).spec
    if recipe is not None and not isinstance(recipe, (Recipe, Mapping)):
        raise UserError(f"recipe={recipe!r}: must be a Recipe or a dict, as in recipe={{'lr': 0.01}}")
    if not isinstance(recipe, Recipe):
        recipe = recipe_with(entry, dict(recipe or {}))
    chosen = check_options(entry, options)
    model_class = entry.load()
    model: Task = model_class(_fitting_spec(entry, model_class, spec), recipe, **chosen)
    return model


def _create_pretrained(
    name: str,
    spec: Spec | DataModule | None,
    images: dict[str, Any],
    recipe: Recipe | Mapping[str, Any] | None,
    options: Mapping[str, object],
) -> Task:
    """The network of that name with its trained weights, in training mode; raises as ``create_model`` and ``load`` do."""
    if options:
        raise UserError(f"{name}: a trained model has the options of its weights: omit {', '.join(options)}")
    from zoo.api.trained import load
    from zoo.tasks.weights import Weights

    source = load(name)
    trained, run = source.model.cpu(), source.config
    if images:
        own = trained.spec
        shape = {"image_size": (own.height, own.width), "in_channels": own.channels} if isinstance(own, ImageSpec) else {}
        spec = _image_spec(name, **{**shape, **images})
    if spec is None and recipe is None:
        return trained.train()
    model = create_model(run.model["name"], spec or trained.spec, recipe, **run.options("model"))
    if spec is None:
        model.load_state_dict(trained.state_dict())
        return model
    from zoo.training.weights.loading import load_backbone

    load_backbone(model, Weights(name, trained.state_dict(), trained.spec if isinstance(trained.spec, ImageSpec) else None))
    return model


def _image_spec(
    name: str, num_classes: int | None = None, image_size: int | tuple[int, int] | None = None, in_channels: int = 3
) -> ImageSpec:
    """The spec of images with numbered classes."""
    if num_classes is None or image_size is None:
        raise UserError(f"{name}: give num_classes and image_size, or a spec")
    sides = image_size if isinstance(image_size, (tuple, list)) else (image_size, image_size)
    if len(sides) != 2:
        raise UserError(f"image_size={image_size}: must be a number of pixels, or height and width")
    height, width = (_positive("image_size", side) for side in sides)
    classes = tuple(map(str, range(_positive("num_classes", num_classes))))
    return ImageSpec(_positive("in_channels", in_channels), height, width, classes)


def _whole(name: str, value: object, least: int) -> int:
    """A whole number of any integer type."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = least - 1
    if number < least or isinstance(value, bool):
        raise UserError(f"{name}={value!r}: must be a whole number, at least {least}")
    return number


def _positive(name: str, value: object) -> int:
    """A whole number that is not more than any image or data set has."""
    number = _whole(name, value, 1)
    if number > LARGEST:
        raise UserError(f"{name}={value!r}: must be at most {LARGEST:,}")
    return number


def _fitting_spec(entry: Entry, model_class: type[Task], given: Any) -> Spec:
    """The given spec, or that of the given data, if it is of the kind that the model is built from."""
    spec = getattr(given, "spec", given)
    example = f"zoo.create_data({entry.data!r}).spec" if entry.data else "zoo.create_data(...).spec"
    if not isinstance(spec, Spec):
        raise UserError(f"spec={given!r}: a spec describes what the data is, as in {example}")
    parameter = inspect.signature(model_class.__init__).parameters.get("spec")
    annotation = parameter and parameter.annotation
    needed = next((kind for kind in KINDS.values() if annotation in (kind, kind.__name__)), None)
    if needed and not isinstance(spec, needed):
        article = "an" if needed is ImageSpec else "a"
        raise UserError(f"{entry.name} needs {article} {needed.__name__}, as in {example}, not this {type(spec).__name__}")
    return spec


def create_data(name: str | Path, *, batch_size: int = 128, seed: int = 0, **options: object) -> DataModule:
    """Build a LightningDataModule. Nothing is downloaded or read until a Trainer, or you, call ``prepare_data`` and ``setup``.

    Args:
        name: as ``list_data`` shows it, or the path of a folder of images, one folder per class, or of a table of them.
        batch_size: samples per device and batch.
        seed: of splits, order and augmentation.
        options: of the data set, as in ``augment="crop:4,hflip"``.

    Raises:
        UserError: an unknown name or option, or a value of the wrong type.

    Examples:
        >>> data = zoo.create_data("digits", batch_size=64)
    """
    from zoo.config.options import check_options
    from zoo.config.resolution import data_section

    section = data_section(current_registry(), name)
    entry = current_registry().data_set(section.pop("name"))
    chosen = check_options(entry, {**section, **options})
    data: DataModule = entry.load()(_positive("batch_size", batch_size), _whole("seed", seed, 0), **chosen)
    return data
