"""Phrases for things in the world of shapes and the relations between them: the part of grammar that all its texts share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations

from zoo.datamodules.worlds.shapes import COLORS, MARGIN, SHAPES, SIZES, TEXTURES, Thing

ATTRIBUTES = {"size": tuple(SIZES), "color": tuple(COLORS), "texture": TEXTURES, "shape": SHAPES}  # in the order of speech
ATTRIBUTE_OF = {value: name for name, values in ATTRIBUTES.items() for value in values}
RELATIONS = {"left of": ("x", -1), "right of": ("x", 1), "above": ("y", -1), "below": ("y", 1)}

Description = dict[str, str]  # attribute to value, in the order of ATTRIBUTES, with any of them left out


def describe(thing: Thing, names: Iterable[str]) -> Description:
    """What these attributes of the thing are."""
    wanted = set(names)
    return {name: getattr(thing, name) for name in ATTRIBUTES if name in wanted}


def fits(description: Description, thing: Thing) -> bool:
    """Whether the thing has all that the description says."""
    return all(getattr(thing, name) == value for name, value in description.items())


def number_of(description: Description, scene: Sequence[Thing]) -> int:
    """How many things of the scene fit."""
    return sum(fits(description, thing) for thing in scene)


def say(description: Description, several: bool = False) -> str:
    """The phrase without an article: ``small red striped circle``, ``red things``."""
    *adjectives, noun = description.values() if "shape" in description else (*description.values(), "thing")
    return " ".join([*adjectives, (noun + "es" if noun.endswith("s") else noun + "s") if several else noun])


def with_article(phrase: str) -> str:
    """The phrase with ``a`` or ``an`` in front."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def read(phrase: str) -> Description | None:
    """The inverse of ``say`` for one thing; None for what ``say`` does not say."""
    words = phrase.split(" ")
    if words[-1] == "thing":
        words.pop()
    description = {ATTRIBUTE_OF[word]: word for word in words if word in ATTRIBUTE_OF}
    ordered = {name: description[name] for name in ATTRIBUTES if name in description}
    return ordered if say(ordered) == phrase else None


def stands(thing: Thing, relation: str, anchor: Thing) -> bool:
    """Whether the thing is visibly in the relation to the other one: by ``MARGIN`` or more, from center to center."""
    axis, sign = RELATIONS[relation]
    return sign * (getattr(thing, axis) - getattr(anchor, axis)) >= MARGIN


def unique_descriptions(thing: Thing, scene: Sequence[Thing], without: Iterable[str] = ()) -> list[Description]:
    """All that no other thing of the scene fits, shortest first; attributes in ``without`` are not used."""
    names = [name for name in ATTRIBUTES if name not in set(without)]
    subsets = (subset for size in range(1, len(names) + 1) for subset in combinations(names, size))
    return [d for subset in subsets if number_of(d := describe(thing, subset), scene) == 1]
