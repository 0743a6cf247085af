"""Attention from one sequence to another, and the block of a transformer that writes while it looks."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from zoo.layers.attention import NORM_EPSILON, Past, SelfAttention, require_heads
from zoo.layers.dropout import dropout as make_dropout


class CrossAttention(nn.Module):
    """Multi-head attention of each place of a sequence to all places of another (Vaswani et al. 2017, section 3.2.3).

    Args:
        embed_dim: numbers a place, of both sequences.
        num_heads: how many times it attends, each on width / heads numbers.
        dropout: share of the attention weights that are silenced in training.

    Raises:
        UserError: the heads do not divide the width.
    """

    def __init__(self, embed_dim: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        require_heads(embed_dim, num_heads)
        self.heads = num_heads
        self.query = nn.Linear(embed_dim, embed_dim)
        self.key_value = nn.Linear(embed_dim, 2 * embed_dim)
        self.out = nn.Linear(embed_dim, embed_dim)
        self.dropout = make_dropout(dropout).p
        for weight in (self.query.weight, *self.key_value.weight.chunk(2), self.out.weight):
            nn.init.xavier_uniform_(weight)
        for bias in (self.query.bias, self.key_value.bias, self.out.bias):
            nn.init.zeros_(bias)

    def read(self, memory: Tensor) -> Past:
        """The keys and values of the sequence that is looked at, [N, S, width]: once for all that look."""
        return Past(*(self._heads(part) for part in self.key_value(memory).chunk(2, 2)))

    def forward(self, inputs: Tensor, read: Past) -> Tensor:
        """What each place of [N, T, width] gathers from what was read, [N, T, width]."""
        dropout = self.dropout if self.training else 0.0
        gathered = F.scaled_dot_product_attention(self._heads(self.query(inputs)), *read, dropout_p=dropout)
        return self.out(gathered.transpose(1, 2).flatten(2))

    def weights(self, inputs: Tensor, read: Past) -> Tensor:
        """How much each place takes from each that was read, [N, heads, T, S]; rows sum to one. ``forward`` never makes them."""
        queries = self._heads(self.query(inputs))
        return (queries @ read.keys.transpose(2, 3) / queries.shape[3] ** 0.5).softmax(3)

    def _heads(self, features: Tensor) -> Tensor:
        return features.unflatten(2, (self.heads, -1)).transpose(1, 2)


class DecoderBlock(nn.Module):
    """``TransformerBlock`` with a look at something else in the middle; R sequences look at each of N things.

    That is causal self-attention, attention to what is told of, and a perceptron at each place, each behind a norm and beside a
    shortcut.

    Args:
        embed_dim: numbers a place.
        num_heads: of each attention.
        hidden_dim: width of the MLP's hidden layer.
        dropout: share of what leaves each part that is silenced in training.

    Raises:
        UserError: the heads do not divide the width.
    """

    def __init__(self, embed_dim: int, num_heads: int, hidden_dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim, NORM_EPSILON)
        self.attention = SelfAttention(embed_dim, num_heads, causal=True)
        self.norm2 = nn.LayerNorm(embed_dim, NORM_EPSILON)
        self.look = CrossAttention(embed_dim, num_heads)
        self.norm3 = nn.LayerNorm(embed_dim, NORM_EPSILON)
        self.dropout = make_dropout(dropout)
        self.mlp = nn.Sequential(
            nn.Linear(embed_dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, embed_dim), make_dropout(dropout)
        )
        for layer in (self.mlp[0], self.mlp[2]):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, inputs: Tensor, read: Past, past: Past | None = None) -> tuple[Tensor, Past]:
        """[N * R, T, width] to the same, and what the next places need of these.

        Args:
            inputs: places that follow those of ``past``.
            read: of each of N things that are told of, as ``look.read`` gives it.
            past: of the self-attention.
        """
        attended, past = self.attention.step(self.norm1(inputs), past)
        features = inputs + self.dropout(attended)
        # all that look at one thing look together, so that it is not copied for each
        looking = self.norm2(features).view(len(read.keys), -1, features.shape[2])
        features = features + self.dropout(self.look(looking, read).view_as(features))
        return features + self.mlp(self.norm3(features)), past
