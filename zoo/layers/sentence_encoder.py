"""A sentence as one vector: the most that each unit of an LSTM says at any of its words."""

from __future__ import annotations

from torch import Tensor, nn

from zoo.core.errors import UserError
from zoo.spec import PAD


class SentenceEncoder(nn.Module):
    """Embeds the words of sentences and reads them with an LSTM; of each unit, the highest state counts (Conneau et al. 2017).

    In the last state alone, a word in the middle, such as the color of what is asked for, is hardly there before training.

    Args:
        vocabulary: words that there are.
        embed_dim: numbers in the vector of a word.
        hidden_size: numbers in the vector of a sentence.
    """

    def __init__(self, vocabulary: int, embed_dim: int, hidden_size: int) -> None:
        super().__init__()
        if min(embed_dim, hidden_size) < 1:
            raise UserError(f"model.embed_dim={embed_dim}, model.hidden_size={hidden_size}: both must be at least 1")
        self.embedding = nn.Embedding(vocabulary, embed_dim, padding_idx=PAD)
        self.recurrent = nn.LSTM(embed_dim, hidden_size, batch_first=True)

    def forward(self, words: Tensor) -> Tensor:
        """int64 [..., L], filled up with ``PAD``, to [..., hidden]; zeros for a sentence without a word."""
        sentences = words.flatten(0, -2)
        states, _ = self.recurrent(self.embedding(sentences))
        is_word = (sentences != PAD)[..., None]
        most = states.masked_fill(~is_word, -1).amax(1) * is_word.any(1)  # -1 is below all states
        return most.unflatten(0, words.shape[:-1])
