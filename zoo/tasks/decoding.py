"""Decoding of autoregressive models with a carried state: sampling, greedy decoding and beam search."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.core.errors import UserError

LEAST_TEMPERATURE = 1e-3  # below, only the most probable character is left, and logits overflow
State = Any
Decode = Callable[[Tensor, State], tuple[Tensor, State]]  # tokens [N, T], state -> scores of the next [N, vocabulary], state
SelectRows = Callable[[State, Tensor], State]  # a state for other rows, by their indices


@dataclass(frozen=True)
class Sampling:
    """Settings of sampling.

    Attributes:
        temperature: divides the logits: below 1, probable characters become more probable.
        top_k: samples from the k most probable characters; 0 from all.
        top_p: samples from the most probable characters that together have this probability (Holtzman et al. 2019).
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not LEAST_TEMPERATURE <= self.temperature < float("inf"):
            raise UserError(
                f"--temperature {self.temperature:g}: must be above 0, from {LEAST_TEMPERATURE:g} on; at 0 decode greedily"
            )
        if self.top_k < 0:
            raise UserError(f"--top-k {self.top_k}: must be 0 (all) or a number of characters")
        if not 0 < self.top_p <= 1:
            raise UserError(f"--top-p {self.top_p:g}: must be above 0 and at most 1")

    def probabilities(self, scores: Tensor) -> Tensor:
        """Probabilities to sample from, [N, vocabulary], for logits of that shape."""
        scores = scores / self.temperature
        if 0 < self.top_k < scores.shape[1]:
            least = scores.topk(self.top_k, dim=1).values[:, -1:]
            scores = scores.masked_fill(scores < least, -torch.inf)
        probabilities = scores.softmax(1)
        if self.top_p < 1:
            ordered, places = probabilities.sort(dim=1, descending=True)
            before = ordered.cumsum(1) - ordered  # of all that are more probable; the most probable always stays
            kept = torch.zeros_like(probabilities).scatter(1, places, ordered * (before < self.top_p))
            probabilities = kept / kept.sum(1, keepdim=True)
        return probabilities


def sample(decode: Decode, prompt: Tensor, length: int, sampling: Sampling, seed: int) -> Iterator[Tensor]:
    """Sample ``length`` characters after a prompt, [N, T], and yield each, int64 [N].

    The same seed gives the same text on every device, since it samples on the CPU.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(scores: Tensor) -> Tensor:
        return torch.multinomial(sampling.probabilities(scores.cpu()), 1, generator=generator)[:, 0]

    return _write(decode, prompt, length, draw)


def greedy(decode: Decode, prompt: Tensor, length: int) -> Iterator[Tensor]:
    """Yield the most probable characters, int64 [N]."""
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
    """Collect the words of several sentences, [N, T], until each has had its ``end``; what follows it is to be ignored."""
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
    """Find the most probable texts of at most ``length`` characters or words after each prompt, [N, T], with ``beams`` beams.

    A wider beam can miss what a narrower one finds, if it drops a prefix of the best text for one that ends worse. The search is
    repeated with every width from 1 to ``beams``, and the most probable text of all comes first: its log-probability never
    decreases with ``beams``, and is at least that of the greedy text.

    Args:
        end: the word that ends a text; without one all have ``length``.

    Returns:
        The texts, int64 [N, beams, T], the most probable first, padded with ``end``; and their log-probabilities,
        [N, beams], which are -inf in place of texts that are not there, as there are fewer than ``beams``.
    """
    first, best = _beam_search(decode, select_rows, prompt, length, 1, end)
    texts, totals = first, best
    for width in range(2, beams + 1):
        texts, totals = _beam_search(decode, select_rows, prompt, length, width, end)
        missed = best[:, 0] > totals[:, 0]
        # more probable than any of this width, it is not among them
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
    total[:, 0] = 0  # all beams are still equal: continue with one of them
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
