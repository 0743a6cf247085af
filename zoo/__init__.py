"""bestiary: classic networks and their data under names, trained, resumed and looked into with one command.

The public face. It is light: nothing is imported before it is used, and torch only when something is built.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from zoo.core import __version__

if TYPE_CHECKING:
    from zoo.api.build import create_data, create_model
    from zoo.api.names import describe, list_data, list_models
    from zoo.api.runs import RunSummary, list_runs
    from zoo.api.search import SearchResult, search
    from zoo.api.trained import TrainedRun, load
    from zoo.api.training import finetune, train
    from zoo.config.recipe import Recipe
    from zoo.core.errors import Interrupted, UserError
    from zoo.registry.entry import (
        Entry,
        register_augmentation,
        register_data,
        register_logger,
        register_loss,
        register_model,
        register_optimizer,
        register_task,
    )
    from zoo.registry.registry import Registry, scan
    from zoo.spec import ImageSpec, MultiLabelSpec, RegressionSpec, TextSpec

__all__ = [
    "Entry",
    "ImageSpec",
    "MultiLabelSpec",
    "RegressionSpec",
    "Interrupted",
    "Recipe",
    "Registry",
    "RunSummary",
    "SearchResult",
    "TextSpec",
    "TrainedRun",
    "UserError",
    "__version__",
    "create_data",
    "create_model",
    "describe",
    "finetune",
    "list_data",
    "list_models",
    "list_runs",
    "load",
    "register_augmentation",
    "register_data",
    "register_logger",
    "register_loss",
    "register_model",
    "register_optimizer",
    "register_task",
    "scan",
    "search",
    "train",
]

# name -> module, imported when the name is used: the command owns the signals before anything else is imported, and a listing
# need not pay for pydantic, which takes a fifth of a second
_LAZY = {
    "Entry": "zoo.registry.entry",
    "ImageSpec": "zoo.spec",
    "MultiLabelSpec": "zoo.spec",
    "RegressionSpec": "zoo.spec",
    "Interrupted": "zoo.core.errors",
    "Recipe": "zoo.config.recipe",
    "Registry": "zoo.registry.registry",
    "RunSummary": "zoo.api.runs",
    "SearchResult": "zoo.api.search",
    "TextSpec": "zoo.spec",
    "TrainedRun": "zoo.api.trained",
    "UserError": "zoo.core.errors",
    "create_data": "zoo.api.build",
    "create_model": "zoo.api.build",
    "describe": "zoo.api.names",
    "finetune": "zoo.api.training",
    "list_data": "zoo.api.names",
    "list_models": "zoo.api.names",
    "list_runs": "zoo.api.runs",
    "load": "zoo.api.trained",
    "register_augmentation": "zoo.registry.entry",
    "register_data": "zoo.registry.entry",
    "register_logger": "zoo.registry.entry",
    "register_loss": "zoo.registry.entry",
    "register_model": "zoo.registry.entry",
    "register_optimizer": "zoo.registry.entry",
    "register_task": "zoo.registry.entry",
    "scan": "zoo.registry.registry",
    "search": "zoo.api.search",
    "train": "zoo.api.training",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'zoo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
