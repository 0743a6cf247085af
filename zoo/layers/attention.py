"""Attention, the block of a transformer around it, and encodings that tell it where things stand.

Sequences are [N, T, width]: N samples of T places. Both readers of images and writers of text are made of these.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.core.errors import UserError
from zoo.layers.dropout import dropout as make_dropout

NORM_EPSILON = 1e-6  # of the vision transformer's own code, and of torchvision's


class Past(NamedTuple):
    """What attention keeps of the places that it has read, so that the next ones are read without reading these again.

    Each is [N, heads, places, width / heads]. It is never changed in place: several continuations may share one.
    """

    keys: Tensor
    values: Tensor


class SelfAttention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017, section 3.2.2).

    The rows of ``qkv`` are those of the queries, the keys and the values, each head by head, as in torch.nn.MultiheadAttention.

    Args:
        embed_dim: numbers a place.
        num_heads: how many times it attends, each on width / heads numbers.
        causal: each place sees itself and those before it only.
        dropout: share of the attention weights that are silenced in training.

    Raises:
        UserError: the heads do not divide the width.
    """

    def __init__(self, embed_dim: int, num_heads: int, causal: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        require_heads(embed_dim, num_heads)
        self.heads, self.causal = num_heads, causal
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim)
        self.out = nn.Linear(embed_dim, embed_dim)
        self.dropout = make_dropout(dropout).p
        for weight in (*self.qkv.weight.chunk(3), self.out.weight):  # each of the three maps by itself
            nn.init.xavier_uniform_(weight)
        for bias in (self.qkv.bias, self.out.bias):
            nn.init.zeros_(bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """What each place gathers from all that it sees, [N, T, width]."""
        return self._attend(*self._project(inputs), past=0)

    def step(self, inputs: Tensor, past: Past | None = None) -> tuple[Tensor, Past]:
        """The same for places that follow those of ``past``, in decoding: any number of them, [N, T, width].

        Fed in parts, a sequence gives what ``forward`` gives for the whole.
        """
        queries, keys, values = self._project(inputs)
        if past is not None:
            keys, values = torch.cat([past.keys, keys], 2), torch.cat([past.values, values], 2)
        return self._attend(queries, keys, values, past=keys.shape[2] - queries.shape[2]), Past(keys, values)

    def weights(self, inputs: Tensor) -> Tensor:
        """How much each place takes from each, [N, heads, T, T]; rows sum to one. To look at: ``forward`` never makes them."""
        queries, keys, _ = self._project(inputs)
        scores = queries @ keys.transpose(2, 3) / math.sqrt(queries.shape[3])
        if self.causal:
            scores = scores.masked_fill(~_visible(inputs.shape[1], 0, inputs.device), -math.inf)
        return scores.softmax(3)

    def _project(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each [N, heads, T, width / heads]."""
        return tuple(part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.qkv(inputs).chunk(3, 2))

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor, past: int) -> Tensor:
        places = queries.shape[2]
        # torch's own causal mask starts at the first key, so it is right only without a past; a single place sees all
        mask = _visible(places, past, queries.device) if self.causal and past and places > 1 else None
        gathered = F.scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=mask,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=self.causal and not past and places > 1,
        )
        return self.out(gathered.transpose(1, 2).flatten(2))


def _visible(places: int, past: int, device: torch.device) -> Tensor:
    """Which of past + places keys each of the last ``places`` may see, bool [places, past + places]."""
    return torch.ones(places, past + places, dtype=torch.bool, device=device).tril(past)


def require_heads(embed_dim: int, num_heads: int) -> None:
    """Check that the heads divide the embedding dimension.

    Raises:
        UserError: with the nearest values that fit.
    """
    if embed_dim < 1:
        raise UserError(f"model.embed_dim={embed_dim}: must be at least 1")
    if num_heads < 1 or embed_dim % num_heads:
        divisors = [number for number in range(1, embed_dim + 1) if embed_dim % number == 0]
        nearest = min(divisors, key=lambda number: abs(number - num_heads))
        wider = f", or set model.embed_dim={num_heads * max(1, round(embed_dim / num_heads))}" if num_heads > 0 else ""
        raise UserError(
            f"model.num_heads={num_heads}: must divide model.embed_dim={embed_dim}; the nearest divisor is {nearest}{wider}"
        )


class TransformerBlock(nn.Module):
    """Self-attention and a perceptron at each place, each behind a norm and beside a shortcut.

    The norms stand in front (pre-norm, Xiong et al. 2020, figure 1b), which trains without a careful warm-up; so a stack of
    blocks needs one more norm at its end. The activation is GELU, as in Dosovitskiy et al. 2020, equations 2 and 3.

    Args:
        embed_dim: numbers a place.
        num_heads: of the attention.
        hidden_dim: width of the MLP's hidden layer.
        causal: each place sees itself and those before it only.
        dropout: share of what leaves the attention and the perceptron's layers that is silenced in training.
        attention_dropout: share of the attention weights.

    Raises:
        UserError: the heads do not divide the width.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        hidden_dim: int,
        causal: bool = False,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim, NORM_EPSILON)
        self.attention = SelfAttention(embed_dim, num_heads, causal, attention_dropout)
        self.dropout = make_dropout(dropout)
        self.norm2 = nn.LayerNorm(embed_dim, NORM_EPSILON)
        self.mlp = nn.Sequential(
            nn.Linear(embed_dim, hidden_dim),
            nn.GELU(),
            make_dropout(dropout),
            nn.Linear(hidden_dim, embed_dim),
            make_dropout(dropout),
        )
        for layer in (self.mlp[0], self.mlp[3]):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """[N, T, width] to [N, T, width]."""
        features = inputs + self.dropout(self.attention(self.norm1(inputs)))
        return features + self.mlp(self.norm2(features))

    def step(self, inputs: Tensor, past: Past | None = None) -> tuple[Tensor, Past]:
        """The same for places that follow those of ``past``, as ``SelfAttention.step``."""
        attended, past = self.attention.step(self.norm1(inputs), past)
        features = inputs + self.dropout(attended)
        return features + self.mlp(self.norm2(features)), past


def sinusoidal_positions(length: int, embed_dim: int) -> Tensor:
    """A fixed code for each place, [length, embed_dim]: sine and cosine in turn, of wavelengths from 2 pi to 20,000 pi.

    Vaswani et al. 2017, section 3.5.

    Raises:
        UserError: an odd width.
    """
    if embed_dim % 2:
        raise UserError(f"model.embed_dim={embed_dim}: sinusoidal positions need an even number, as {embed_dim + 1}")
    frequencies = torch.exp(torch.arange(0, embed_dim, 2) * (-math.log(10_000.0) / embed_dim))
    angles = torch.arange(length)[:, None] * frequencies
    return torch.stack([angles.sin(), angles.cos()], 2).flatten(1)
