"""BLEU, ROUGE-L and CIDEr, held against figures worked by hand and against pycocoevalcap."""

from __future__ import annotations

import random
from math import exp, sqrt

import pytest

from zoo.metrics.captions import caption_scores

CAT = (["a", "cat", "cat"], [["a", "cat", "sat", "down"], ["the", "cat", "slept"]])
DOG = (["a", "dog"], [["a", "dog", "ran"]])


def scores_of(*pictures):
    return caption_scores([hypothesis for hypothesis, _ in pictures], [sentences for _, sentences in pictures])


def test_bleu_worked_by_hand():
    scores = scores_of(CAT, DOG)
    brevity = exp(1 - 6 / 5)  # 3 + 2 words; of the references nearest in length 3 + 3
    # words: the second "cat" does not count, so 2 of 3, and 2 of 2; pairs: 1 of 2, and 1 of 1; no three in a row
    assert scores["bleu1"] == pytest.approx(brevity * 4 / 5)
    assert scores["bleu2"] == pytest.approx(brevity * sqrt(4 / 5 * 2 / 3))
    assert scores["bleu3"] == pytest.approx(0, abs=1e-4)


def test_bleu_takes_the_nearest_length_and_the_shorter_of_two_that_are_equally_near():
    assert scores_of((["a", "b", "c"], [["a"], ["a", "b", "c", "d"]]))["bleu1"] == pytest.approx(exp(1 - 4 / 3))
    assert scores_of((["a", "b", "c"], [["a", "b"], ["a", "b", "c", "d"]]))["bleu1"] == pytest.approx(1)


def test_rouge_l_worked_by_hand():
    # cat: "a cat" of 3 words and of 4; dog: "a dog" of 2 and of 3
    cat = (1 + 1.44) * (2 / 3) * (1 / 2) / (1 / 2 + 1.44 * 2 / 3)
    dog = (1 + 1.44) * 1 * (2 / 3) / (2 / 3 + 1.44 * 1)
    assert scores_of(CAT, DOG)["rouge_l"] == pytest.approx((cat + dog) / 2)


def test_rouge_l_keeps_the_order_of_words_but_not_gaps():
    precision, recall = 2 / 4, 2 / 3  # "x y", or "y z"
    expected = (1 + 1.44) * precision * recall / (recall + 1.44 * precision)
    assert scores_of((["y", "x", "gap", "z"], [["x", "y", "z"]]))["rouge_l"] == pytest.approx(expected)


def test_cider_worked_by_hand():
    # "a" is with both pictures and weighs log(2/2) = 0; everything else weighs log 2, which cancels out
    length = exp(-1 / 72)  # one pair of words more or fewer, sigma 6
    words, pairs = 1 / (2 * sqrt(3)), 1 / (sqrt(2) * sqrt(3))  # (2 cat) . (cat, sat, down), (a cat, cat cat) . (a cat, ...)
    cat = 10 / 4 * ((words + pairs) * length + words) / 2
    dog = 10 / 4 * (1 / sqrt(2) + 1 / sqrt(2)) * length
    assert scores_of(CAT, DOG)["cider"] == pytest.approx((cat + dog) / 2)


def test_the_very_words_of_people_have_the_highest_figures():
    sentences = ["two dogs run on grass", "one child eats an apple", "some men climb that wall"]
    scores = scores_of(*((sentence.split(), [sentence.split()]) for sentence in sentences))
    assert scores == pytest.approx({"bleu1": 1, "bleu2": 1, "bleu3": 1, "bleu4": 1, "rouge_l": 1, "cider": 10})


def test_a_single_picture_has_no_cider_and_empty_captions_score_nothing():
    assert scores_of(DOG)["cider"] == 0
    assert scores_of(([], DOG[1]), ([], CAT[1])) == pytest.approx(dict.fromkeys(scores_of(DOG), 0), abs=1e-12)


def test_the_order_of_pictures_changes_nothing():
    pictures = random_pictures(random.Random(0), count=40)
    shuffled = random.Random(1).sample(pictures, len(pictures))
    assert scores_of(*pictures) == scores_of(*shuffled)


@pytest.mark.parametrize(("hypotheses", "references"), [([], []), ([["a"]], []), ([["a"]], [[]])])
def test_missing_captions_are_refused(hypotheses, references):
    with pytest.raises(ValueError, match="one hypothesis and some references for each image"):
        caption_scores(hypotheses, references)


def random_pictures(generator, count):
    vocabulary = [f"word{place}" for place in range(generator.choice([2, 5, 30]))]
    longest = generator.choice([3, 8, 15])

    def sentence(unknown=()):
        return [generator.choice([*vocabulary, *unknown]) for _ in range(generator.randint(0, longest))]

    return [
        (sentence(unknown=["never", "seen"]), [sentence() for _ in range(generator.randint(1, 5))] + [vocabulary[:2]])
        for _ in range(count)
    ]


def reference_scores(*pictures):
    bleu = pytest.importorskip("pycocoevalcap.bleu.bleu").Bleu(4)
    rouge = pytest.importorskip("pycocoevalcap.rouge.rouge").Rouge()
    cider = pytest.importorskip("pycocoevalcap.cider.cider").Cider()
    judged = {place: [" ".join(hypothesis)] for place, (hypothesis, _) in enumerate(pictures)}
    given = {place: [" ".join(words) for words in sentences] for place, (_, sentences) in enumerate(pictures)}
    bleus, _ = bleu.compute_score(given, judged, verbose=0)
    return {
        **{f"bleu{n}": score for n, score in enumerate(bleus, start=1)},
        "rouge_l": rouge.compute_score(given, judged)[0],
        "cider": cider.compute_score(given, judged)[0],
    }


@pytest.mark.parametrize("seed", range(40))
def test_random_sentences_score_as_in_the_reference(seed):
    generator = random.Random(seed)
    pictures = random_pictures(generator, count=generator.choice([1, 2, 3, 30]))
    assert scores_of(*pictures) == pytest.approx(reference_scores(*pictures), rel=0, abs=1e-9)


@pytest.mark.parametrize(
    "pictures",
    [
        [CAT],
        [CAT, DOG, DOG],
        [([], DOG[1]), CAT],
        [([], [[]]), CAT],
        [(["a"] * 9, [["a"] * 5, ["a"]]), CAT],
        [(["never", "seen"], DOG[1]), CAT],
        [(DOG[0] * 20, DOG[1]), CAT],
    ],
    ids=["one picture", "the same twice", "empty caption", "empty reference", "repeated words", "unknown words", "long"],
)
def test_edge_cases_score_as_in_the_reference(pictures):
    assert scores_of(*pictures) == pytest.approx(reference_scores(*pictures), rel=0, abs=1e-9)
