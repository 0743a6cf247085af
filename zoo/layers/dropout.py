"""Dropout (Srivastava et al. 2014) with a share that is checked."""

from __future__ import annotations

from torch import nn

from zoo.core.errors import UserError


def dropout(share: float) -> nn.Dropout:
    """A layer that silences this share of the units in training, and scales the others up.

    Raises:
        UserError: the share is not in [0, 1).
    """
    if not 0 <= share < 1:
        raise UserError(f"model.dropout={share}: must be at least 0 and less than 1")
    return nn.Dropout(share)
