"""Captions of scenes of shapes, and their truth, held against a reading by plain search."""

from __future__ import annotations

import re
from collections import Counter
from statistics import mean

import pytest

from zoo.datamodules.worlds.captions import LONGEST, WORDS, is_true, write_captions
from zoo.datamodules.worlds.shapes import COLORS, SHAPES, SIZES, TEXTURES, Thing

RELATION = re.compile(r" (?:is )?((?:to the )?left of|(?:to the )?right of|above|below|under) ")
CIRCLE, SQUARE = Thing("small", "red", "striped", "circle", 10, 30), Thing("large", "orange", "plain", "square", 40, 50)


@pytest.fixture
def truth(fitting, beside):
    def look(caption: str, scene) -> bool:
        if caption.startswith("only "):
            return len(scene) == len(fitting(caption.removeprefix("only "), scene)) == 1
        first, *rest = RELATION.split(caption.removeprefix("there is "))
        if not rest:
            return bool(fitting(first, scene))
        relation = rest[0].removeprefix("to the ").replace("under", "below")
        return any(one in beside(relation, other, scene) for one in fitting(first, scene) for other in fitting(rest[1], scene))

    return look


def test_every_caption_is_true_and_about_the_two_most_salient_things(scenes, truth, fitting):
    for scene, seed in scenes:
        captions = write_captions(scene, seed)
        assert len(captions) == 5
        for caption in captions:
            assert is_true(caption, scene) and truth(caption, scene)
            parts = RELATION.split(re.sub("^(there is|only) ", "", caption))[::2]
            assert len(parts) == min(len(scene), 2)
            assert all(thing in fitting(part, scene) for thing, part in zip(scene, parts, strict=False))


def test_truth_is_that_of_a_plain_search_also_for_false_captions(scenes, truth):
    verdicts = Counter()
    for (scene, seed), (other, _) in zip(scenes[:500], scenes[1:], strict=False):
        for caption in write_captions(scene, seed, 2):
            for changed in (caption, *_with_one_word_changed(caption)):
                for looked_at in (scene, other):
                    assert is_true(changed, looked_at) == truth(changed, looked_at), changed
                    verdicts[is_true(changed, looked_at), looked_at is scene] += 1
    assert verdicts[True, True] > 500 and verdicts[False, True] > 500 and verdicts[True, False] > 20


def _with_one_word_changed(caption: str):
    """The caption with other values in the place of each, as long as it stays grammatical."""
    for values in (tuple(SIZES), tuple(COLORS), TEXTURES, SHAPES, ("left", "right"), ("above", "below", "under")):
        for place, word in enumerate(words := caption.split()):
            if word in values and word != "orange":
                other = values[(values.index(word) + 1) % len(values)].replace("orange", "red")  # which may follow "a"
                yield " ".join([*words[:place], other, *words[place + 1 :]])


@pytest.mark.parametrize(
    "caption",
    ["a small red striped circle left of an orange square", "a circle is to the left of a large plain square", "a red circle",
     "there is a large orange square below a circle", "an orange square under a small circle", "there is an orange square"],
)  # fmt: skip
def test_what_is_in_the_scene_is_true(caption):
    assert is_true(caption, (CIRCLE, SQUARE))


@pytest.mark.parametrize(
    "caption",
    ["a small red striped circle right of an orange square", "a large circle", "a blue circle", "a red dotted circle", "a cross",
     "a red circle above a circle", "a red circle left of a red circle", "only a red circle", "an orange square above a circle"],
)  # fmt: skip
def test_what_is_not_in_the_scene_is_false(caption):
    assert not is_true(caption, (CIRCLE, SQUARE))


@pytest.mark.parametrize(
    "caption",
    ["", "a", "red circle", "an red circle", "a orange square", "a circle red", "a red", "a red red circle", "a red blue circle",
     "a red  circle", "a red circle left of", "left of a red circle", "a red circle left an orange square", "a a red circle",
     "a red circle is", "there is", "there is a red circle is left of an orange square", "a striped red circle",
     "a small red striped circle left of to an orange square", "<unknown> red circle", "A red circle",
     "a red circle left of an orange square above"],
)  # fmt: skip
def test_what_is_no_sentence_is_false(caption):
    assert not is_true(caption, (CIRCLE, SQUARE))


def test_a_relation_is_true_from_four_units():
    for apart, expected in ((3, False), (4, True)):
        scene = (CIRCLE, SQUARE._replace(x=CIRCLE.x + apart, y=CIRCLE.y + 30))
        assert is_true("a circle left of a square", scene) == is_true("a square right of a circle", scene) == expected


def test_any_two_different_things_will_do():
    twin = CIRCLE._replace(x=50)
    assert is_true("a red circle left of a red circle", (CIRCLE, twin)) and is_true("a circle right of a circle", (CIRCLE, twin))
    assert not is_true("only a red circle", (CIRCLE, twin)) and is_true("only a red circle", (CIRCLE,))


def test_captions_have_all_words_of_the_list_and_no_other_and_vary(scenes):
    written = [write_captions(scene, seed) for scene, seed in scenes]
    assert sorted({word for captions in written for caption in captions for word in caption.split(" ")}) == WORDS
    assert max(len(caption.split()) for captions in written for caption in captions) == LONGEST
    assert mean(len(set(captions)) for captions in written) > 4
    mentioned = [caption.split() for captions in written for caption in captions]
    assert 0.3 < mean(any(texture in words for texture in TEXTURES) for words in mentioned) < 0.95


def test_captions_follow_from_the_seed(scenes):
    scene, seed = scenes[0]
    assert write_captions(scene, seed) == write_captions(scene, seed) != write_captions(scene, seed + 1)
    assert write_captions(scene, seed, 3) == write_captions(scene, seed)[:3]
