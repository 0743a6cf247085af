"""A sentence as one vector: the last state of an LSTM over its words."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo.errors import UserError
from zoo.spec import PAD


class SentenceEncoder(nn.Module):
    """Embeds the words of sentences and reads them with an LSTM.

    Args:
        vocabulary: words that there are.
        embedding: numbers in the vector of a word.
        hidden: numbers in the vector of a sentence.
    """

    def __init__(self, vocabulary: int, embedding: int, hidden: int) -> None:
        super().__init__()
        if min(embedding, hidden) < 1:
            raise UserError(f"model.embedding={embedding}, model.hidden={hidden}: both must be at least 1")
        self.embedding = nn.Embedding(vocabulary, embedding, padding_idx=PAD)
        self.recurrent = nn.LSTM(embedding, hidden, batch_first=True)

    def forward(self, words: Tensor) -> Tensor:
        """int64 [..., L], filled up with ``PAD``, to [..., hidden]; zeros for a sentence without a word."""
        sentences = words.flatten(0, -2)
        # all are read to the end, and the state behind the last word is taken: to stop there, lengths would have to be known
        # outside the device
        states, _ = self.recurrent(self.embedding(sentences))
        length = (sentences != PAD).sum(1)
        rows = torch.arange(len(sentences), device=words.device)
        last = states[rows, (length - 1).clamp(min=0)] * (length > 0)[:, None]
        return last.unflatten(0, words.shape[:-1])
