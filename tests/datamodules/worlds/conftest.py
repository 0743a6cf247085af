"""What the tests of texts share: scenes, and a reading of phrases that knows nothing of how they are written."""

from __future__ import annotations

import pytest

from zoo.datamodules.worlds.shapes import draw_scenes

NOUNS = {"thing", "things", "one"}


@pytest.fixture(scope="session")
def fitting():
    """``fitting("small red circles", scene)``: the things that have every word of the phrase."""

    def find(phrase: str, scene) -> list:
        words = [word for word in phrase.split() if word not in NOUNS | {"a", "an", "the"}]
        singular = {"circles": "circle", "squares": "square", "triangles": "triangle", "crosses": "cross"}
        return [thing for thing in scene if all(singular.get(word, word) in thing[:4] for word in words)]

    return find


@pytest.fixture(scope="session")
def beside():
    """``beside("left of", anchor, scene)``: the things that lie there, by four units of the plane or more."""

    def find(relation: str, anchor, scene) -> list:
        reaches = {
            "left of": lambda thing: anchor.x - thing.x,
            "right of": lambda thing: thing.x - anchor.x,
            "above": lambda thing: anchor.y - thing.y,
            "below": lambda thing: thing.y - anchor.y,
        }
        return [thing for thing in scene if reaches[relation](thing) >= 4]

    return find


@pytest.fixture(scope="session")
def scenes() -> list:
    """Two thousand scenes as things, each with the seed of its words."""
    drawn = draw_scenes(0, "train", range(2000))
    return list(zip(drawn.things(), drawn.key.tolist(), strict=True))
