"""bestiary: classic networks and their data under names, trained, resumed and looked into with one command.

The public face. It is light: torch is imported when something is built, not when names are listed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from zoo.api.names import describe, list_data, list_models
from zoo.core import __version__
from zoo.core.errors import Interrupted, UserError
from zoo.registry.entry import (
    Entry,
    register_augmentation,
    register_data,
    register_loss,
    register_model,
    register_optimizer,
)
from zoo.registry.registry import Registry, scan
from zoo.spec import ImageSpec, TextSpec

if TYPE_CHECKING:
    from zoo.api.build import create_data, create_model
    from zoo.api.search import SearchResult, search
    from zoo.api.trained import TrainedRun, load
    from zoo.api.training import finetune, train
    from zoo.config.recipe import Recipe

__all__ = [
    "Entry",
    "ImageSpec",
    "Interrupted",
    "Recipe",
    "Registry",
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
    "load",
    "register_augmentation",
    "register_data",
    "register_loss",
    "register_model",
    "register_optimizer",
    "scan",
    "search",
    "train",
]

# name -> module, imported when the name is used: a listing need not pay for pydantic, which takes a fifth of a second
_LAZY = {
    "Recipe": "zoo.config.recipe",
    "SearchResult": "zoo.api.search",
    "TrainedRun": "zoo.api.trained",
    "create_data": "zoo.api.build",
    "create_model": "zoo.api.build",
    "finetune": "zoo.api.training",
    "load": "zoo.api.trained",
    "search": "zoo.api.search",
    "train": "zoo.api.training",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'zoo' has no attribute {name!r}")
