"""Specs of sequences: characters and numbers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from zoo.core.errors import UserError, some


@dataclass(frozen=True)
class TextSpec:
    """Text as a sequence of characters, each encoded as its index into ``vocabulary``."""

    vocabulary: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "vocabulary", tuple(self.vocabulary))

    def encode(self, text: str, what: str = "the text") -> list[int]:
        """The index of each character.

        Raises:
            UserError: characters outside the vocabulary; ``what`` names the text in the message.
        """
        places = {character: place for place, character in enumerate(self.vocabulary)}
        if strange := sorted(set(text) - set(places)):
            raise UserError(f"{what} has unknown characters: {some(map(repr, strange))}")
        return [places[character] for character in text]

    def decode(self, places: Iterable[int]) -> str:
        """The inverse of ``encode``."""
        return "".join(self.vocabulary[place] for place in places)


@dataclass(frozen=True)
class SequenceSpec:
    """Sequences of ``length`` steps with ``features`` numbers each, and a target.

    With ``symbols``, the target is one of them at each step, the first of which is the blank. Without, it is one number after the
    last step.
    """

    length: int
    features: int
    symbols: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "symbols", tuple(self.symbols))
