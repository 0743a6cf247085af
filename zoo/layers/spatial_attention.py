"""Attention over the locations of a feature map, and their coordinates."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

COORDINATES = 2  # features that ``flatten_with_coordinates`` adds


class SpatialAttention(nn.Module):
    """Soft attention over the locations of a feature map (Xu et al. 2015, section 4.2).

    Scores are bilinear, "general" in Luong et al. 2015, section 3.1: Xu's MLP would run for every pair of location and query.

    Args:
        query: dimensions of a query.
        features: dimensions of a location.
        dim: dimensions of projected queries and keys.
    """

    def __init__(self, query: int, features: int, dim: int) -> None:
        super().__init__()
        self.query = nn.Linear(query, dim)
        self.key = nn.Linear(features, dim, bias=False)

    def keys(self, features: Tensor) -> Tensor:
        """Keys of a map, [N, locations, dim], for features [N, locations, features]; computed once for all queries."""
        return self.key(features) / math.sqrt(self.key.out_features)

    def forward(self, queries: Tensor, keys: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Attended features, [N, R, features], and attention weights, [N, R, locations], of R queries, [N, R, query]."""
        weights = (self.query(queries) @ keys.transpose(1, 2)).softmax(2)
        return weights @ features, weights


def flatten_with_coordinates(features: Tensor) -> Tensor:
    """[N, features, rows, columns] to [N, rows * columns, features + 2]: y and x in [-1, 1] are the last two features."""
    n, _, rows, columns = features.shape
    y, x = (torch.linspace(-1, 1, side, dtype=features.dtype, device=features.device) for side in (rows, columns))
    coordinates = torch.stack(torch.meshgrid(y, x, indexing="ij")).expand(n, -1, -1, -1)
    return torch.cat([features, coordinates], 1).flatten(2).transpose(1, 2)
