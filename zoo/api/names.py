"""Names and descriptions of models and data sets, without torch."""

from __future__ import annotations

from zoo.core.errors import UserError, unknown
from zoo.registry.entry import Entry
from zoo.registry.listing import matches, matching
from zoo.registry.registry import current_registry
from zoo.training.trained_models import TrainedModel, trained_models


def list_models(pattern: str = "", *, task: str = "", pretrained: bool = False, trained: bool = False) -> list[str]:
    """List the names of models.

    Args:
        pattern: part of a name or tag, or a glob such as ``resnet*``; empty for all.
        task: such as ``classification``; empty for all.
        pretrained: list weights of ImageNet from the zoo, torchvision and timm, for ``finetune`` and ``load``.
        trained: list trained models that come along, for ``load``, ``finetune`` and ``create_model``.

    Raises:
        UserError: there is no such task.

    Examples:
        >>> zoo.list_models("resnet*")  # ["resnet18", "resnet20", ...]
    """
    if trained:
        return [model.name for model in find_trained_models(pattern, task)]
    _require_task(task)
    registry = current_registry()
    task = registry.models_task(task)
    if not pretrained:
        return [entry.name for entry in matching(registry.models.values(), pattern, task)]
    from zoo.training.weights.backbones import find_backbones

    return [backbone.name for backbone in find_backbones(registry, pattern)] if task in ("", "classification") else []


def find_trained_models(pattern: str = "", task: str = "") -> list[TrainedModel]:
    """The trained models that come along and match; the arguments are those of ``list_models``."""
    _require_task(task)
    registry = current_registry()
    found = (model for name, model in trained_models().items() if matches(pattern, name))
    return [model for model in found if task in ("", registry.task_of(model.model, model.data_set))]


def list_data(pattern: str = "", *, task: str = "") -> list[str]:
    """List the names of data sets; the arguments are those of ``list_models``.

    Examples:
        >>> zoo.list_data(task="captioning")  # ["shapes-captions", ...]
    """
    _require_task(task)
    return [entry.name for entry in matching(current_registry().data.values(), pattern, task)]


def _require_task(task: str) -> None:
    registry = current_registry()
    known = {*(entry.task for entry in registry.models.values()), *registry.entries("task")}
    if task and task not in known:
        raise unknown("task", task, known)


def find_model(name: str) -> Entry:
    """The model of that name, to train.

    Raises:
        UserError: there is none; with what trains a trained model further, if it is one.
    """
    registry = current_registry()
    if name in trained_models() and name not in registry.models:
        model = trained_models()[name].model
        raise UserError(f"{name} is trained: to train it further, zoo finetune {name}; to train another, zoo train {model}")
    return registry.model(name)


def describe(name: str) -> Entry:
    """Describe a model or a data set: its options, recipe, default data, tags and paper.

    Raises:
        UserError: there is none of that name.

    Examples:
        >>> zoo.describe("resnet20").recipe  # {"epochs": 60, ...}
    """
    registry = current_registry()
    return registry.data_set(name) if name in registry.data and name not in registry.models else registry.model(name)
