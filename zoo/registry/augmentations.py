"""Parsing of augmentations such as ``crop:4,hflip``, before anything heavy is imported."""

from __future__ import annotations

import math

from zoo.core.errors import UserError, unknown
from zoo.registry.entry import Entry
from zoo.registry.registry import Registry

PRESETS = ("none", "light", "standard", "strong")  # defined by each data set
Fraction = float  # an argument of at most 1
Pixels = int  # an argument of at most the shorter side of the images


def parse_augmentation(registry: Registry, description: str) -> list[tuple[Entry, float | None]]:
    """Parse a comma-separated description into transforms with their arguments, None where a transform takes none.

    Raises:
        UserError: an unknown transform, or an argument that is not a positive number.
    """
    if description in PRESETS:
        return []
    items = [item.strip() for item in description.split(",")]
    return [_parse(registry, item) for item in items if item not in ("", "none")]


def _parse(registry: Registry, item: str) -> tuple[Entry, float | None]:
    name, colon, text = item.partition(":")
    known = registry.entries("augmentation")
    if name not in known:
        raise unknown("augmentation", name, [*known, *PRESETS])
    entry = registry.find("augmentation", name)
    if not entry.options:
        if colon:
            raise UserError(f"augmentation {name!r} takes no argument")
        return entry, None
    option = entry.options[0]
    kind = int if option.type in ("int", "Pixels") else float
    try:
        strength = kind(text) if colon else option.default
    except ValueError:
        strength = -1
    is_number = isinstance(strength, (int, float))  # a plugin may give no default, or another
    if not is_number or not 0 < strength < math.inf or (option.type == "Fraction" and strength > 1):
        example = option.default if isinstance(option.default, (int, float)) else 1
        raise UserError(f"augmentation {item!r}: the argument must be a positive {kind.__name__}, as in {name}:{example}")
    return entry, strength
