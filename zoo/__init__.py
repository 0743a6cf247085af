"""bestiary: classic networks and their data under names, trained, resumed and looked into with one command.

The public face. It is light: torch is imported when something is built, not when names are listed.
"""

from __future__ import annotations

from typing import Any

from zoo.core import __version__
from zoo.core.errors import UserError
from zoo.registry.entry import (
    Entry,
    register_augmentation,
    register_data,
    register_loss,
    register_model,
    register_optimizer,
)
from zoo.registry.registry import Registry, scan
from zoo.spec import ImageSpec, Spec, TextSpec

__all__ = [
    "Entry",
    "ImageSpec",
    "Recipe",
    "Registry",
    "TextSpec",
    "UserError",
    "__version__",
    "create",
    "register_augmentation",
    "register_data",
    "register_loss",
    "register_model",
    "register_optimizer",
    "scan",
]


def create(name: str, spec: Spec, recipe: Any = None, **options: Any) -> Any:
    """Build a model of the zoo for data of the given spec.

    Args:
        name: a name that ``zoo list`` shows.
        spec: what the network must fit, as in ``ImageSpec(3, 32, 32, classes=("cat", "dog"))``.
        recipe: how it would be trained; by default the model's own recipe.
        options: the model's own options, as in ``depth=32``.

    Returns:
        The LightningModule, with freshly initialized weights.

    Raises:
        UserError: an unknown name or option, a value of the wrong type, or a spec that the model cannot take.
    """
    from zoo.config.options import check_options
    from zoo.config.recipe import Recipe

    entry = scan().model(name)
    recipe = recipe or Recipe(**entry.recipe)
    return entry.load()(spec, recipe, **check_options(entry, options))


def __getattr__(name: str) -> Any:
    # pydantic takes a fifth of a second to import, which a listing need not pay
    if name == "Recipe":
        from zoo.config.recipe import Recipe

        return Recipe
    raise AttributeError(f"module 'zoo' has no attribute {name!r}")
