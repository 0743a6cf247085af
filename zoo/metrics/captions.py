"""BLEU, ROUGE-L and CIDEr in pure Python, equal to pycocoevalcap, the reference implementation.

They are corpus-level: CIDEr weighs n-grams by document frequency, and BLEU pools counts over all captions. So captions
are gathered from all processes first.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

Words = Sequence[str]
NGrams = list[Counter]  # counts of 1-grams to 4-grams of a sentence

MAX_N = 4
SMALL, TINY = 1e-9, 1e-15  # added to denominators and numerators, as in the reference
BETA = 1.2  # weight of recall in ROUGE-L
SIGMA = 6.0  # of CIDEr's Gaussian penalty on length differences


def caption_scores(hypotheses: Sequence[Words], references: Sequence[Sequence[Words]]) -> dict[str, float]:
    """Corpus-level metrics of captions, tokenized as by ``zoo.text.tokenization.tokenize``.

    ``bleu1`` to ``bleu4`` and ``rouge_l`` are in [0, 1], ``cider`` in [0, 10]; higher is better. For a single image ``cider`` is
    0, as every n-gram has the inverse document frequency 0.

    Args:
        hypotheses: a caption for each image.
        references: reference captions of each image, at least one.

    Raises:
        ValueError: no images, different numbers of hypotheses and references, or an image without references.
    """
    if not hypotheses or len(hypotheses) != len(references) or not all(references):
        raise ValueError(
            f"captions need one hypothesis and some references for each image: {len(hypotheses)} hypotheses, "
            f"{len(references)} images with references, {sum(not some for some in references)} of them empty"
        )
    candidates = [_ngrams(words) for words in hypotheses]
    given = [[_ngrams(words) for words in sentences] for sentences in references]
    return {
        **_bleu(candidates, given),
        "rouge_l": _mean([_rouge_l(*pair) for pair in zip(hypotheses, references, strict=True)]),
        "cider": _mean(_cider(candidates, given)),
    }


def cider_of_each(hypotheses: Sequence[Words], references: Sequence[Sequence[Words]]) -> list[float]:
    """CIDEr of each caption in a corpus; their mean is that of ``caption_scores``."""
    return _cider([_ngrams(words) for words in hypotheses], [[_ngrams(words) for words in some] for some in references])


def _ngrams(words: Words) -> NGrams:
    return [Counter(zip(*(words[start:] for start in range(length)), strict=False)) for length in range(1, MAX_N + 1)]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _bleu(candidates: Sequence[NGrams], given: Sequence[Sequence[NGrams]]) -> dict[str, float]:
    """``bleu1`` to ``bleu4`` of a corpus (Papineni et al. 2002), with the closest reference length."""
    found, tried = [0] * MAX_N, [0] * MAX_N
    words_candidate = words_given = 0
    for hypothesis, sentences in zip(candidates, given, strict=True):
        length = hypothesis[0].total()
        words_candidate += length
        words_given += min((sentence[0].total() for sentence in sentences), key=lambda other: (abs(other - length), other))
        for n, counts in enumerate(hypothesis):
            tried[n] += counts.total()
            found[n] += sum(min(count, max(sentence[n][ngram] for sentence in sentences)) for ngram, count in counts.items())
    ratio = (words_candidate + TINY) / (words_given + SMALL)
    brevity = math.exp(min(0.0, 1 - 1 / ratio))
    precisions = [(right + TINY) / (all_ + SMALL) for right, all_ in zip(found, tried, strict=True)]
    return {f"bleu{n}": brevity * math.prod(precisions[:n]) ** (1 / n) for n in range(1, MAX_N + 1)}


def _rouge_l(hypothesis: Words, sentences: Sequence[Words]) -> float:
    """The F-measure of the longest common subsequence (Lin 2004): best precision and best recall over the references."""
    hypothesis = hypothesis or ("",)  # as in the reference implementation
    sentences = [words or ("",) for words in sentences]
    common = [_longest_common_subsequence(hypothesis, words) for words in sentences]
    precision = max(common) / len(hypothesis)
    recall = max(length / len(words) for length, words in zip(common, sentences, strict=True))
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision) if recall else 0.0


def _longest_common_subsequence(one: Words, other: Words) -> int:
    former = [0] * (len(other) + 1)
    for word in one:
        lengths = [0]
        for i, candidate in enumerate(other):
            lengths.append(former[i] + 1 if word == candidate else max(lengths[i], former[i + 1]))
        former = lengths
    return former[-1]


def _cider(candidates: Sequence[NGrams], given: Sequence[Sequence[NGrams]]) -> list[float]:
    """CIDEr as in the reference implementation, which the paper (Vedantam et al. 2015, 1411.5726, section 7) calls CIDEr-D."""
    images: Counter = Counter()  # document frequency of each n-gram
    for sentences in given:
        images.update({ngram for sentence in sentences for counts in sentence for ngram in counts})
    weights = {ngram: math.log(len(given) / number) for ngram, number in images.items()}
    unseen = math.log(len(given))

    def weigh(sentence: NGrams) -> list[dict[tuple[str, ...], float]]:
        return [{ngram: count * weights.get(ngram, unseen) for ngram, count in counts.items()} for counts in sentence]

    def norms(vectors: list[dict[tuple[str, ...], float]]) -> list[float]:
        return [math.sqrt(sum(value * value for value in vector.values())) for vector in vectors]

    scores = []
    for hypothesis, sentences in zip(candidates, given, strict=True):
        vectors = weigh(hypothesis)
        lengths = norms(vectors)
        similarity = 0.0
        for sentence in sentences:
            others = weigh(sentence)
            products = (
                sum(min(value, other[ngram]) * other[ngram] for ngram, value in vector.items() if ngram in other)
                for vector, other in zip(vectors, others, strict=True)
            )
            cosines = (
                product / (one * other) if product else 0.0
                for product, one, other in zip(products, lengths, norms(others), strict=True)
            )
            difference = hypothesis[1].total() - sentence[1].total()  # in bigrams, as in the reference implementation
            similarity += sum(cosines) * math.exp(-(difference**2) / (2 * SIGMA**2))
        scores.append(10 * similarity / (MAX_N * len(sentences)))
    return scores
