"""The vision transformer: an image is a sequence of patches (Dosovitskiy et al. 2020)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from zoo.config.recipe import Recipe
from zoo.core.errors import UserError
from zoo.layers.attention import NORM_EPSILON, TransformerBlock, require_heads, sinusoidal_positions
from zoo.layers.dropout import dropout as make_dropout
from zoo.registry.entry import register_model
from zoo.spec import ImageSpec
from zoo.tasks.classification import Classifier


@register_model(
    "vit",
    task="classification",
    tags=["transformer", "attention"],
    data="digits",
    data_options={"size": 32},
    tiny={"patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2},
    recipe={
        "epochs": 30, "batch_size": 64, "optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.05, "schedule": "one-cycle",
        "gradient_clip_val": 1.0,
    },
    paper="2010.11929",
)  # fmt: skip
class VisionTransformer(Classifier):
    """Vision transformer: cuts an image into patches, and lets each look at all others.

    Args:
        patch_size: pixels a side of a patch; must divide the sides of the image.
        embed_dim: numbers that stand for a patch.
        depth: transformer blocks.
        num_heads: of the attention in each block; must divide the width.
        mlp_ratio: hidden width of each block's perceptron, in widths.
        global_pool: what the head reads: the mean over all patches, or a class token that looks at them.
        pos_embed: how a patch knows its place: by numbers that are learned, or by fixed waves over rows and columns.
        dropout: share of the features that are silenced in training, after each layer but that of queries, keys, values.
    """

    def __init__(
        self,
        spec: ImageSpec,
        recipe: Recipe,
        patch_size: int = 4,
        embed_dim: int = 128,
        depth: int = 4,
        num_heads: int = 4,
        mlp_ratio: float = 2.0,
        global_pool: Literal["avg", "token"] = "avg",
        pos_embed: Literal["learned", "sinusoidal"] = "sinusoidal",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(spec, recipe)
        spec.require_patches("vit", patch_size)
        require_heads(embed_dim, num_heads)
        if depth < 1:
            raise UserError(f"model.depth={depth}: must be at least 1")
        if not math.isfinite(mlp_ratio) or int(mlp_ratio * embed_dim) < 1:
            raise UserError(f"model.mlp_ratio={mlp_ratio}: leaves no hidden unit; 4 is usual")
        self.embedding = PatchEmbedding(spec, patch_size, embed_dim, global_pool == "token", pos_embed, dropout)
        self.blocks = nn.ModuleList(
            TransformerBlock(embed_dim, num_heads, int(mlp_ratio * embed_dim), dropout=dropout) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(embed_dim, NORM_EPSILON)
        self.global_pool = global_pool
        self.head = nn.Linear(embed_dim, len(spec.classes))

    def forward(self, images: Tensor) -> Tensor:
        features = self.embedding(images)
        for block in self.blocks:
            features = block(features)
        features = self.norm(features)
        return self.head(features[:, 0] if self.global_pool == "token" else features.mean(1))

    def feature_extractor(self) -> nn.Module:
        return PatchFeatures(self.embedding, self.blocks, self.norm)

    def stages(self) -> dict[str, nn.Module]:
        blocks = {f"block{i}": block for i, block in enumerate(self.blocks, 1)}
        return {"embedding": self.embedding, **blocks, "norm": self.norm, "head": self.head}


class PatchFeatures(nn.Module):
    """What a transformer finds in each patch, as a map [N, width, rows, columns]; a class token is left out."""

    def __init__(self, embedding: PatchEmbedding, blocks: nn.ModuleList, norm: nn.Module) -> None:
        super().__init__()
        self.embedding, self.blocks, self.norm = embedding, blocks, norm

    def forward(self, images: Tensor) -> Tensor:
        features = self.embedding(images)
        for block in self.blocks:
            features = block(features)
        rows, columns = self.embedding.grid
        return self.norm(features)[:, -rows * columns :].transpose(1, 2).unflatten(2, (rows, columns))


class PatchEmbedding(nn.Module):
    """Images [N, C, H, W] to sequences [N, T, embed_dim] (equation 1): patches row by row, behind a class token if there is one.

    A linear map of all pixels of a patch is a convolution whose stride is its size.
    """

    def __init__(self, spec: ImageSpec, patch_size: int, embed_dim: int, has_token: bool, positions: str, dropout: float) -> None:
        super().__init__()
        self.grid = spec.height // patch_size, spec.width // patch_size
        self.patches = nn.Conv2d(spec.channels, embed_dim, patch_size, stride=patch_size)
        nn.init.trunc_normal_(self.patches.weight, std=1 / math.sqrt(self.patches.weight[0].numel()))
        nn.init.zeros_(self.patches.bias)
        self.token = nn.Parameter(torch.zeros(1, 1, embed_dim)) if has_token else None
        if positions == "learned":
            self.positions = nn.Parameter(torch.empty(1, has_token + math.prod(self.grid), embed_dim).normal_(std=0.02))
        else:
            self.register_buffer("positions", _waves(self.grid, embed_dim, has_token), persistent=False)
        self.dropout = make_dropout(dropout)

    def forward(self, images: Tensor) -> Tensor:
        features = self.patches(images).flatten(2).transpose(1, 2)
        if self.token is not None:
            features = torch.cat([self.token.expand(len(features), -1, -1), features], 1)
        return self.dropout(features + self.positions)


def _waves(grid: tuple[int, int], embed_dim: int, has_token: bool) -> Tensor:
    """Codes [1, T, embed_dim] of which one half tells the row and the other the column; a class token stands nowhere, at zero."""
    if embed_dim % 4:
        nearest = max(4, 4 * round(embed_dim / 4))
        raise UserError(
            f"model.embed_dim={embed_dim}: sinusoidal positions over rows and columns need a multiple of 4, as {nearest}"
        )
    rows, columns = (sinusoidal_positions(places, embed_dim // 2) for places in grid)
    codes = torch.cat([rows[:, None].expand(-1, grid[1], -1), columns.expand(grid[0], -1, -1)], 2).flatten(0, 1)
    return torch.cat([codes.new_zeros(int(has_token), embed_dim), codes])[None]
