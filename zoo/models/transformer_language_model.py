"""A transformer that reads and writes characters, on the attention that the vision transformer has too."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from zoo.config.recipe import Recipe
from zoo.core.errors import UserError
from zoo.layers.attention import Past, TransformerBlock
from zoo.layers.dropout import dropout as make_dropout
from zoo.registry.entry import register_model
from zoo.spec import TextSpec
from zoo.tasks.language_modeling import LanguageModel, State

INITIAL_DEVIATION = 0.02  # of embeddings and positions (Radford et al. 2018, section 4.1)


@register_model(
    "char-transformer",
    task="language-modeling",
    tags=["attention"],
    data="pydoc",
    data_options={"order": "windows", "seq_len": 128},
    tiny={"embed_dim": 16, "num_layers": 2, "num_heads": 2},
    recipe={
        "epochs": 12, "batch_size": 64, "optimizer": "adamw", "optimizer_args": {"betas": [0.9, 0.99]}, "lr": 2e-3,
        "weight_decay": 0.1, "gradient_clip_val": 1.0, "schedule": "one-cycle",
    },
    paper="1706.03762",
)  # fmt: skip
class CharTransformer(LanguageModel):
    """Transformer over characters: causal self-attention with the norm in front, as in GPT-2 (Radford et al. 2019).

    It carries no state from chunk to chunk: each is read by itself, so ``data.seq_len`` is what it can look back on.

    Args:
        num_layers: blocks of attention and perceptron.
        num_heads: of each attention; they share the width.
        embed_dim: numbers a character.
        context_length: the longest text that it can look at, as each place has an encoding of its own that is learned.
        dropout: share of units silenced in training.
    """

    def __init__(
        self,
        spec: TextSpec,
        recipe: Recipe,
        num_layers: int = 4,
        num_heads: int = 4,
        embed_dim: int = 128,
        context_length: int = 128,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(spec, recipe)
        if min(num_layers, context_length) < 1:
            raise UserError(f"model.num_layers={num_layers}, model.context_length={context_length}: both must be at least 1")
        self.context_length = context_length
        self.embedding = nn.Embedding(len(spec.vocabulary), embed_dim)
        self.positions = nn.Embedding(context_length, embed_dim)
        self.dropout = make_dropout(dropout)
        self.blocks = nn.ModuleList(
            TransformerBlock(embed_dim, num_heads, 4 * embed_dim, causal=True, dropout=dropout, attention_dropout=dropout)
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(embed_dim)
        self.head = nn.Linear(embed_dim, len(spec.vocabulary), bias=False)
        for table in (self.embedding, self.positions, self.head):
            nn.init.normal_(table.weight, std=INITIAL_DEVIATION)

    def check_data_options(self, data: Any) -> None:
        if not 0 < data.seq_len <= self.context_length:
            instead = f"data.seq_len={self.context_length}" + (f" or model.context_length={data.seq_len}" if data.seq_len else "")
            raise UserError(
                f"data.seq_len={data.seq_len}: must be from 1 to model.context_length={self.context_length}: {instead} fits"
            )

    def forward(self, tokens: Tensor, state: State = None) -> tuple[Tensor, State]:
        features = self._embedded(tokens, first=0)
        for block in self.blocks:
            features = block(features)
        return self.head(self.norm(features)), None

    def decode(self, tokens: Tensor, state: State = None, cached: bool = True) -> tuple[Tensor, State]:
        """Scores of the character after the last one, [N, vocabulary], and the state: what was read, and its keys and values.

        When the context is full, the newer half of it is read again as a new beginning: the encodings of places cannot move.

        Args:
            cached: without, everything is read again at each step, for the same scores.
        """
        text, pasts = state or (tokens[:, :0], None)
        text = torch.cat([text, tokens], 1)
        if text.shape[1] > self.context_length:
            text, pasts = text[:, -max(1, self.context_length // 2) :], None
        unread = tokens if pasts else text
        features = self._embedded(unread, first=text.shape[1] - unread.shape[1])
        kept: list[Past] = []
        for block, past in zip(self.blocks, pasts or [None] * len(self.blocks), strict=True):
            features, past = block.step(features, past)
            kept.append(past)
        return self.head(self.norm(features[:, -1])).float(), (text, kept if cached else None)

    @staticmethod
    def select_rows(state: State, rows: Tensor) -> State:
        text, pasts = state
        return text[rows], pasts and [Past(past.keys[rows], past.values[rows]) for past in pasts]

    def _embedded(self, tokens: Tensor, first: int) -> Tensor:
        """Characters and their places, counted from ``first``, as vectors [N, T, width]."""
        places = torch.arange(first, first + tokens.shape[1], device=tokens.device)
        return self.dropout(self.embedding(tokens) + self.positions(places))

    def stages(self) -> dict[str, nn.Module]:
        blocks = {f"block{number}": block for number, block in enumerate(self.blocks, 1)}
        return {"embedding": nn.ModuleList([self.embedding, self.positions]), **blocks, "norm": self.norm, "head": self.head}
