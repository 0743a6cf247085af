"""Captions of scenes in the world of shapes, and the truth of any caption, one that a network wrote among them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from random import Random

from zoo.core.randomness import derive_seed
from zoo.datamodules.worlds.descriptions import (
    ATTRIBUTE_OF,
    RELATIONS,
    Description,
    describe,
    fits,
    read,
    say,
    stands,
    with_article,
)
from zoo.datamodules.worlds.shapes import Thing

PHRASES = {  # how a relation is said
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "above": ("above",),
    "below": ("below", "under"),
}
MEANS = {phrase: relation for relation, phrases in PHRASES.items() for phrase in phrases}
FORMS_OF_TWO = ("{} {} {}", "{} is {} {}", "there is {} {} {}")
FORMS_OF_ONE = ("{}", "there is {}", "only {}")  # the last says that there is nothing else
SAID = {"size": 0.7, "color": 1.0, "texture": 0.6, "shape": 1.0}  # how often a caption mentions each attribute of a thing
LONGEST = 16  # words in a caption
WORDS = sorted(
    {"a", "an", *ATTRIBUTE_OF}.union(*(text.replace("{}", "").split() for text in (*MEANS, *FORMS_OF_ONE, *FORMS_OF_TWO)))
)  # all that captions have


def write_captions(scene: Sequence[Thing], seed: int, number: int = 5) -> list[str]:
    """That many sentences, each about the two most salient things and where one stands; or about the only one.

    They differ in form, in the attributes that they mention, and at times in the axis of the relation, which else is the one
    along which the two are further apart. Two of them may be the same.
    """
    random = Random(derive_seed(seed, "captions"))
    return [_write(scene, random) for _ in range(number)]


def _write(scene: Sequence[Thing], random: Random) -> str:
    mentioned = ([name for name, often in SAID.items() if random.random() < often] for _ in scene[:2])
    phrases = [with_article(say(describe(thing, names))) for thing, names in zip(scene, mentioned, strict=False)]
    if len(scene) == 1:
        return random.choice(FORMS_OF_ONE).format(phrases[0])
    first, second = scene[:2]
    wider_than_high = abs(first.x - second.x) >= abs(first.y - second.y)
    axis = "x" if wider_than_high == (random.random() < 0.8) else "y"
    relation = next(name for name in RELATIONS if RELATIONS[name][0] == axis and stands(first, name, second))
    return random.choice(FORMS_OF_TWO).format(phrases[0], random.choice(PHRASES[relation]), phrases[1])


def is_true(caption: str, scene: Sequence[Thing]) -> bool:
    """Whether every attribute and relation that the caption states holds in the scene, of some two different things.

    False too for a caption that has none of the forms, or an attribute twice or out of order, or ``a`` where it should be ``an``.
    """
    return any(_holds(form, caption, scene) for form in (*FORMS_OF_ONE, *FORMS_OF_TWO))


def _holds(form: str, caption: str, scene: Sequence[Thing]) -> bool:
    before, *between = form.split("{}")
    if not caption.startswith(before):
        return False
    stated = caption.removeprefix(before)
    if form in FORMS_OF_ONE:
        description = _read(stated)
        alone = before != "only " or len(scene) == 1
        return description is not None and alone and any(fits(description, thing) for thing in scene)
    for phrase, relation in MEANS.items():
        first, found, second = stated.partition(f"{between[0]}{phrase} ")
        descriptions = _read(first), _read(second)
        if found and None not in descriptions:
            return any(
                fits(descriptions[0], one) and fits(descriptions[1], other) and stands(one, relation, other)
                for one, other in permutations(scene, 2)
            )
    return False


def _read(phrase: str) -> Description | None:
    """The description in a phrase with its article."""
    description = read(phrase.partition(" ")[2])
    return description if description is not None and with_article(say(description)) == phrase else None
