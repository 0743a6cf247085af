"""Dropout (Srivastava et al. 2014) with a checked probability."""

from __future__ import annotations

from torch import nn

from zoo.core.errors import UserError


def dropout(probability: float) -> nn.Dropout:
    """Return a dropout layer with a checked probability.

    Raises:
        UserError: the probability is not in [0, 1).
    """
    if not 0 <= probability < 1:
        raise UserError(f"model.dropout={probability}: must be at least 0 and less than 1")
    return nn.Dropout(probability)
