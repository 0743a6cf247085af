"""Classes of a data set, found among those of a network by their names."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from zoo.core.errors import UserError, some

IMAGENET_CLASSES = 1000


def match_classes(own: Sequence[str], names: Sequence[str], what: str) -> list[int]:
    """The place of each class of a data set among those of a network, by name: any of its synonyms, or its WordNet identifier.

    Args:
        own: names of the network's classes, synonyms separated by commas.
        names: names in the data set.
        what: the data set, for the message.

    Raises:
        UserError: a name is none of the network's, with the nearest one, or two are of the same class.
    """
    places: dict[str, int] = {}
    synsets = _synsets() if len(own) == IMAGENET_CLASSES else []  # the order of ImageNet-1k is the same everywhere
    for alias_of in (lambda place: (own[place],), lambda place: own[place].split(","), lambda place: synsets[place : place + 1]):
        for place in range(len(own)):
            for alias in alias_of(place):
                places.setdefault(_plain(alias), place)
    for name in names:
        if _plain(name) not in places:
            near = difflib.get_close_matches(_plain(name), places, n=1, cutoff=0.5)
            hint = f"; the nearest is {own[places[near[0]]]!r}" if near else ""
            raise UserError(f"{what} has the class {name!r}, but the model was trained on {some(own)}{hint}: rename or omit it")
    found = [places[_plain(name)] for name in names]
    for place in found:
        if found.count(place) > 1:
            alike = [name for name, other in zip(names, found, strict=True) if other == place]
            raise UserError(f"{what} has the classes {some(alike)}, which the model knows as one, {own[place]!r}: join them")
    return found


def _plain(name: str) -> str:
    """A class name as folders may spell it."""
    return " ".join(name.replace("_", " ").replace("-", " ").lower().split())


def _synsets() -> list[str]:
    """The WordNet identifiers of ImageNet's 1000 classes, as in n01440764; none without timm, which has them."""
    try:
        from timm.data import ImageNetInfo
    except ImportError:
        return []
    return ImageNetInfo().label_names()
