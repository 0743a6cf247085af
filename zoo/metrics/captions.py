"""BLEU, ROUGE-L and CIDEr of captions, in Python alone and equal to pycocoevalcap, which published figures come from.

They belong to a whole set of captions: CIDEr weighs a phrase by how many pictures have it, and BLEU's mean is over all words.
So each process hands in its captions, and the figures are computed from all of them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

Words = Sequence[str]
Phrases = list[Counter]  # how often each phrase of one word, two, three and four is in a sentence

LONGEST = 4  # words in a phrase
SMALL, TINY = 1e-9, 1e-15  # what the reference adds below and above the line of a fraction, against division by zero
BETA = 1.2  # the weight of recall in ROUGE-L
SIGMA = 6.0  # words by which the lengths of two sentences may differ in CIDEr


def caption_scores(hypotheses: Sequence[Words], references: Sequence[Sequence[Words]]) -> dict[str, float]:
    """The figures of captions, in words as ``zoo.text.tokenization.tokenize`` gives them.

    ``bleu1`` to ``bleu4`` and ``rouge_l`` are from 0 to 1, ``cider`` from 0 to 10; more is better. With a single picture
    ``cider`` is 0, since no phrase then tells pictures apart.

    Args:
        hypotheses: for each picture the caption to judge.
        references: for each picture the captions that people gave, at least one.

    Raises:
        ValueError: no pictures, another number of hypotheses than of references, or a picture without references.
    """
    if not hypotheses or len(hypotheses) != len(references) or not all(references):
        raise ValueError(
            f"captions need one hypothesis and some references for each picture: {len(hypotheses)} hypotheses, "
            f"{len(references)} pictures with references, {sum(not some for some in references)} of them empty"
        )
    judged = [_phrases(words) for words in hypotheses]
    given = [[_phrases(words) for words in sentences] for sentences in references]
    return {
        **_bleu(judged, given),
        "rouge_l": _mean([_rouge_l(*pair) for pair in zip(hypotheses, references, strict=True)]),
        "cider": _mean(_cider(judged, given)),
    }


def cider_of_each(hypotheses: Sequence[Words], references: Sequence[Sequence[Words]]) -> list[float]:
    """CIDEr of each caption among all of a set, whose mean is that of ``caption_scores``."""
    return _cider([_phrases(words) for words in hypotheses], [[_phrases(words) for words in some] for some in references])


def _phrases(words: Words) -> Phrases:
    return [Counter(zip(*(words[start:] for start in range(length)), strict=False)) for length in range(1, LONGEST + 1)]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _bleu(judged: Sequence[Phrases], given: Sequence[Sequence[Phrases]]) -> dict[str, float]:
    """``bleu1`` to ``bleu4`` of a set (Papineni et al. 2002), with the length of the reference that is nearest."""
    found, tried = [0] * LONGEST, [0] * LONGEST
    words_judged = words_given = 0
    for hypothesis, sentences in zip(judged, given, strict=True):
        length = hypothesis[0].total()
        words_judged += length
        words_given += min((sentence[0].total() for sentence in sentences), key=lambda other: (abs(other - length), other))
        for place, counts in enumerate(hypothesis):
            tried[place] += counts.total()
            found[place] += sum(
                min(count, max(sentence[place][phrase] for sentence in sentences)) for phrase, count in counts.items()
            )
    ratio = (words_judged + TINY) / (words_given + SMALL)
    brevity = math.exp(min(0.0, 1 - 1 / ratio))
    precisions = [(right + TINY) / (all_ + SMALL) for right, all_ in zip(found, tried, strict=True)]
    return {f"bleu{n}": brevity * math.prod(precisions[:n]) ** (1 / n) for n in range(1, LONGEST + 1)}


def _rouge_l(hypothesis: Words, sentences: Sequence[Words]) -> float:
    """The F-measure of the longest common subsequence (Lin 2004): best precision and best recall over the references."""
    hypothesis = hypothesis or ("",)  # the reference takes an empty sentence for one empty word
    sentences = [words or ("",) for words in sentences]
    common = [_longest_common_subsequence(hypothesis, words) for words in sentences]
    precision = max(common) / len(hypothesis)
    recall = max(length / len(words) for length, words in zip(common, sentences, strict=True))
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision) if recall else 0.0


def _longest_common_subsequence(one: Words, other: Words) -> int:
    former = [0] * (len(other) + 1)
    for word in one:
        lengths = [0]
        for place, candidate in enumerate(other):
            lengths.append(former[place] + 1 if word == candidate else max(lengths[place], former[place + 1]))
        former = lengths
    return former[-1]


def _cider(judged: Sequence[Phrases], given: Sequence[Sequence[Phrases]]) -> list[float]:
    """What the reference calls CIDEr; the paper (Vedantam et al. 2015, 1411.5726, section 7) calls it CIDEr-D."""
    pictures: Counter = Counter()  # in how many a phrase is
    for sentences in given:
        pictures.update({phrase for sentence in sentences for counts in sentence for phrase in counts})
    weights = {phrase: math.log(len(given) / number) for phrase, number in pictures.items()}
    unseen = math.log(len(given))

    def weigh(sentence: Phrases) -> list[dict[tuple[str, ...], float]]:
        return [{phrase: count * weights.get(phrase, unseen) for phrase, count in counts.items()} for counts in sentence]

    def norms(vectors: list[dict[tuple[str, ...], float]]) -> list[float]:
        return [math.sqrt(sum(value * value for value in vector.values())) for vector in vectors]

    scores = []
    for hypothesis, sentences in zip(judged, given, strict=True):
        vectors = weigh(hypothesis)
        lengths = norms(vectors)
        likeness = 0.0
        for sentence in sentences:
            others = weigh(sentence)
            products = (
                sum(min(value, other[phrase]) * other[phrase] for phrase, value in vector.items() if phrase in other)
                for vector, other in zip(vectors, others, strict=True)
            )
            cosines = (
                product / (one * other) if product else 0.0
                for product, one, other in zip(products, lengths, norms(others), strict=True)
            )
            difference = hypothesis[1].total() - sentence[1].total()  # the reference measures lengths in pairs of words
            likeness += sum(cosines) * math.exp(-(difference**2) / (2 * SIGMA**2))
        scores.append(10 * likeness / (LONGEST * len(sentences)))
    return scores
