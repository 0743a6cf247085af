"""Receptive fields of all tensors of a network, propagated while it runs.

Operations are followed rather than modules, so sums, slices and means between modules count too. Only shapes matter: tensors may
be on the ``meta`` device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from torch import Tensor
from torch.fx.operator_schemas import normalize_function
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

Number = int | float | Fraction


@dataclass(frozen=True)
class Axis:
    """An axis of the image in a tensor.

    The receptive field of position ``i`` of ``count`` is ``first + i * stride`` to ``last + i * stride``, padding included; minus
    to plus infinity if it covers everything (after Araujo et al. 2019, doi 10.23915/distill.00021).

    Attributes:
        dim: dimension of the tensor along this axis; None after a reduction.
        count: positions along the axis.
        stride: mean number of pixels between neighboring positions.
    """

    dim: int | None
    count: int
    stride: Number = 1
    first: Number = 0
    last: Number = 0

    def sees_all(self, side: int) -> bool:
        """Whether every receptive field covers all ``side`` pixels of the image."""
        return self.first + (self.count - 1) * self.stride <= 0 and self.last >= side - 1


Geometry = tuple[Axis, ...]  # of height and width


class Untraceable(Exception):
    """An operation that no rule supports."""


class ReceptiveFields(TorchDispatchMode):
    """Context that tracks the geometry of every tensor computed from ``images``.

    Args:
        images: [N, C, H, W], on any device. With N = 1, operations that merge samples and positions can be followed, too.
    """

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.sides = tuple(images.shape[2:])
        # None: computed from the image by an unsupported operation
        self._known: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self._known[images] = tuple(Axis(2 + i, side) for i, side in enumerate(self.sides))

    def of(self, tensor: Tensor) -> Geometry | None:
        """Height and width axes of a tensor; None if it is not computed from the image, or unsupported."""
        return self._known.get(tensor)

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = function(*args, **(kwargs or {}))
        sources = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor) and value in self._known]
        if sources:
            for output in (value for value in tree_leaves(result) if isinstance(value, Tensor)):
                self._known[output] = self._follow(function, args, kwargs, sources, output)
                if isinstance(output._base, Tensor) and output._base not in self._known:
                    self._known[output._base] = None  # in-place write to a part of another tensor
        return result

    def _follow(self, function: Any, args: tuple, kwargs: dict | None, sources: list[Tensor], output: Tensor) -> Geometry | None:
        if any(self._known[source] is None for source in sources):
            return None
        rule = RULES.get(function.overloadpacket.__name__, elementwise)
        arguments = normalize_function(function, args, kwargs, normalize_to_only_use_kwargs=True).kwargs
        try:
            geometry = rule(Call(arguments, [(source, self._known[source]) for source in sources], output))
        except Untraceable:
            return None
        return tuple(_unbounded(axis, side) for axis, side in zip(geometry, self.sides, strict=True))


def _unbounded(axis: Axis, side: int) -> Axis:
    """An unbounded axis if it covers everything, so that it does after joining with other positions."""
    return replace(axis, first=-math.inf, last=math.inf) if axis.sees_all(side) else axis


# ---------------------------------------------------------------------------------------------- rules


@dataclass(frozen=True)
class Call:
    """An operation: its arguments by name, those with a geometry, and its output."""

    arguments: dict[str, Any]
    sources: list[tuple[Tensor, Geometry]]
    output: Tensor

    @property
    def source(self) -> tuple[Tensor, Geometry]:
        """The only argument with a geometry."""
        if len(self.sources) != 1:
            raise Untraceable
        return self.sources[0]

    def pair(self, name: str, default: int) -> list[int]:
        """An argument with a number per axis, or one for both, or empty."""
        value = self.arguments.get(name)
        values = [default] if value is None or value == [] else value if isinstance(value, list | tuple) else [value]
        return [*values] * 2 if len(values) == 1 else [*values]


def _image_axes(call: Call) -> Geometry:
    """The axes of an operation on images, [N, C, H, W]."""
    source, axes = call.source
    if source.ndim != 4 or [axis.dim for axis in axes] != [2, 3]:
        raise Untraceable
    return axes


def window(call: Call, kernel: list[int]) -> Geometry:
    """A convolution or pooling."""
    strides = [kernel, call.pair("stride", 1)][bool(call.arguments.get("stride"))]  # a pooling's stride is its kernel by default
    axes = []
    for axis, size, stride, padding, dilation in zip(
        _image_axes(call), kernel, strides, call.pair("padding", 0), call.pair("dilation", 1), strict=True
    ):
        first = axis.first - padding * axis.stride
        last = axis.last + ((size - 1) * dilation - padding) * axis.stride
        axes.append(Axis(axis.dim, call.output.shape[axis.dim], axis.stride * stride, first, last))
    return tuple(axes)


def convolution(call: Call) -> Geometry:
    if call.arguments["transposed"]:
        raise Untraceable
    return window(call, list(call.arguments["weight"].shape[2:]))


def pooling(call: Call) -> Geometry:
    return window(call, call.pair("kernel_size", 1))


def adaptive_pooling(call: Call) -> Geometry:
    """Adaptive pooling; for uneven windows, the largest one at the mean stride."""
    axes = []
    for axis in _image_axes(call):
        before, after = axis.count, call.output.shape[axis.dim]
        size = max(-(-(i + 1) * before // after) - i * before // after for i in range(after))
        step = Fraction(before, after)
        center = (step - 1) / 2  # of the first window, in positions
        first = axis.first + (center - Fraction(size - 1, 2)) * axis.stride
        last = axis.last + (center + Fraction(size - 1, 2)) * axis.stride
        axes.append(Axis(axis.dim, after, step * axis.stride, first, last))
    return tuple(axes)


def _gathered(axis: Axis, dim: int | None) -> Axis:
    """Reduce an axis, as pooling over all positions does."""
    return Axis(dim, 1, axis.stride * axis.count, axis.first, axis.last + (axis.count - 1) * axis.stride)


def reduction(call: Call) -> Geometry:
    """A reduction over dimensions."""
    source, axes = call.source
    dims = call.arguments.get("dim")
    dims = [*range(source.ndim)] if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
    dims = {dim % source.ndim for dim in dims}
    kept = call.output.ndim == source.ndim

    def reduced(axis: Axis) -> Axis:
        if axis.dim in dims:
            return _gathered(axis, axis.dim if kept else None)
        if kept or axis.dim is None:
            return axis
        return replace(axis, dim=axis.dim - sum(dim < axis.dim for dim in dims))

    return tuple(map(reduced, axes))


def product(call: Call) -> Geometry:
    """A matrix product, [..., n, k] times [..., k, m], which sums over k."""
    left, right = [value for name in FACTORS if isinstance(value := call.arguments.get(name), Tensor)][-2:]
    known = {id(source): axes for source, axes in call.sources}
    axes = known.get(id(left)) or known.get(id(right))
    if axes is None:
        raise Untraceable
    summed = left.ndim - 1 if id(left) in known else right.ndim - 2
    axes = tuple(_gathered(axis, None) if axis.dim == summed else axis for axis in axes)
    # as in attention, where weights depend on all positions
    return attention(replace(call, sources=[(left, axes)])) if id(left) in known and id(right) in known else axes


FACTORS = ("input", "self", "mat1", "batch1", "mat2", "batch2")


def attention(call: Call) -> Geometry:
    return tuple(replace(axis, first=-math.inf, last=math.inf) for axis in call.sources[0][1])


def reordering(call: Call) -> Geometry:
    """``permute``, ``transpose`` or ``t``."""
    source, axes = call.source
    order = list(range(source.ndim))
    if "dims" in call.arguments:
        order = [dim % source.ndim for dim in call.arguments["dims"]]
    else:
        first, second = (call.arguments.get(name, default) for name, default in (("dim0", 0), ("dim1", -1)))
        order[first], order[second] = order[second], order[first]
    return tuple(axis if axis.dim is None else replace(axis, dim=order.index(axis.dim)) for axis in axes)


def slicing(call: Call) -> Geometry:
    source, axes = call.source
    dim = call.arguments.get("dim", 0) % source.ndim
    start, _, step = slice(call.arguments.get("start"), None, call.arguments.get("step", 1)).indices(source.shape[dim])
    sliced = []
    for axis in axes:
        if axis.dim == dim:
            if axis.count != source.shape[dim]:
                raise Untraceable
            offset = start * axis.stride
            axis = Axis(dim, call.output.shape[dim], axis.stride * step, axis.first + offset, axis.last + offset)
        sliced.append(axis)
    return tuple(sliced)


def selection(call: Call) -> Geometry:
    """One position of a dimension, which is dropped."""
    source, axes = call.source
    dim, index = call.arguments["dim"] % source.ndim, call.arguments["index"] % source.shape[call.arguments["dim"]]
    selected = []
    for axis in axes:
        if axis.dim == dim:
            offset = index * axis.stride
            axis = Axis(None, 1, axis.stride, axis.first + offset, axis.last + offset)
        elif axis.dim is not None and axis.dim > dim:
            axis = replace(axis, dim=axis.dim - 1)
        selected.append(axis)
    return tuple(selected)


def padding(call: Call) -> Geometry:
    """Padding with new positions."""
    source, axes = call.source
    widths = call.arguments.get("pad") or call.arguments["padding"]  # pairs of before and after, from the last dimension
    padded = []
    for axis in axes:
        pair = None if axis.dim is None else 2 * (source.ndim - 1 - axis.dim)
        if pair is not None and pair < len(widths):
            offset = widths[pair] * axis.stride
            axis = Axis(axis.dim, call.output.shape[axis.dim], axis.stride, axis.first - offset, axis.last - offset)
        padded.append(axis)
    return tuple(padded)


def reshaping(call: Call) -> Geometry:
    """``view`` and similar: dimensions are kept, merged with neighbors, or dropped if their size is one."""
    source, axes = call.source
    homes = dict(_homes(source.shape, call.output.shape))
    reshaped = []
    for axis in axes:
        home = None
        if axis.dim is not None and source.shape[axis.dim] > 1:
            home = homes[axis.dim]
            if home is None:
                raise Untraceable
        reshaped.append(replace(axis, dim=home))
    return tuple(reshaped)


def _homes(before: tuple[int, ...], after: tuple[int, ...]) -> Iterator[tuple[int, int | None]]:
    """The dimension of ``after`` for each of ``before`` that is larger than one; None if it was split."""
    olds, news = ([dim for dim, size in enumerate(shape) if size > 1] for shape in (before, after))
    while olds:
        group, targets = [olds.pop(0)], [news.pop(0)]
        while (filled := math.prod(before[dim] for dim in group)) != (room := math.prod(after[dim] for dim in targets)):
            group, targets = (group + [olds.pop(0)], targets) if filled < room else (group, targets + [news.pop(0)])
        for dim in group:
            yield dim, targets[0] if len(targets) == 1 else None


def joining(call: Call) -> Geometry:
    """``cat``, also with a class token, which has no receptive field."""
    return _joined([axes for _, axes in call.sources])


def elementwise(call: Call) -> Geometry:
    """Operations that keep positions, with broadcasting; receptive fields of several tensors are joined."""
    aligned = []
    for source, axes in call.sources:
        offset = call.output.ndim - source.ndim
        for axis in axes:
            if axis.dim is None:
                continue
            size = source.shape[axis.dim]
            if offset < 0 or size not in (1, call.output.shape[axis.dim + offset]):
                raise Untraceable
        aligned.append(tuple(axis if axis.dim is None else replace(axis, dim=axis.dim + offset) for axis in axes))
    return _joined(aligned)


def _joined(geometries: list[Geometry]) -> Geometry:
    joined = []
    for axes in zip(*geometries, strict=True):
        # a mean that scales every position has no positions itself
        leading = max(axes, key=lambda axis: (axis.dim is not None, axis.count))
        others = [axis for axis in axes if axis.count < leading.count]
        if any(axis.dim not in (None, leading.dim) for axis in axes) or any(axis.last != math.inf for axis in others):
            raise Untraceable  # a moving and a fixed region
        joined.append(replace(leading, first=min(axis.first for axis in axes), last=max(axis.last for axis in axes)))
    return tuple(joined)


RULES: dict[str, Callable[[Call], Geometry]] = {
    "convolution": convolution,
    **dict.fromkeys(("max_pool2d_with_indices", "avg_pool2d"), pooling),
    **dict.fromkeys(("_adaptive_avg_pool2d", "adaptive_max_pool2d"), adaptive_pooling),
    **dict.fromkeys(("mean", "sum", "amax", "amin", "max", "logsumexp", "var", "linalg_vector_norm"), reduction),
    **dict.fromkeys(("mm", "addmm", "bmm", "baddbmm"), product),
    **dict.fromkeys(
        (
            "_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention",
            "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_attention_math",
        ),
        attention,
    ),
    **dict.fromkeys(("permute", "transpose", "t"), reordering),
    "slice": slicing,
    "select": selection,
    **dict.fromkeys(("constant_pad_nd", "reflection_pad2d", "replication_pad2d"), padding),
    **dict.fromkeys(("view", "_unsafe_view", "squeeze", "unsqueeze"), reshaping),
    "cat": joining,
}  # fmt: skip
