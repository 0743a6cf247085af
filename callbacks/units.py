"""The dimension of a tensor that holds the units, channels or features, followed from the layer that made them.

A layer determines it: behind the channels of a two-dimensional convolution there are two more dimensions, whether or not there is
a batch before them. Functions after it, such as activations, sums, concatenations and transpositions, keep or move it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils.weak import WeakIdKeyDictionary

WEIGHTED = (nn.Linear, _ConvNd)
# dimensions behind the units of the output of a function
POSITIONS = {"linear": 0, "bilinear": 0, "embedding": 0}
POSITIONS |= {f"conv{kind}{n}d": n for n in (1, 2, 3) for kind in ("", "_transpose")}
NORMS = {"batch_norm", "group_norm", "instance_norm"}  # of inputs [N, units, ...]


def positions_of(layer: nn.Module) -> int:
    """Number of dimensions behind the units of the input and output of a linear or convolutional layer."""
    return len(layer.kernel_size) if isinstance(layer, _ConvNd) else 0


class UnitAxes:
    """The dimensions of the units of all tensors that functions return."""

    def __init__(self) -> None:
        self._axes = WeakIdKeyDictionary()

    def follow(self, function: str, inputs: Iterable[Any], output: Any) -> None:
        """Note where the units of a function's output are, given those of its inputs."""
        for result in _tensors([output]):
            axis = self._axis(function, inputs, result)
            if axis is not None:
                self._axes[result] = axis
            else:
                self._axes.pop(result, None)

    def of(self, values: Tensor) -> int | None:
        """The dimension of the units; by default 1 of maps and volumes, and else the last. A vector need not have one."""
        known: int | None = self._axes.get(values)
        if known is not None or values.dim() < 2:
            return known
        return 1 if values.dim() > 3 else values.dim() - 1

    def _axis(self, function: str, inputs: Iterable[Any], output: Tensor) -> int | None:
        if output.layout != torch.strided or output.is_nested or not output.dim():
            return None
        if function in POSITIONS:
            return output.dim() - 1 - POSITIONS[function]
        if function in NORMS:
            return 1
        for value in _tensors(inputs):
            axis = self._axes.get(value)
            if axis is None:
                continue
            if output.untyped_storage().data_ptr() == value.untyped_storage().data_ptr():
                return _place_in_view(value, axis, output)
            if output.dim() == value.dim():
                return int(axis)
        return None


def _place_in_view(value: Tensor, axis: int, view: Tensor) -> int | None:
    """Where a view of a tensor has a dimension of it, which keeps its stride and does not grow."""
    stride, size = value.stride(axis), value.shape[axis]
    if view.dim() == value.dim() and view.shape[axis] == size and view.stride(axis) == stride:
        return axis
    places = [place for place in range(view.dim()) if view.stride(place) == stride and view.shape[place] <= size]
    return max(places, key=view.size, default=None)


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors among values, and in lists and tuples among them."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)
