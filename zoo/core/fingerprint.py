"""Fingerprints of networks and of weights."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b, sha256
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


def sha256_of_state(state: Mapping[str, Tensor]) -> str:
    """The SHA-256 of the names, types, shapes and values of tensors."""
    digest = sha256()
    for name, value in sorted(state.items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(bytes_of(value))
    return digest.hexdigest()


def bytes_of(value: Tensor) -> bytes:
    """The memory of a tensor, also of types that NumPy does not know."""
    import torch

    return value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
