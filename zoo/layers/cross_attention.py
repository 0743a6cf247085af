"""Cross-attention, and the transformer decoder block."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from zoo.layers.attention import NORM_EPSILON, KeyValueCache, SelfAttention, require_heads, xavier_uniform
from zoo.layers.dropout import dropout as make_dropout


class CrossAttention(nn.Module):
    """Multi-head attention of one sequence to another, the memory (Vaswani et al. 2017, section 3.2.3).

    Args:
        embed_dim: dimensions of a token of either sequence.
        num_heads: attention heads; must divide embed_dim.

    Raises:
        UserError: num_heads does not divide embed_dim.
    """

    def __init__(self, embed_dim: int, num_heads: int) -> None:
        super().__init__()
        require_heads(embed_dim, num_heads)
        self.heads = num_heads
        self.query = nn.Linear(embed_dim, embed_dim)
        self.key_value = nn.Linear(embed_dim, 2 * embed_dim)
        self.out = nn.Linear(embed_dim, embed_dim)
        xavier_uniform(self.query)
        xavier_uniform(self.key_value, parts=2)
        xavier_uniform(self.out)

    def project(self, memory: Tensor) -> KeyValueCache:
        """Keys and values of the memory, [N, S, embed_dim], computed once for all queries."""
        return KeyValueCache(*(self._heads(part) for part in self.key_value(memory).chunk(2, 2)))

    def forward(self, inputs: Tensor, memory: KeyValueCache) -> Tensor:
        """[N, T, embed_dim] to [N, T, embed_dim]."""
        attended = F.scaled_dot_product_attention(self._heads(self.query(inputs)), *memory)
        return self.out(attended.transpose(1, 2).flatten(2))

    def weights(self, inputs: Tensor, memory: KeyValueCache) -> Tensor:
        """Attention weights, [N, num_heads, T, S], whose rows sum to one; ``forward`` does not materialize them."""
        queries = self._heads(self.query(inputs))
        return (queries @ memory.keys.transpose(2, 3) / queries.shape[3] ** 0.5).softmax(3)

    def _heads(self, features: Tensor) -> Tensor:
        return features.unflatten(2, (self.heads, -1)).transpose(1, 2)


class DecoderBlock(nn.Module):
    """Transformer decoder block: causal self-attention, cross-attention to a memory, and an MLP; pre-norm, residual.

    R sequences may attend to each of N memories.

    Args:
        embed_dim: dimensions of a token.
        num_heads: attention heads; must divide embed_dim.
        hidden_dim: width of the MLP's hidden layer.
        dropout: dropout probability behind each part.

    Raises:
        UserError: num_heads does not divide embed_dim.
    """

    def __init__(self, embed_dim: int, num_heads: int, hidden_dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim, NORM_EPSILON)
        self.attention = SelfAttention(embed_dim, num_heads, causal=True)
        self.norm2 = nn.LayerNorm(embed_dim, NORM_EPSILON)
        self.cross_attention = CrossAttention(embed_dim, num_heads)
        self.norm3 = nn.LayerNorm(embed_dim, NORM_EPSILON)
        self.dropout = make_dropout(dropout)
        self.mlp = nn.Sequential(
            nn.Linear(embed_dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, embed_dim), make_dropout(dropout)
        )
        for layer in (self.mlp[0], self.mlp[2]):
            xavier_uniform(layer)

    def forward(self, inputs: Tensor, memory: KeyValueCache, past: KeyValueCache | None = None) -> tuple[Tensor, KeyValueCache]:
        """[N * R, T, embed_dim] to the same, and the self-attention's cache with these tokens added.

        Args:
            inputs: tokens that follow those of ``past``.
            memory: of each of N samples, as ``cross_attention.project`` returns it.
            past: cache of the self-attention.
        """
        attended, past = self.attention.step(self.norm1(inputs), past)
        features = inputs + self.dropout(attended)
        # all sequences of one memory side by side, so that it is not copied for each
        queries = self.norm2(features).view(len(memory.keys), -1, features.shape[2])
        features = features + self.dropout(self.cross_attention(queries, memory).view_as(features))
        return features + self.mlp(self.norm3(features)), past
