"""Stochastic depth: residual branches that are dropped at random, for each sample on its own (Huang et al. 2016)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from torch import Tensor, nn

from zoo.core.errors import UserError


def drop_path_rates(drop_path_rate: float, blocks: int) -> Iterator[float]:
    """Drop probability of each residual block, from input to output: of block l of L, l / L times that of the last.

    Huang et al. 2016, arXiv:1603.09382, equation 4: early layers, whose features all later ones use, are kept more often.

    Raises:
        UserError: the rate is not in [0, 1).
    """
    rate = checked_rate(drop_path_rate)
    return (rate * place / blocks for place in range(1, blocks + 1))


def checked_rate(rate: float, option: str = "drop_path_rate") -> float:
    """The drop probability of an option, for networks of a library that spread it over their blocks themselves.

    Raises:
        UserError: it is not in [0, 1).
    """
    if not 0 <= rate < 1:
        raise UserError(f"model.{option}={rate}: must be at least 0 and less than 1")
    return rate


def drop_path(branch: Tensor, probability: float, training: bool) -> Tensor:
    """Zero a residual branch, [N, ...], for samples at random, and scale it by 1 / (1 - probability) for the others.

    The scale is that of dropout, in place of the paper's factor in evaluation.
    """
    if not training or not probability:
        return branch
    kept = branch.new_empty(len(branch), *[1] * (branch.dim() - 1)).bernoulli_(1 - probability)
    return branch * kept.div_(1 - probability)


def drop_path_after(layer: nn.Module, probability: float) -> None:
    """Apply ``drop_path`` to the output of the last layer of a residual branch in a library's block, whose weights keep their
    names.
    """
    if probability:
        layer.register_forward_hook(partial(_drop_output, probability))


def _drop_output(probability: float, layer: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return drop_path(output, probability, layer.training)
