"""Questions about scenes in the world of shapes, each with a one-word answer that is better looked up than guessed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from random import Random
from typing import NamedTuple

from zoo.core.randomness import derive_seed
from zoo.datamodules.worlds.descriptions import (
    ATTRIBUTE_OF,
    ATTRIBUTES,
    RELATIONS,
    Description,
    describe,
    fits,
    number_of,
    say,
    stands,
    unique_descriptions,
    with_article,
)
from zoo.datamodules.worlds.shapes import MOST, Thing

ANSWERS = ("yes", "no", *map(str, range(MOST + 1)), *(value for values in ATTRIBUTES.values() for value in values))
ATTEMPTS = 8  # at a question of one kind, which not every scene allows
LONGEST = 13  # words in a question
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


class Question(NamedTuple):
    """A question in words without a mark at its end, its answer, and which of ``KINDS`` it is."""

    words: str
    answer: str
    kind: str


def ask_questions(scene: Sequence[Thing], seed: int, number: int = 6) -> list[Question]:
    """That many different questions, of all kinds that the scene allows as evenly as can be, in random order."""
    random = Random(derive_seed(seed, "questions"))
    found: dict[str, Question] = {}
    kinds: list[str] = []
    while len(found) < number:
        kinds = kinds or random.sample(list(KINDS), len(KINDS))
        kind = kinds.pop()
        made = next(filter(None, (KINDS[kind](scene, random) for _ in range(ATTEMPTS))), None)
        if made is not None:
            found.setdefault(made[0], Question(*made, kind))
    return random.sample(list(found.values()), number)


def _attribute(scene: Sequence[Thing], random: Random) -> tuple[str, str] | None:
    """``what color is the small circle``"""
    name, thing = random.choice(list(ATTRIBUTES)), random.choice(scene)
    descriptions = unique_descriptions(thing, scene, without=[name])
    if not descriptions:
        return None
    return f"what {name} is the {say(random.choice(descriptions))}", getattr(thing, name)


def _exists(scene: Sequence[Thing], random: Random) -> tuple[str, str] | None:
    """``is there a red circle``: one that is there, or the same with another value of one attribute that is not."""
    names = random.sample(list(ATTRIBUTES), 2)
    there = describe(random.choice(scene), names)
    changed = [there | {names[0]: value} for value in ATTRIBUTES[names[0]]]
    missing = [description for description in changed if not number_of(description, scene)]
    if not missing:
        return None
    answer = random.choice(("yes", "no"))
    return f"is there {with_article(say(there if answer == 'yes' else random.choice(missing)))}", answer


def count(scene: Sequence[Thing], random: Random) -> tuple[str, str]:
    """``how many red things are there``: all numbers that the scene has are about as frequent."""
    by_number: dict[int, list[Description]] = {}
    for description in [{}, *({name: value} for name, values in ATTRIBUTES.items() for value in values)]:
        by_number.setdefault(number_of(description, scene), []).append(description)
    number = random.choice(list(by_number))
    return f"how many {say(random.choice(by_number[number]), several=True)} are there", str(number)


def _related_attribute(scene: Sequence[Thing], random: Random) -> tuple[str, str] | None:
    """``what color is the circle left of the large square``, where there are other circles, but not left of it."""
    if len(scene) < 2:
        return None
    anchor, thing = random.sample(range(len(scene)), 2)
    anchor, thing = scene[anchor], scene[thing]
    relation = random.choice([relation for relation in RELATIONS if stands(thing, relation, anchor)])
    name = random.choice(list(ATTRIBUTES))
    related = [other for other in scene if stands(other, relation, anchor)]
    descriptions = [describe(thing, names) for names in [(), *((other,) for other in ATTRIBUTES if other != name)]]
    descriptions = [some for some in descriptions if number_of(some, related) == 1 < number_of(some, scene)]
    anchors = unique_descriptions(anchor, scene)
    if not descriptions or not anchors:
        return None
    phrase, of = say(random.choice(descriptions)), say(random.choice(anchors))
    return f"what {name} is the {phrase} {relation} the {of}", getattr(thing, name)


def _related_exists(scene: Sequence[Thing], random: Random) -> tuple[str, str] | None:
    """``is there a circle left of the large square``"""
    anchor = random.choice(scene)
    anchors = unique_descriptions(anchor, scene)
    made = exists_beside(anchor, scene, random)
    if made is None or not anchors:
        return None
    description, relation, answer = made
    return f"is there {with_article(say(description))} {relation} the {say(random.choice(anchors))}", answer


def exists_beside(anchor: Thing, scene: Sequence[Thing], random: Random) -> tuple[Description, str, str] | None:
    """One attribute and a relation that some other thing has, or none has though one has the opposite; and which: yes or no."""
    options = [
        (description, relation)
        for name in random.sample(list(ATTRIBUTES), 1)
        for description in ({name: value} for value in ATTRIBUTES[name])
        for relation in RELATIONS
        if _has(description, relation, anchor, scene) and not _has(description, OPPOSITE[relation], anchor, scene)
    ]
    if not options:
        return None
    description, relation = random.choice(options)
    return random.choice([(description, relation, "yes"), (description, OPPOSITE[relation], "no")])


def _has(description: Description, relation: str, anchor: Thing, scene: Sequence[Thing]) -> bool:
    return any(fits(description, thing) and stands(thing, relation, anchor) for thing in scene)


def _compare(scene: Sequence[Thing], random: Random) -> tuple[str, str] | None:
    """``are there more circles than squares``, where one number is larger."""
    values = ATTRIBUTES[name := random.choice(list(ATTRIBUTES))]
    pairs = [pair for pair in combinations(values, 2) if len({number_of({name: value}, scene) for value in pair}) == 2]
    if not pairs:
        return None
    pair = random.choice(pairs)
    one, other = random.sample([{name: value} for value in pair], 2)
    comparison = random.choice(("more", "fewer"))
    larger = number_of(one, scene) > number_of(other, scene)
    answer = "yes" if larger == (comparison == "more") else "no"
    return f"are there {comparison} {say(one, several=True)} than {say(other, several=True)}", answer


KINDS: dict[str, Callable[[Sequence[Thing], Random], tuple[str, str] | None]] = {
    "attribute": _attribute,
    "exists": _exists,
    "count": count,
    "related attribute": _related_attribute,
    "related exists": _related_exists,
    "compare": _compare,
}
WORDS = sorted(
    {"a", "an", "the", "what", "is", "there", "how", "many", "are", "more", "fewer", "than", "thing"}
    | {say({"shape": shape}, several=True) for shape in ATTRIBUTES["shape"]}
    | {say({}, several=True), *ATTRIBUTES, *ATTRIBUTE_OF, *" ".join(RELATIONS).split()}
)  # all that questions have
