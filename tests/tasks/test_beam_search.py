"""Beam search over several sentences that end: held against greedy choice, against each alone, and against enumeration."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from zoo.tasks.decoding import _beam_search, beam_search, greedy, until

WORDS, END, LENGTH = 5, 0, 6


class Tables:
    """A writer whose next word depends on which sentence it is and on the last two words, by a random table."""

    def __init__(self, sentences: int, seed: int, sharpness: float = 2.0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.scores = sharpness * torch.randn(sentences, WORDS, WORDS, WORDS, generator=generator, dtype=torch.float64)

    def decode(self, tokens: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        which, before = state or (torch.arange(len(tokens)), torch.zeros(len(tokens), dtype=torch.int64))
        return self.scores[which, before, tokens[:, -1]], (which, tokens[:, -1])

    @staticmethod
    def select_rows(state: tuple[Tensor, Tensor], rows: Tensor) -> tuple[Tensor, Tensor]:
        return tuple(part[rows] for part in state)

    def log_probability(self, sentence: int, text: list[int]) -> float:
        total, before, last = 0.0, 0, 1
        for word in text:
            total += float(self.scores[sentence, before, last].log_softmax(0)[word])
            before, last = last, word
            if word == END:
                break
        return total

    def search(self, beams: int, length: int = LENGTH) -> tuple[Tensor, Tensor]:
        prompt = torch.ones(len(self.scores), 1, dtype=torch.int64)
        return beam_search(self.decode, self.select_rows, prompt, length, beams, END)


def up_to_end(text: list[int]) -> tuple[int, ...]:
    return tuple(text[: text.index(END) + 1]) if END in text else tuple(text)


def test_one_beam_is_greedy() -> None:
    tables = Tables(50, seed=0)
    texts, totals = tables.search(1)
    chosen = until(END, greedy(tables.decode, torch.ones(50, 1, dtype=torch.int64), LENGTH))
    for sentence, (beam, other) in enumerate(zip(texts[:, 0].tolist(), chosen.tolist(), strict=True)):
        assert up_to_end(beam) == up_to_end(other)
        assert float(totals[sentence, 0]) == pytest.approx(tables.log_probability(sentence, other))
    assert {len(up_to_end(text)) for text in chosen.tolist()} > {1, 2, LENGTH}, "some end early, and some do not"


def test_the_best_never_falls_as_the_width_grows_where_plain_beam_search_does() -> None:
    tables = Tables(300, seed=1)
    prompt = torch.ones(300, 1, dtype=torch.int64)
    best = [tables.search(width)[1][:, 0] for width in range(1, 7)]
    plain = [_beam_search(tables.decode, tables.select_rows, prompt, LENGTH, width, END)[1][:, 0] for width in range(1, 7)]
    assert any((wide < narrow - 1e-9).any() for narrow, wide in itertools.pairwise(plain)), "or nothing is shown here"
    for narrow, wide, of_plain in zip(best, best[1:], plain[1:], strict=False):
        assert (wide >= narrow).all()
        assert (wide >= of_plain).all()


@pytest.mark.parametrize("beams", [1, 2, 4])
def test_many_sentences_are_found_as_each_by_itself(beams: int) -> None:
    tables = Tables(30, seed=2)
    texts, totals = tables.search(beams)
    for sentence in range(30):
        alone = Tables(30, seed=2)
        alone.scores = alone.scores[sentence : sentence + 1]
        text, total = alone.search(beams)
        torch.testing.assert_close(total[0], totals[sentence])
        assert list(map(up_to_end, text[0].tolist())) == list(map(up_to_end, texts[sentence].tolist()))


def test_texts_are_different_ordered_and_as_likely_as_said() -> None:
    tables = Tables(20, seed=3)
    texts, totals = tables.search(5)
    assert (totals.diff(dim=1) <= 0).all()
    for sentence in range(20):
        found = list(map(up_to_end, texts[sentence].tolist()))
        assert len(set(found)) == 5
        for text, total in zip(found, totals[sentence].tolist(), strict=True):
            assert total == pytest.approx(tables.log_probability(sentence, list(text)))


def test_enough_beams_find_the_likeliest_of_all_sentences() -> None:
    tables = Tables(6, seed=4, sharpness=1.0)
    length = 4
    texts, totals = tables.search(WORDS**3, length)
    for sentence in range(6):
        every = {up_to_end(list(text)) for text in itertools.product(range(WORDS), repeat=length)}
        likely = sorted(((tables.log_probability(sentence, list(text)), text) for text in every), reverse=True)
        assert up_to_end(texts[sentence, 0].tolist()) == likely[0][1]
        assert totals[sentence, :10].tolist() == pytest.approx([total for total, _ in likely[:10]])


def test_texts_that_are_not_there_have_no_probability() -> None:
    texts, totals = Tables(3, seed=5).search(beams=2 * WORDS, length=1)
    assert texts.shape == (3, 2 * WORDS, 1)
    assert totals[:, :WORDS].isfinite().all()
    assert (totals[:, WORDS:] == -torch.inf).all()
