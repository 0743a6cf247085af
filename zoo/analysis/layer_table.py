"""Table of a network's layers: output shape, parameters, multiply-adds, stride and receptive field.

The network runs on the ``meta`` device, so nothing is downloaded or computed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from zoo.analysis.receptive_field import Axis, ReceptiveFields
from zoo.config.run import Run
from zoo.core.errors import UserError, one_line
from zoo.registry.registry import Registry
from zoo.spec import ImageSpec
from zoo.tasks.task import Task
from zoo.training import building

LARGEST_SIDE = 10_000  # pixels
# operations without computation, besides those that PyTorch marks as views
COPIES = ("clone", "_unsafe_view", "_to_copy", "detach", "lift_fresh", "empty", "copy_")


@dataclass(frozen=True)
class Layer:
    """A row of the table.

    Attributes:
        name: of the module; empty for the network itself.
        kind: class of the module or, for computation between its children, the operations.
        output: shape for one sample.
        parameters: learnable parameters, counted at their first use.
        multiply_adds: of convolutions and matrix products for one sample, without biases, normalization, activations and pooling.
        stride: input pixels between neighboring outputs, vertically and horizontally; None without spatial positions.
        receptive_field: height and width in pixels, padding included.
        sees_all: whether the receptive field covers the whole input.
    """

    name: str
    kind: str
    output: tuple[int, ...]
    parameters: int
    multiply_adds: int
    stride: tuple[float | None, ...] | None = None
    receptive_field: tuple[int, ...] | None = None
    sees_all: bool = False

    def to_text(self) -> tuple[str, ...]:
        """Cells of the row; one number if height and width are equal."""
        field = "all" if self.sees_all else _both(self.receptive_field)
        counts = f"{self.parameters:,}", f"{self.multiply_adds:,}"
        return self.name or "(network)", self.kind, "x".join(map(str, self.output)), *counts, _both(self.stride), field


def _both(pair: tuple[float | None, ...] | None) -> str:
    if pair is None:
        return "?"
    texts = ["-" if value is None else f"{value:.4g}" for value in pair]
    return texts[0] if len(set(texts)) == 1 else "x".join(texts)


@dataclass(frozen=True)
class LayerTable:
    """All layers in execution order; ``input`` is (channels, height, width) of an image, or None for other data."""

    input: tuple[int, int, int] | None
    layers: list[Layer]

    @property
    def parameters(self) -> int:
        """Parameters of the whole network."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of the whole network for one sample."""
        return sum(layer.multiply_adds for layer in self.layers)

    @property
    def has_positions(self) -> bool:
        """Whether the input has spatial positions, and layers strides and receptive fields."""
        return self.input is not None and self.input[1:] != (1, 1)

    def total_text(self) -> tuple[str, ...]:
        """Cells of the last row."""
        return "total", "", "", f"{self.parameters:,}", f"{self.multiply_adds:,}", "", ""

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for ``--json``."""
        hidden = () if self.has_positions else ("stride", "receptive_field", "sees_all")
        layers = [{key: value for key, value in asdict(layer).items() if key not in hidden} for layer in self.layers]
        totals = {"parameters": self.parameters, "multiply_adds": self.multiply_adds}
        return {"input": self.input, "layers": layers, **totals}


def tabulate(registry: Registry, run: Run, shape: tuple[int, int, int] | None = None) -> LayerTable:
    """Tabulate the layers of a Run's model for a sample of its data or an image of ``shape``, (channels, height, width).

    Raises:
        UserError: the network does not support this input, or a shape was given and the data has no images.
    """
    data = building.open_data(registry, run)
    spec = data.spec
    if shape:
        if not isinstance(spec, ImageSpec):
            raise UserError(f"--input is for images; {run.data['name']} has none")
        spec = replace(spec, channels=shape[0], height=shape[1], width=shape[2], mean=(), std=())
    if isinstance(spec, ImageSpec):
        shape = spec.shape
        if max(shape) > LARGEST_SIDE:
            raise UserError(f"an input of {'x'.join(map(str, shape))} is too large: at most {LARGEST_SIDE:,} pixels a side")
    try:
        task = _on_meta(registry, run, spec)
        task.check_data_options(data)
        return LayerTable(shape, _trace(task, shape is not None))
    except (RuntimeError, ValueError) as error:
        what = f"an input of {'x'.join(map(str, shape))}" if shape else run.data["name"]
        raise UserError(f"{run.model['name']} cannot take {what}: {one_line(error, 200)}") from error


def _on_meta(registry: Registry, run: Run, spec: Any) -> Task:
    try:
        with torch.device("meta"):
            return building.build_task(registry, run, spec).eval()
    except RuntimeError:  # its constructor reads values of tensors
        return building.build_task(registry, run, spec).eval().to("meta")


def _trace(task: Task, of_images: bool) -> list[Layer]:
    batch = {key: value.to("meta") for key, value in task.example_batch(1).items()}
    fields = ReceptiveFields(batch["images"]) if of_images else None
    recorder = Recorder(task, fields)
    with torch.no_grad(), recorder.flops, recorder:
        if fields is None:
            task.predict_step(batch)
        else:
            with fields:
                task.predict_step(batch)
    return [*recorder.layers, *recorder.unused()]


@dataclass
class Piece:
    """Computation of a module since it was called or since its last child returned."""

    name: str
    module: nn.Module
    has_children: bool = False  # which were called
    operations: tuple[str, ...] = ()
    parameters: int = 0
    output: Tensor | None = None


class Recorder(TorchDispatchMode):
    """Collect a row per leaf module, and per computation of a module between its children."""

    def __init__(self, task: nn.Module, fields: ReceptiveFields | None) -> None:
        super().__init__()
        self.task, self.fields = task, fields
        self.flops = FlopCounterMode(display=False)
        self.layers: list[Layer] = []
        self._stack: list[Piece] = []
        self._counted = 0  # multiply-adds of the rows so far
        self._unseen = {id(parameter): parameter for parameter in task.parameters()}
        for name, module in task.named_modules():
            module.register_forward_pre_hook(lambda module, _, name=name: self._enter(name, module))
            module.register_forward_hook(lambda module, _, output: self._leave(output))

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if self._stack:
            piece = self._stack[-1]
            for value in tree_leaves((args, kwargs)):
                parameter = self._unseen.pop(id(value), None)
                piece.parameters += 0 if parameter is None else parameter.numel()
            operation = function.overloadpacket.__name__
            if not function.is_view and operation not in COPIES:
                piece.operations = tuple(dict.fromkeys((*piece.operations, operation.strip("_"))))
                piece.output = _first_tensor(result)
        return result

    def _enter(self, name: str, module: nn.Module) -> None:
        if self._stack:
            parent = self._stack[-1]
            parent.has_children = True
            self._write(parent)
        self._stack.append(Piece(name, module))

    def _leave(self, output: Any) -> None:
        piece = self._stack.pop()
        if not piece.has_children:
            piece.output = _first_tensor(output)
        self._write(piece)

    def _write(self, piece: Piece) -> None:
        """Add a row for a piece, unless it is empty, and reset it."""
        # an Identity stands for an option that is off
        if piece.output is not None and not isinstance(piece.module, nn.Identity):
            total = self.flops.get_total_flops() // 2  # a multiply-add is two operations
            kind = " + ".join(piece.operations) if piece.has_children else type(piece.module).__name__
            geometry = self._geometry(piece.output)
            layer = Layer(piece.name, kind, tuple(piece.output.shape[1:]), piece.parameters, total - self._counted, **geometry)
            self.layers.append(layer)
            self._counted = total
        piece.operations, piece.parameters, piece.output = (), 0, None

    def _geometry(self, output: Tensor) -> dict[str, Any]:
        axes = self.fields.of(output) if self.fields else None
        if axes is None:
            return {}
        seen = [axis.sees_all(side) for axis, side in zip(axes, self.fields.sides, strict=True)]
        regions = zip(axes, seen, self.fields.sides, strict=True)
        return {
            "stride": tuple(map(_stride, axes)),
            "receptive_field": tuple(side if all_of_it else int(axis.last - axis.first + 1) for axis, all_of_it, side in regions),
            "sees_all": all(seen),
        }

    def unused(self) -> list[Layer]:
        """Rows of modules with unused parameters."""
        rows = []
        for name, module in self.task.named_modules():
            own = sum(parameter.numel() for parameter in module.parameters(recurse=False) if id(parameter) in self._unseen)
            if own:
                rows.append(Layer(name, f"{type(module).__name__}, not used", (), own, 0))
        return rows


def _stride(axis: Axis) -> float | None:
    if axis.dim is None:
        return None
    return int(axis.stride) if axis.stride == int(axis.stride) else float(axis.stride)


def _first_tensor(value: Any) -> Tensor | None:
    return next((leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)), None)
