"""Parsing of augmentations such as ``crop:4,hflip``, before anything heavy is imported."""

from __future__ import annotations

import math
from contextlib import suppress
from itertools import takewhile

from zoo.core.errors import UserError, unknown
from zoo.registry.entry import Entry, Option
from zoo.registry.registry import Registry

PRESETS = ("none", "light", "standard", "strong")  # defined by each data set

# types of arguments by which they are bounded
Fraction = float
Turn = float  # of the color circle, in either direction
Degrees = float
Bits = int
Intensity = int
Magnitude = int  # of the policies
Few = int
Pixels = int  # bounded by the shorter side of the images, which is not known here
LARGEST = {"Fraction": 1, "Turn": 0.5, "Degrees": 180, "Bits": 8, "Intensity": 255, "Magnitude": 30, "Few": 10}
WHOLE = ("int", "Bits", "Intensity", "Magnitude", "Few", "Pixels")


def parse_augmentation(registry: Registry, description: str) -> list[tuple[Entry, dict[str, float]]]:
    """Parse a comma-separated description into transforms with their arguments by name; none for a preset.

    A number after a comma is a further argument of the transform before it, as in ``crop:4,rand:2,9``.

    Raises:
        UserError: an unknown transform, or an argument that is not a positive number or too large.
    """
    if description in PRESETS:
        return []
    items: list[str] = []
    for item in map(str.strip, description.split(",")):
        if _is_number(item):
            if not items or ":" not in items[-1]:
                raise UserError(f"data.augment={description}: {item} has no name: arguments follow a colon, as in crop:4")
            items[-1] += f",{item}"
        elif item not in ("", "none"):
            items.append(item)
    return [_parse(registry, item) for item in items]


def _is_number(text: str) -> bool:
    with suppress(ValueError):
        float(text)
        return True
    return False


def _parse(registry: Registry, item: str) -> tuple[Entry, dict[str, float]]:
    name, colon, text = item.partition(":")
    known = registry.entries("augmentation")
    if name not in known:
        raise unknown("augmentation", name, [*known, *PRESETS])
    entry = registry.find("augmentation", name)
    given = text.split(",") if colon else []
    if len(given) > len(entry.options):
        takes = {0: "no argument", 1: "one argument"}.get(len(entry.options), f"{len(entry.options)} arguments")
        raise UserError(f"augmentation {item!r}: {name} takes {takes}, as in {_example(entry)}")
    values = [*given, *(option.default for option in entry.options[len(given) :])]
    arguments = {}
    for option, value in zip(entry.options, values, strict=True):
        number = _number(option, value) if isinstance(value, str) else value
        if not isinstance(number, (int, float)):  # not a number, or a plugin gives no default, or another
            kind = "int" if option.type in WHOLE else "float"
            most = f" of at most {LARGEST[option.type]}" if option.type in LARGEST else ""
            which = "the argument" if len(entry.options) == 1 else option.name
            raise UserError(f"augmentation {item!r}: {which} must be a positive {kind}{most}, as in {_example(entry)}")
        arguments[option.name] = number
    return entry, arguments


def _number(option: Option, text: str) -> float | None:
    """The number that a text is; None if it is none, or not one that the option takes."""
    with suppress(ValueError):
        number = int(text) if option.type in WHOLE else float(text)
        return number if 0 < number <= LARGEST.get(option.type, math.inf) and number < math.inf else None
    return None


def _example(entry: Entry) -> str:
    """The item with arguments: their defaults, up to the first that means none, or 1."""
    defaults = (option.default if isinstance(option.default, (int, float)) else 1 for option in entry.options)
    return ":".join(filter(None, (entry.name, ",".join(map(str, takewhile(lambda default: default > 0, defaults))))))
