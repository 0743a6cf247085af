"""Writing with a language model: sampling, greedy choice and beam search, one character at a time with the state carried."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.errors import UserError

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


@torch.inference_mode()
def beam_search(decode: Decode, select_rows: SelectRows, prompt: Tensor, length: int, beams: int) -> tuple[Tensor, Tensor]:
    """The likeliest texts of ``length`` characters behind one prompt, [1, T], that are found with ``beams`` of them kept.

    Returns:
        The texts, int64 [beams, length], the likeliest first; and their log-probabilities, [beams].
    """
    scores, state = decode(prompt, None)
    log_probabilities = scores.log_softmax(1)
    total, chosen = log_probabilities[0].topk(min(beams, scores.shape[1]))
    texts = chosen[:, None]
    state = select_rows(state, torch.zeros_like(chosen))
    for _ in range(length - 1):
        scores, state = decode(texts[:, -1:], state)
        candidates = total[:, None] + scores.log_softmax(1)
        total, places = candidates.flatten().topk(min(beams, candidates.numel()))
        rows, characters = places // scores.shape[1], places % scores.shape[1]
        texts = torch.cat([texts[rows], characters[:, None]], 1)
        state = select_rows(state, rows)
    return texts, total
