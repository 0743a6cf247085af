"""Dialogues about scenes of shapes, followed by a listener who keeps in mind what was spoken of."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from statistics import mean

import pytest

from zoo.datamodules.worlds.captions import is_true
from zoo.datamodules.worlds.dialogues import ANSWERS, LONGEST, WORDS, hold_dialogue
from zoo.datamodules.worlds.shapes import draw_scenes

RELATION = "left of|right of|above|below"
ELLIPSIS = {"to its left": "left of", "to its right": "right of", "above it": "above", "below it": "below"}


@pytest.fixture(scope="module")
def crowded() -> list:
    drawn = draw_scenes(0, "train", range(1000), fewest=3)
    return list(zip(drawn.things(), drawn.key.tolist(), strict=True))


@pytest.fixture
def listen(fitting, beside):
    def follow(dialogue, scene) -> list[tuple[str, object, str | None]]:
        """The answer to each round, with the thing and the attribute that it asks for."""

        def only(things: list):
            assert len(things) == 1, "what is meant must be one thing"
            return things[0]

        topic, asked, heard = only(fitting(dialogue.caption.removeprefix("there is "), scene)), None, []
        for question in (each.question for each in dialogue.rounds):
            if found := re.fullmatch(r"(?:what (\w+) is it|and its (\w+))", question):
                asked = found[1] or found[2]
            elif found := re.fullmatch(rf"what (\w+) is the thing ({RELATION}) it", question):
                asked, topic = found[1], only(beside(found[2], topic, scene))
            elif found := re.fullmatch(rf"and the one ({'|'.join(ELLIPSIS)})", question):
                assert asked
                topic = only(beside(ELLIPSIS[found[1]], topic, scene))
            elif found := re.fullmatch(r"what (\w+) is the (.+)", question):
                asked, topic = found[1], only(fitting(found[2], scene))
            else:
                asked = None
                if found := re.fullmatch(rf"is there an? (.+) ({RELATION}) it", question):
                    answer = "yes" if fitting(found[1], beside(found[2], topic, scene)) else "no"
                elif found := re.fullmatch(rf"how many things are ({RELATION}) it", question):
                    answer = str(len(beside(found[1], topic, scene)))
                else:
                    answer = str(len(fitting(re.fullmatch(r"how many (.+) are there", question)[1], scene)))
            heard.append((getattr(topic, asked) if asked else answer, topic, asked))
        return heard

    return follow


def test_a_listener_who_remembers_can_answer_every_round(crowded, listen):
    for scene, seed in crowded:
        dialogue = hold_dialogue(scene, seed)
        assert len(dialogue.rounds) == 8 and is_true(dialogue.caption, scene)
        for each, (answer, _, _) in zip(dialogue.rounds, listen(dialogue, scene), strict=True):
            assert each.answer == answer and answer in ANSWERS
            assert each.needs_history == bool({"it", "its"} & set(each.question.split()))
    assert len(set(ANSWERS)) == len(ANSWERS) >= 20


def test_no_attribute_is_asked_that_was_said_before(crowded, listen, fitting):
    for scene, seed in crowded:
        dialogue = hold_dialogue(scene, seed)
        said = {(thing, word) for thing in fitting(dialogue.caption.removeprefix("there is "), scene) for word in thing[:4]
                if word in dialogue.caption.split()}  # fmt: skip
        for each, (answer, topic, asked) in zip(dialogue.rounds, listen(dialogue, scene), strict=True):
            if asked:
                assert (topic, answer) not in said
                said |= {(topic, word) for word in topic[:4] if word in (answer, *each.question.split())}


def test_the_same_words_about_the_same_picture_have_different_answers(crowded):
    different = total = 0
    for scene, seed in crowded[:60]:
        answers = defaultdict(set)
        for again in range(30):
            for each in hold_dialogue(scene, seed + again).rounds:
                answers[each.needs_history, each.question].add(each.answer)
        assert all(len(given) == 1 for (needs_history, _), given in answers.items() if not needs_history)
        needing = [given for (needs_history, question), given in answers.items() if needs_history and "and" in question]
        different += sum(len(given) > 1 for given in needing)
        total += len(needing)
    assert different > 0.6 * total


def test_most_rounds_need_the_history_and_their_words_do_not_give_them_away(crowded):
    rounds = [each for scene, seed in crowded for each in hold_dialogue(scene, seed).rounds]
    assert 0.5 < mean(each.needs_history for each in rounds) < 0.85
    by_words = defaultdict(Counter)
    for each in rounds:
        if each.needs_history:
            by_words[each.question][each.answer] += 1
    common = [answers for answers in by_words.values() if answers.total() >= 20]
    assert sum(max(answers.values()) for answers in common) < 0.5 * sum(answers.total() for answers in common)


def test_dialogues_have_all_words_of_the_list_and_no_other(crowded):
    held = [hold_dialogue(scene, seed, 10) for scene, seed in crowded]
    texts = [text.split(" ") for dialogue in held for text in (dialogue.caption, *(each.question for each in dialogue.rounds))]
    assert sorted({word for text in texts for word in text}) == WORDS
    assert max(map(len, texts)) == LONGEST


def test_a_dialogue_follows_from_the_seed_and_any_scene_has_one(crowded, scenes):
    scene, seed = crowded[0]
    assert hold_dialogue(scene, seed) == hold_dialogue(scene, seed) != hold_dialogue(scene, seed + 1)
    for scene, seed in [(scene, seed) for scene, seed in scenes if len(scene) < 3][:200]:
        assert len(hold_dialogue(scene, seed, 10).rounds) == 10
    thing = crowded[0][0][0]
    twins = (thing, thing._replace(x=thing.x + 30, y=thing.y + 10))
    assert len(hold_dialogue(twins, 0).rounds) == 8 and is_true(hold_dialogue(twins, 0).caption, twins)
