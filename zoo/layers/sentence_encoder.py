"""A sentence encoder: max-pooling over the hidden states of an LSTM."""

from __future__ import annotations

from torch import Tensor, nn

from zoo.config.options import require_positive
from zoo.spec import PAD


class SentenceEncoder(nn.Module):
    """LSTM sentence encoder with max-pooling over time (Conneau et al. 2017).

    The last state alone hardly depends on words in the middle before training, such as the color in a question.

    Args:
        vocabulary: number of words.
        embed_dim: dimensions of a word embedding.
        hidden_size: dimensions of the encoding.
    """

    def __init__(self, vocabulary: int, embed_dim: int, hidden_size: int) -> None:
        super().__init__()
        require_positive(embed_dim=embed_dim, hidden_size=hidden_size)
        self.embedding = nn.Embedding(vocabulary, embed_dim, padding_idx=PAD)
        self.recurrent = nn.LSTM(embed_dim, hidden_size, batch_first=True)

    def forward(self, words: Tensor) -> Tensor:
        """int64 [..., L], padded with ``PAD``, to [..., hidden_size]; zeros for an empty sentence."""
        sentences = words.flatten(0, -2)
        states, _ = self.recurrent(self.embedding(sentences))
        is_word = (sentences != PAD)[..., None]
        pooled = states.masked_fill(~is_word, -1).amax(1) * is_word.any(1)  # -1 is below all states
        return pooled.unflatten(0, words.shape[:-1])
