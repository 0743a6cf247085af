"""A look at a map of features: which of its places matter to a question, and what stands there."""

from __future__ import annotations

import math

from torch import Tensor, nn


class MapAttention(nn.Module):
    """Soft attention over the places of a map: their mean, weighted by how well each fits a query (Xu et al. 2015, section 4.2).

    The fit is a product, as "general" in Luong et al. 2015, section 3.1, not Xu's perceptron, which would be run for every place
    and every query.

    Args:
        query: numbers in a query.
        features: numbers at each place.
        width: numbers in which the two are compared.
    """

    def __init__(self, query: int, features: int, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(query, width)
        self.key = nn.Linear(features, width, bias=False)

    def keys(self, features: Tensor) -> Tensor:
        """What queries are compared with, [N, places, width], for features [N, places, features]: once for a map."""
        return self.key(features) / math.sqrt(self.key.out_features)

    def forward(self, queries: Tensor, keys: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """What R queries of each of N maps, [N, R, query], gather, [N, R, features]; and the weights, [N, R, places]."""
        weights = (self.query(queries) @ keys.transpose(1, 2)).softmax(2)
        return weights @ features, weights
