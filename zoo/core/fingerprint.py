"""Fingerprints of networks with their weights."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn


def fingerprint(network: nn.Module, state: dict[str, Tensor]) -> str:
    """24 hex digits that depend on the structure and the weights of a network."""
    digest = blake2b(str(network).encode(), digest_size=12)
    for name, value in state.items():
        digest.update(name.encode())
        digest.update(value.contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()
