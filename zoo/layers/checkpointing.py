"""Gradient checkpointing: blocks keep only their inputs for the backward pass, which runs them again (Chen et al. 2016).

That costs a second forward pass, and memory falls from all activations to the inputs of all blocks and what one block keeps.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def checkpoint_blocks(network: nn.Module) -> int:
    """Run the blocks of a network again in the backward pass, from now on; return their number.

    Names of modules and weights stay, and so do gradients and buffers, to the bit: a block draws the same random numbers again,
    and what it writes into its buffers, as batch norms do, is written once. (timm's own checkpointing updates them twice.)
    """
    blocks = list(find_blocks(network))
    for block in blocks:
        block.forward = partial(_forward, block)  # in place: a wrapper would have other names
    return len(blocks)


def find_blocks(module: nn.Module, in_sequence: bool = False) -> Iterator[nn.Module]:
    """The blocks of a network: modules of several layers in a sequence of modules; of a stage of blocks, those within it."""
    parts = list(module.children())
    is_container = type(module) in CONTAINERS
    is_layers = type(module) is nn.Sequential and not any(map(_has_parts, parts))
    is_block = in_sequence and _has_parts(module) and (not is_container or is_layers) and not any(map(_is_stack, parts))
    if is_block and next(module.parameters(), None) is not None:
        yield module
        return
    for part in parts:
        yield from find_blocks(part, in_sequence=is_container)


def _has_parts(module: nn.Module) -> bool:
    return next(module.children(), None) is not None


def _is_stack(module: nn.Module) -> bool:
    """Whether a module is a sequence of equal blocks."""
    parts = list(module.children())
    return type(module) in CONTAINERS and len(parts) > 1 and len(set(map(type, parts))) == 1 and all(map(_has_parts, parts))


def _forward(block: nn.Module, *inputs: Any, **named: Any) -> Any:
    forward = partial(type(block).forward, block)
    if not torch.is_grad_enabled():
        return forward(*inputs, **named)
    return checkpoint(forward, *inputs, use_reentrant=False, context_fn=partial(_contexts, block), **named)


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Around the forward pass of a block, and around its repetition."""
    return nullcontext(), _with_copies_of_buffers(block)


@contextmanager
def _with_copies_of_buffers(block: nn.Module) -> Iterator[None]:
    """What a block writes into its buffers inside is lost."""
    own = [(module._buffers, dict(module._buffers)) for module in block.modules() if module._buffers]
    for buffers, former in own:
        buffers.update({name: buffer if buffer is None else buffer.clone() for name, buffer in former.items()})
    try:
        yield
    finally:
        for buffers, former in own:
            buffers.update(former)
