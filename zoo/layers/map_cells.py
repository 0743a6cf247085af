"""The cells of a map of features, each knowing where it is: without that, nothing could be left of anything."""

from __future__ import annotations

import torch
from torch import Tensor

PLACE = 2  # numbers that say where a cell is


def with_places(features: Tensor) -> Tensor:
    """The cells of a map [N, features, rows, columns], each with its place from -1 to 1: [N, rows * columns, features + 2]."""
    n, _, rows, columns = features.shape
    down, right = (torch.linspace(-1, 1, side, dtype=features.dtype, device=features.device) for side in (rows, columns))
    places = torch.stack([down[:, None].expand(rows, columns), right.expand(rows, columns)]).expand(n, -1, -1, -1)
    return torch.cat([features, places], 1).flatten(2).transpose(1, 2)
