"""Self-attention, the transformer block and sinusoidal position embeddings, for images as for text.

Sequences are [N, T, embed_dim]: N samples of T tokens.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.core.errors import UserError
from zoo.layers.dropout import dropout as make_dropout
from zoo.layers.stochastic_depth import drop_path

NORM_EPSILON = 1e-6  # as in the code of the vision transformer's authors, and in torchvision


class KeyValueCache(NamedTuple):
    """Keys and values of the tokens so far, [N, num_heads, T, embed_dim / num_heads] each, for decoding step by step.

    Never changed in place: several continuations may share one.
    """

    keys: Tensor
    values: Tensor


class SelfAttention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017, section 3.2.2).

    The rows of ``qkv`` are those of queries, keys and values, each head by head, as in torch.nn.MultiheadAttention.

    Args:
        embed_dim: dimensions of a token.
        num_heads: attention heads; must divide embed_dim.
        causal: mask later tokens.
        dropout: dropout probability of the attention weights.

    Raises:
        UserError: num_heads does not divide embed_dim.
    """

    def __init__(self, embed_dim: int, num_heads: int, causal: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        require_heads(embed_dim, num_heads)
        self.heads, self.causal = num_heads, causal
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim)
        self.out = nn.Linear(embed_dim, embed_dim)
        self.dropout = make_dropout(dropout).p
        xavier_uniform(self.qkv, parts=3)
        xavier_uniform(self.out)

    def forward(self, inputs: Tensor) -> Tensor:
        """[N, T, embed_dim] to [N, T, embed_dim]."""
        return self._attend(*self._project(inputs), past=0)

    def step(self, inputs: Tensor, past: KeyValueCache | None = None) -> tuple[Tensor, KeyValueCache]:
        """Decode any number of tokens after those of ``past``, [N, T, embed_dim]; the same as ``forward`` on the whole."""
        queries, keys, values = self._project(inputs)
        if past is not None:
            keys, values = torch.cat([past.keys, keys], 2), torch.cat([past.values, values], 2)
        return self._attend(queries, keys, values, past=keys.shape[2] - queries.shape[2]), KeyValueCache(keys, values)

    def weights(self, inputs: Tensor) -> Tensor:
        """Attention weights, [N, num_heads, T, T], whose rows sum to one; ``forward`` does not materialize them."""
        queries, keys, _ = self._project(inputs)
        scores = queries @ keys.transpose(2, 3) / math.sqrt(queries.shape[3])
        if self.causal:
            scores = scores.masked_fill(~_causal_mask(inputs.shape[1], 0, inputs.device), -math.inf)
        return scores.softmax(3)

    def _project(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each [N, num_heads, T, embed_dim / num_heads]."""
        return tuple(part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.qkv(inputs).chunk(3, 2))

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor, past: int) -> Tensor:
        length = queries.shape[2]
        # torch's causal mask starts at the first key, so it is right only without a past; a single token attends to all
        mask = _causal_mask(length, past, queries.device) if self.causal and past and length > 1 else None
        attended = F.scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=mask,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=self.causal and not past and length > 1,
        )
        return self.out(attended.transpose(1, 2).flatten(2))


def _causal_mask(length: int, past: int, device: torch.device) -> Tensor:
    """Keys that each query may attend to, bool [length, past + length]."""
    return torch.ones(length, past + length, dtype=torch.bool, device=device).tril(past)


def xavier_uniform(layer: nn.Linear, parts: int = 1) -> None:
    """Initialize a linear layer that holds ``parts`` maps on top of each other: Xavier uniform each, zero bias."""
    for weight in layer.weight.chunk(parts):
        nn.init.xavier_uniform_(weight)
    nn.init.zeros_(layer.bias)


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
    """Transformer encoder block: self-attention and an MLP, each with a norm in front and a residual connection.

    Pre-norm (Xiong et al. 2020, figure 1b), which trains without long warm-up; a stack of blocks needs one more norm at its end.
    The activation is GELU, as in Dosovitskiy et al. 2020, equations 2 and 3.

    Args:
        embed_dim: dimensions of a token.
        num_heads: attention heads; must divide embed_dim.
        hidden_dim: width of the MLP's hidden layer.
        causal: mask later tokens.
        dropout: dropout probability behind the attention and the MLP's layers.
        attention_dropout: dropout probability of the attention weights.
        drop_path_rate: drop probability of each of the two residual branches.

    Raises:
        UserError: num_heads does not divide embed_dim.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        hidden_dim: int,
        causal: bool = False,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.drop_path_rate = drop_path_rate
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
            xavier_uniform(layer)

    def forward(self, inputs: Tensor) -> Tensor:
        """[N, T, embed_dim] to [N, T, embed_dim]."""
        features = inputs + self._dropped(self.dropout(self.attention(self.norm1(inputs))))
        return features + self._dropped(self.mlp(self.norm2(features)))

    def _dropped(self, branch: Tensor) -> Tensor:
        return drop_path(branch, self.drop_path_rate, self.training)

    def step(self, inputs: Tensor, past: KeyValueCache | None = None) -> tuple[Tensor, KeyValueCache]:
        """Decode tokens after those of ``past``, as ``SelfAttention.step`` does."""
        attended, past = self.attention.step(self.norm1(inputs), past)
        features = inputs + self.dropout(attended)
        return features + self.mlp(self.norm2(features)), past


def sinusoidal_positions(length: int, embed_dim: int) -> Tensor:
    """Sinusoidal position embeddings, [length, embed_dim], wavelengths from 2 pi to 20,000 pi (Vaswani et al. 2017, section 3.5).

    Sines and cosines alternate.

    Raises:
        UserError: embed_dim is odd.
    """
    if embed_dim % 2:
        raise UserError(f"model.embed_dim={embed_dim}: sinusoidal positions need an even number, such as {embed_dim + 1}")
    frequencies = torch.exp(torch.arange(0, embed_dim, 2) * (-math.log(10_000.0) / embed_dim))
    angles = torch.arange(length)[:, None] * frequencies
    return torch.stack([angles.sin(), angles.cos()], 2).flatten(1)
