"""A character-level transformer language model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from zoo.config.options import require_positive
from zoo.config.recipe import Recipe
from zoo.core.errors import UserError
from zoo.layers.attention import KeyValueCache, TransformerBlock
from zoo.layers.dropout import dropout as make_dropout
from zoo.layers.stochastic_depth import drop_path_rates
from zoo.registry.entry import register_model
from zoo.spec import TextSpec
from zoo.tasks.language_modeling import LanguageModel, State

INITIAL_STD = 0.02  # of embeddings (Radford et al. 2018, section 4.1)


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
    """Character-level transformer, as in GPT-2: causal, pre-norm, with learned position embeddings (Radford et al. 2019).

    No state is carried from one chunk to the next, so ``data.seq_len`` bounds the context in training.

    Args:
        num_layers: number of transformer blocks.
        num_heads: attention heads of each block; must divide embed_dim.
        embed_dim: dimensions of a character embedding.
        context_length: maximum number of characters attended to.
        dropout: dropout probability.
        drop_path_rate: stochastic depth: drop probability of the last residual branch, to which it rises from the first.
    """

    def __init__(
        self,
        spec: TextSpec,
        recipe: Recipe | None = None,
        num_layers: int = 4,
        num_heads: int = 4,
        embed_dim: int = 128,
        context_length: int = 128,
        dropout: float = 0.1,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__(spec, recipe)
        require_positive(num_layers=num_layers, context_length=context_length)
        self.context_length = context_length
        self.embedding = nn.Embedding(len(spec.vocabulary), embed_dim)
        self.positions = nn.Embedding(context_length, embed_dim)
        self.dropout = make_dropout(dropout)
        self.blocks = nn.ModuleList(
            TransformerBlock(embed_dim, num_heads, 4 * embed_dim, True, dropout, attention_dropout=dropout, drop_path_rate=rate)
            for rate in drop_path_rates(drop_path_rate, num_layers)
        )
        self.norm = nn.LayerNorm(embed_dim)
        self.head = nn.Linear(embed_dim, len(spec.vocabulary), bias=False)
        for table in (self.embedding, self.positions, self.head):
            nn.init.normal_(table.weight, std=INITIAL_STD)

    def check_data_options(self, data: Any) -> None:
        if not 0 < data.seq_len <= self.context_length:
            instead = f"data.seq_len={self.context_length}" + (f" or model.context_length={data.seq_len}" if data.seq_len else "")
            raise UserError(
                f"data.seq_len={data.seq_len}: must be from 1 to model.context_length={self.context_length}: {instead} fits"
            )

    def forward(self, tokens: Tensor, state: State = None) -> tuple[Tensor, State]:
        features = self._embed(tokens, start=0)
        for block in self.blocks:
            features = block(features)
        return self.head(self.norm(features)), None

    def decode(self, tokens: Tensor, state: State = None, cached: bool = True) -> tuple[Tensor, State]:
        """Logits of the next character, [N, vocabulary], and the state: the context and its key-value caches.

        When the context is full, its newer half becomes the context, at new positions.

        Args:
            cached: keep key-value caches; without, the whole context is encoded at each step, with the same logits.
        """
        text, pasts = state or (tokens[:, :0], None)
        text = torch.cat([text, tokens], 1)
        if text.shape[1] > self.context_length:
            text, pasts = text[:, -max(1, self.context_length // 2) :], None
        new = tokens if pasts else text
        features = self._embed(new, start=text.shape[1] - new.shape[1])
        caches: list[KeyValueCache] = []
        for block, past in zip(self.blocks, pasts or [None] * len(self.blocks), strict=True):
            features, past = block.step(features, past)
            caches.append(past)
        return self.head(self.norm(features[:, -1])).float(), (text, caches if cached else None)

    @staticmethod
    def select_rows(state: State, rows: Tensor) -> State:
        text, pasts = state
        return text[rows], pasts and [KeyValueCache(past.keys[rows], past.values[rows]) for past in pasts]

    def _embed(self, tokens: Tensor, start: int) -> Tensor:
        """Character and position embeddings, positions from ``start`` on, [N, T, embed_dim]."""
        positions = torch.arange(start, start + tokens.shape[1], device=tokens.device)
        return self.dropout(self.embedding(tokens) + self.positions(positions))

    def stages(self) -> dict[str, nn.Module]:
        blocks = {f"block{number}": block for number, block in enumerate(self.blocks, 1)}
        return {"embedding": nn.ModuleList([self.embedding, self.positions]), **blocks, "norm": self.norm, "head": self.head}
