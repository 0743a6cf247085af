"""The vision transformer (Dosovitskiy et al. 2020)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from zoo.config.options import require_positive
from zoo.config.recipe import Recipe
from zoo.core.errors import UserError
from zoo.layers.attention import NORM_EPSILON, TransformerBlock, require_heads, sinusoidal_positions
from zoo.layers.dropout import dropout as make_dropout
from zoo.layers.stochastic_depth import drop_path_rates
from zoo.registry.entry import register_model
from zoo.spec import ImageSpec
from zoo.tasks.images import ImageModel


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
class VisionTransformer(ImageModel):
    """ViT for small images (Dosovitskiy et al. 2020).

    Args:
        patch_size: side of a patch in pixels; must divide height and width of the image.
        embed_dim: dimensions of a patch embedding.
        depth: number of transformer blocks.
        num_heads: attention heads of each block; must divide embed_dim.
        mlp_ratio: ratio of the MLP's hidden width to embed_dim.
        global_pool: input of the head: avg, the mean over patches; or token, the class token.
        pos_embed: position embedding: learned; or sinusoidal, over rows and columns.
        dropout: dropout probability, except for queries, keys and values.
        drop_path_rate: stochastic depth: drop probability of the last residual branch, to which it rises from the first.
    """

    def __init__(
        self,
        spec: ImageSpec,
        recipe: Recipe | None = None,
        patch_size: int = 4,
        embed_dim: int = 128,
        depth: int = 4,
        num_heads: int = 4,
        mlp_ratio: float = 2.0,
        global_pool: Literal["avg", "token"] = "avg",
        pos_embed: Literal["learned", "sinusoidal"] = "sinusoidal",
        dropout: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__(spec, recipe)
        spec.require_patches("vit", patch_size)
        require_heads(embed_dim, num_heads)
        require_positive(depth=depth)
        if not math.isfinite(mlp_ratio) or int(mlp_ratio * embed_dim) < 1:
            raise UserError(f"model.mlp_ratio={mlp_ratio}: the MLP needs a hidden unit; 4 is usual")
        self.embedding = PatchEmbedding(spec, patch_size, embed_dim, global_pool == "token", pos_embed, dropout)
        self.blocks = nn.Sequential(
            *(
                TransformerBlock(embed_dim, num_heads, int(mlp_ratio * embed_dim), dropout=dropout, drop_path_rate=rate)
                for rate in drop_path_rates(drop_path_rate, depth)
            )
        )
        self.norm = nn.LayerNorm(embed_dim, NORM_EPSILON)
        self.global_pool = global_pool
        self.head = nn.Linear(embed_dim, spec.outputs)

    def forward(self, images: Tensor) -> Tensor:
        features = self.norm(self.blocks(self.embedding(images)))
        return self.head(features[:, 0] if self.global_pool == "token" else features.mean(1))

    def feature_extractor(self) -> nn.Module:
        return nn.Sequential(self.embedding, self.blocks, self.norm, ToFeatureMap(self.embedding.grid))

    def stages(self) -> dict[str, nn.Module]:
        blocks = {f"block{i}": block for i, block in enumerate(self.blocks, 1)}
        return {"embedding": self.embedding, **blocks, "norm": self.norm, "head": self.head}


class ToFeatureMap(nn.Module):
    """Tokens [N, T, embed_dim] to a feature map [N, embed_dim, rows, columns], without the class token."""

    def __init__(self, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid = grid

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens[:, -math.prod(self.grid) :].transpose(1, 2).unflatten(2, self.grid)


class PatchEmbedding(nn.Module):
    """Patch embedding (equation 1): images [N, C, H, W] to tokens [N, T, embed_dim], row by row, after the class token if any."""

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
            self.register_buffer("positions", _sinusoidal_2d(self.grid, embed_dim, has_token), persistent=False)
        self.dropout = make_dropout(dropout)

    def forward(self, images: Tensor) -> Tensor:
        features = self.patches(images).flatten(2).transpose(1, 2)
        if self.token is not None:
            features = torch.cat([self.token.expand(len(features), -1, -1), features], 1)
        return self.dropout(features + self.positions)


def _sinusoidal_2d(grid: tuple[int, int], embed_dim: int, has_token: bool) -> Tensor:
    """Position embeddings [1, T, embed_dim]: one half for the row, the other for the column; zero for a class token."""
    if embed_dim % 4:
        nearest = max(4, 4 * round(embed_dim / 4))
        raise UserError(
            f"model.embed_dim={embed_dim}: sinusoidal positions over rows and columns need a multiple of 4, such as {nearest}"
        )
    rows, columns = (sinusoidal_positions(length, embed_dim // 2) for length in grid)
    embeddings = torch.cat([rows[:, None].expand(-1, grid[1], -1), columns.expand(grid[0], -1, -1)], 2).flatten(0, 1)
    return torch.cat([embeddings.new_zeros(int(has_token), embed_dim), embeddings])[None]
