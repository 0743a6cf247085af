"""Writing, one character or word at a time with the state carried: sampling, greedy choice and beam search."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.core.errors import UserError

LEAST_TEMPERATURE = 1e-3  # below, only the likeliest character is left, and scores overflow
State = Any
Decode = Callable[[Tensor, State], tuple[Tensor, State]]  # tokens [N, T], state -> scores of the next [N, vocabulary], state
SelectRows = Callable[[State, Tensor], State]  # a state for other rows, by their indices


@dataclass(frozen=True)
class Sampling:
    """How the next character is drawn.

    Attributes:
        temperature: scores are divided by it: below 1 the likely becomes likelier.
        top_k: only so many of the likeliest characters; 0 takes all.
        top_p: only the likeliest characters that together have this probability (Holtzman et al. 2019).
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not LEAST_TEMPERATURE <= self.temperature < float("inf"):
            raise UserError(
                f"--temperature {self.temperature:g}: must be above 0, from {LEAST_TEMPERATURE:g} on; "
                "--greedy takes the likeliest character"
            )
        if self.top_k < 0:
            raise UserError(f"--top-k {self.top_k}: must be 0 (all) or a number of characters")
        if not 0 < self.top_p <= 1:
            raise UserError(f"--top-p {self.top_p:g}: must be above 0 and at most 1")

    def probabilities(self, scores: Tensor) -> Tensor:
        """What is drawn from, [N, vocabulary], for scores of that shape."""
        scores = scores / self.temperature
        if 0 < self.top_k < scores.shape[1]:
            least = scores.topk(self.top_k, dim=1).values[:, -1:]
            scores = scores.masked_fill(scores < least, -torch.inf)
        probabilities = scores.softmax(1)
        if self.top_p < 1:
            ordered, places = probabilities.sort(dim=1, descending=True)
            before = ordered.cumsum(1) - ordered  # of all that are likelier; the likeliest always stays
            kept = torch.zeros_like(probabilities).scatter(1, places, ordered * (before < self.top_p))
            probabilities = kept / kept.sum(1, keepdim=True)
        return probabilities


def sample(decode: Decode, prompt: Tensor, length: int, sampling: Sampling, seed: int) -> Iterator[Tensor]:
    """Draw ``length`` characters behind a prompt, [N, T], yielding each, int64 [N], as it is drawn.

    The same seed gives the same text on every device: what is drawn from is brought to the CPU.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(scores: Tensor) -> Tensor:
        return torch.multinomial(sampling.probabilities(scores.cpu()), 1, generator=generator)[:, 0]

    return _write(decode, prompt, length, draw)


def greedy(decode: Decode, prompt: Tensor, length: int) -> Iterator[Tensor]:
    """The likeliest character each time, int64 [N]."""
    return _write(decode, prompt, length, lambda scores: scores.argmax(1).cpu())


@torch.inference_mode()
def _write(decode: Decode, prompt: Tensor, length: int, choose: Callable[[Tensor], Tensor]) -> Iterator[Tensor]:
    tokens, state = prompt, None
    for _ in range(length):
        scores, state = decode(tokens, state)
        chosen = choose(scores)
        yield chosen
        tokens = chosen[:, None].to(prompt.device)


def until(end: int, words: Iterator[Tensor]) -> Tensor:
    """The words of several sentences, [N, T], drawn until each sentence has had its ``end``; what is behind it means nothing."""
    drawn: list[Tensor] = []
    ended: Tensor | bool = False
    for word in words:
        drawn.append(word)
        ended = ended | (word == end)
        if ended.all():
            break
    return torch.stack(drawn, 1)


@torch.inference_mode()
def beam_search(
    decode: Decode, select_rows: SelectRows, prompt: Tensor, length: int, beams: int, end: int | None = None
) -> tuple[Tensor, Tensor]:
    """The likeliest texts of at most ``length`` characters or words behind each prompt, [N, T], that ``beams`` find.

    A wider beam can miss what a narrower one finds, when it drops the beginning of the best text for one that ends worse. So the
    search is done with every width from 1 to ``beams``, and the likeliest text that any of them found comes first: its
    log-probability never falls as ``beams`` grows, and is at least that of the greedy text.

    Args:
        end: the word that ends a text; without one all have ``length``.

    Returns:
        The texts, int64 [N, beams, T], the likeliest first, filled up with ``end`` behind their end; and their log-probabilities,
        [N, beams], which are -inf in place of texts that are not there, as there are fewer than ``beams``.
    """
    first, best = _beam_search(decode, select_rows, prompt, length, 1, end)
    texts, totals = first, best
    for width in range(2, beams + 1):
        texts, totals = _beam_search(decode, select_rows, prompt, length, width, end)
        missed = best[:, 0] > totals[:, 0]
        # likelier than the likeliest of this width, it is not among them
        with_it = torch.cat([first[:, :1], texts[:, :-1]], 1), torch.cat([best[:, :1], totals[:, :-1]], 1)
        texts = torch.where(missed[:, None, None], with_it[0], texts)
        totals = torch.where(missed[:, None], with_it[1], totals)
        first, best = texts[:, :1], totals[:, :1]
    return texts, totals


def _beam_search(
    decode: Decode, select_rows: SelectRows, prompt: Tensor, length: int, beams: int, end: int | None
) -> tuple[Tensor, Tensor]:
    """Plain beam search with one width; the texts have ``length``."""
    count = len(prompt)
    scores, state = decode(prompt, None)
    size = scores.shape[1]
    firsts = torch.arange(count, device=prompt.device)[:, None] * beams  # the first row of each prompt
    copies = (firsts // beams).expand(-1, beams).flatten()
    scores, state = scores[copies], select_rows(state, copies)
    total = torch.full((count, beams), -torch.inf, device=scores.device)
    total[:, 0] = 0  # all beams are the same still: one of them is gone on with
    texts = torch.full((count, beams, length), 0 if end is None else end, device=prompt.device)
    ended = torch.zeros(count, beams, dtype=torch.bool, device=prompt.device)
    for place in range(length):
        grown = total[:, :, None] + scores.log_softmax(1).view(count, beams, size)
        if end is not None:  # a text that has ended stays as it is
            stays = torch.full_like(grown, -torch.inf)
            stays[:, :, end] = total
            grown = torch.where(ended[:, :, None], stays, grown)
        total, chosen = grown.flatten(1).topk(beams)
        parents, words = chosen // size, chosen % size
        texts = texts.gather(1, parents[:, :, None].expand(-1, -1, length))
        texts[:, :, place] = words
        if place + 1 == length:
            break
        if end is not None:
            ended = words == end
            if ended.all():
                break
        rows = (firsts + parents).flatten()
        scores, state = decode(words.view(-1, 1), select_rows(state, rows))
    return texts, total
