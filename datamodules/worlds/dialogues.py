"""Dialogues about scenes in the world of shapes: rounds that speak of it, its shape, and the one to its left."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import NamedTuple

from zoo.core.randomness import derive_seed
from zoo.datamodules.worlds import questions
from zoo.datamodules.worlds.descriptions import ATTRIBUTES, RELATIONS, describe, say, stands, unique_descriptions, with_article
from zoo.datamodules.worlds.shapes import Thing

ANSWERS = questions.ANSWERS  # the candidates, the same for every round
LONGEST = 8  # words in a question, and in a caption
ELLIPSES = {"left of": "to its left", "right of": "to its right", "above": "above it", "below": "below it"}
WORDS = sorted({*questions.WORDS, *["and", "its", "it", "one", "to"]} - {"more", "fewer", "than"})  # all that dialogues have


class Round(NamedTuple):
    """A question without a mark at its end and its answer; ``needs_history`` if the question alone does not say what is meant."""

    question: str
    answer: str
    needs_history: bool


class Dialogue(NamedTuple):
    """A caption, which describes one object uniquely, and the rounds that follow."""

    caption: str
    rounds: tuple[Round, ...]


class _Turn(NamedTuple):
    """A round that could come next, with what it leaves for those after it."""

    round: Round
    topic: Thing | None
    asked: str | None = None  # the attribute that "and the one above it" would ask for
    said: frozenset[str] = frozenset()  # attributes of the topic that are known from then on


class _State(NamedTuple):
    """Where a dialogue stands: the thing that is spoken of, the attribute last asked for, and what was said of each thing."""

    scene: Sequence[Thing]
    topic: Thing | None
    asked: str | None
    known: dict[Thing, set[str]]

    def unknown(self, thing: Thing) -> list[str]:
        return [name for name in ATTRIBUTES if name not in self.known.get(thing, ())]

    def beside(self) -> Iterator[tuple[str, list[Thing]]]:
        """Each relation with the things that stand in it to the topic."""
        for relation in RELATIONS:
            yield relation, [thing for thing in self.scene if stands(thing, relation, self.topic)]


def hold_dialogue(scene: Sequence[Thing], seed: int, rounds: int = 8) -> Dialogue:
    """A dialogue of that many rounds, up to 10, none like an earlier one. What was said of a thing is not asked again.

    Scenes of three things or more give more to ask: draw them with ``fewest=3``.
    """
    random = Random(derive_seed(seed, "dialogue"))
    topic, names = _subject(scene, random)
    caption = f"there is {with_article(say(describe(topic or scene[0], names)))}"
    state = _State(scene, topic, None, {topic or scene[0]: set(names)})
    held: list[Round] = []
    past = set()
    while len(held) < rounds:
        way = random.choices(list(_WAYS), list(_WAYS.values()))[0]
        needs_topic = way not in (_open, _count)
        turns = [] if needs_topic and state.topic is None else way(state, random)
        turns = [turn for turn in turns if (state.topic if needs_topic else None, turn.round.question) not in past]
        if turns:
            turn = random.choice(turns)
            past.add((state.topic if needs_topic else None, turn.round.question))
            held.append(turn.round)
            state.known.setdefault(turn.topic, set()).update(turn.said)
            state = state._replace(topic=turn.topic, asked=turn.asked)
    return Dialogue(caption, tuple(held))


def _subject(scene: Sequence[Thing], random: Random) -> tuple[Thing | None, list[str]]:
    """The object that the caption describes and the attributes that it names; None if every object has a duplicate."""
    options = [
        (thing, list(told)) for thing in scene for told in unique_descriptions(thing, scene) if len(told) < len(ATTRIBUTES)
    ]
    return random.choice(options) if options else (None, list(ATTRIBUTES))


def _about_it(state: _State, random: Random) -> list[_Turn]:
    form = random.choice(("what {} is it", "and its {}"))
    return [
        _Turn(Round(form.format(name), getattr(state.topic, name), True), state.topic, name, frozenset([name]))
        for name in state.unknown(state.topic)
    ]


def _beside_it(state: _State, random: Random) -> list[_Turn]:
    turns = []
    for relation, things in state.beside():
        for thing in things if len(things) == 1 else ():
            for name in state.unknown(thing):
                words = f"and the one {ELLIPSES[relation]}" if name == state.asked else f"what {name} is the thing {relation} it"
                turns.append(_Turn(Round(words, getattr(thing, name), True), thing, name, frozenset([name])))
    return [turn for turn in turns if turn.round.question.startswith("and")] or turns


def _exists_beside_it(state: _State, random: Random) -> list[_Turn]:
    made = questions.exists_beside(state.topic, state.scene, random)
    if made is None:
        return []
    description, relation, answer = made
    return [_Turn(Round(f"is there {with_article(say(description))} {relation} it", answer, True), state.topic)]


def _count_beside_it(state: _State, random: Random) -> list[_Turn]:
    return [
        _Turn(Round(f"how many things are {relation} it", str(len(things)), True), state.topic)
        for relation, things in state.beside()
        if len(state.scene) > 1
    ]


def _open(state: _State, random: Random) -> list[_Turn]:
    """A new topic, by a description that only it fits."""
    thing = random.choice(state.scene)
    turns = []
    for description in unique_descriptions(thing, state.scene) if thing != state.topic else ():
        for name in [name for name in state.unknown(thing) if name not in description]:
            question = f"what {name} is the {say(description)}"
            turns.append(_Turn(Round(question, getattr(thing, name), False), thing, name, frozenset([*description, name])))
    return turns


def _count(state: _State, random: Random) -> list[_Turn]:
    question, answer = questions.count(state.scene, random)
    return [_Turn(Round(question, answer, False), state.topic)]


# how often each way of going on is tried
_WAYS = {_about_it: 4, _beside_it: 4, _exists_beside_it: 1, _count_beside_it: 1, _open: 2, _count: 1}
