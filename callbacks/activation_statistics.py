"""Statistics of each layer's outputs: moments, quantiles, histogram, dead units, saturated activations, rank of the input."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from zoo.callbacks.distribution import Distribution, named_statistics
from zoo.callbacks.gates import RECURRENT, gates
from zoo.callbacks.recording import Monitor, all_reduce, uncompiled

WINDOW = 5  # records
MAX_FEATURES = 512  # of a layer's input, for its covariance
BY_CHANNEL = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm)
WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
RECTIFIERS = (nn.ReLU, nn.ReLU6, nn.Hardswish, nn.GELU, nn.SiLU)
# a bounded activation function is saturated within a twentieth of its range from an end
SATURATED: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": lambda out: (out - 0.5).abs() > 0.45,
    "tanh": lambda out: out.abs() > 0.9,
}
BOUNDED = {nn.Sigmoid: "sigmoid", nn.Tanh: "tanh"}
FUNCTIONS = {"relu": "relu", "relu_": "relu", "sigmoid": "sigmoid", "sigmoid_": "sigmoid", "tanh": "tanh", "tanh_": "tanh"}


class ActivationStatistics(Monitor):
    """Records the distribution of the outputs of layers, over the whole batch of a step: all processes, all accumulated parts.

    Layers are modules without children or with parameters of their own (``NAME:64`` where one is used again with another number
    of units), and ``relu``, ``sigmoid`` and ``tanh`` where a module calls them as functions: ``MODULE/relu:64`` is all its calls
    in a step with 64 units.
    Recurrent layers have their gates besides, as in ``MODULE/forget_l0`` of an LSTM (see ``zoo.callbacks.gates``).
    Of each layer a record holds

    - ``mean``, ``std``, ``min``, ``max``, ``zero`` (fraction of exact zeros), ``quantiles`` (5, 25, 50, 75 and 95%, each the
      value of that rank without its lower 16 bits, which is within 1 in 128) and ``histogram`` (65 counts: 32 powers of two below
      zero, largest magnitude first, |x| < 2^-24, 32 powers of two above);
    - ``signal``: of a linear or convolutional layer, the standard deviation of a unit over samples and positions, root mean
      square over units. ``std`` includes differences between units, such as those of biases, which do not depend on the input;
    - ``dead``: of a rectifier, the fraction of units (channels, features) that were never above zero in the last 5 records;
    - ``saturated``: of a sigmoid or tanh, the fraction of outputs within a twentieth of the range from one of its ends;
    - ``rank``: of a linear or convolutional layer, the participation ratio of its input, tr(C)^2 / tr(C^2) with C the
      covariance of its features (at most 512, evenly spaced; of maps the mean over positions): 1 if all samples lie on a line,
      the number of features if they spread alike in all directions (Gao et al. 2017, doi:10.1101/214262);
    - ``input``, of the layer that ran first, if its input is floating-point: ``mean``, ``std`` and ``between``, the largest
      difference of a sample from the first (none in a batch of one); on rank zero.

    Layers stand in the order in which they ran. Hooks exist only during the forward pass of a recorded step, in which
    compiled modules run eagerly.

    Args:
        every: as in ``Monitor``.
        layers: globs of names of layers, as in ``network.stage1.0.conv1``; what matches none is left out.
        write: as in ``Monitor``.
    """

    kind = "activations"

    def start(self) -> None:
        super().start()
        self._step: int | None = None  # being recorded
        self._recorded: dict[str, _Layer] = {}
        self._active: dict[str, deque[Tensor]] = {}
        self._open = ExitStack()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "active": {name: list(window) for name, window in self._active.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._active = {name: deque(window, maxlen=WINDOW) for name, window in state_dict.get("active", {}).items()}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for window in self._active.values():  # of a checkpoint, which was read to the CPU
            window.extend([active.to(pl_module.device) for active in window])

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        if self._step is None and self.is_due(trainer.global_step):
            self._step = trainer.global_step
        if self._step is not None:
            self._attach(pl_module)

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        if pl_module.automatic_optimization:  # else more may run forward after it
            self._open.close()  # what is computed again in the backward pass must not count twice

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._open.close()
        if self._step is not None and trainer.global_step > self._step:
            self._record(trainer, pl_module.device, self._step)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._reset()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._reset()

    def _attach(self, root: nn.Module) -> None:
        running: list[str] = []  # names of the running modules, the innermost last
        first: list[str] = []  # name of the layer that ran first
        itself: set[str] = set()  # names of the modules that are such a function, or whose gates are recorded
        self._open.enter_context(uncompiled(root))

        def enter(name: str, is_layer: bool, *_: Any) -> None:
            running.append(name)
            if is_layer and not first:
                first.append(name)

        def leave(*_: Any) -> None:
            running.pop()

        for name, module in root.named_modules():
            is_layer = name != "" and (not list(module.children()) or bool(list(module.parameters(recurse=False))))
            self._open.enter_context(module.register_forward_pre_hook(partial(enter, name, is_layer)))
            if is_layer and self.is_selected(name):
                hook = partial(self._record_module, name, first)
                self._open.enter_context(module.register_forward_hook(hook, with_kwargs=True))
            self._open.enter_context(module.register_forward_hook(leave))
            if isinstance(module, (*RECTIFIERS, *BOUNDED, *RECURRENT)):
                itself.add(name)
        self._open.enter_context(_Functions(lambda function, out: self._record_function(running, itself, function, out)))

    def _record_module(
        self, name: str, first: list[str], module: nn.Module, inputs: tuple[Any, ...], named_inputs: dict[str, Any], output: Any
    ) -> None:
        inputs = (*inputs, *named_inputs.values())
        output = output[0] if isinstance(output, tuple) else output
        if not isinstance(output, Tensor) or not output.is_floating_point() or not output.dim() or not output.numel():
            return  # a loss, say
        with torch.no_grad(), self.timed(output.device):
            axis = _axis_of_units(module, output)
            layer = self._layer(name, type(module).__name__, output.device)
            if layer.units not in (None, output.shape[axis]):  # one module in several places, as the ReLU of a bottleneck
                layer = self._layer(f"{name}:{output.shape[axis]}", layer.kind, output.device)
            layer.add(output, axis, isinstance(module, RECTIFIERS), BOUNDED.get(type(module)))
            if isinstance(module, WEIGHTED):
                layer.add_units(output, axis)
            if inputs and isinstance(inputs[0], Tensor):
                if first == [name] and layer.input is None and inputs[0].is_floating_point():
                    layer.describe_input(inputs[0])
                if isinstance(module, WEIGHTED):
                    layer.add_input(inputs[0], axis)
            if isinstance(module, RECURRENT):
                for gate, function, values in gates(module, inputs, output):
                    self._layer(f"{name}/{gate}", "gate", values.device).add_function(function, values, -1)

    def _record_function(self, running: list[str], itself: set[str], function: str, output: Tensor) -> None:
        inside = running[-1] if running else ""
        axis = 1 if output.dim() == 4 else -1
        name = f"{inside}/{function}:{output.shape[axis] if output.dim() else 1}"
        if output.dim() and inside not in itself and self.is_selected(name):
            with torch.no_grad(), self.timed(output.device):
                self._layer(name, function, output.device).add_function(function, output, axis)

    def _layer(self, name: str, kind: str, device: torch.device) -> _Layer:
        if name not in self._recorded:
            self._recorded[name] = _Layer(kind, device)
        return self._recorded[name]

    def _record(self, trainer: L.Trainer, device: torch.device, step: int) -> None:
        recorded, self._step, self._recorded = self._recorded, None, {}
        names = sorted(recorded)  # the same order in every process
        layers = [recorded[name] for name in names]
        if not layers:
            return
        with torch.no_grad(), self.timed(device):
            Distribution.reduce([layer.values for layer in layers])
            for name, layer in zip(names, layers, strict=True):
                layer.reduce()
                if layer.active is not None:
                    window = self._active.setdefault(name, deque(maxlen=WINDOW))
                    if window and window[-1].shape != layer.active.shape:
                        window.clear()
                    window.append(layer.active)
            fractions = [layer.fractions(self._active.get(name, ())) for name, layer in zip(names, layers, strict=True)]
            statistics = Distribution.statistics([layer.values for layer in layers])
            table = torch.cat([statistics, torch.stack(fractions)], 1).tolist()  # the only synchronization
        rows: dict[str, dict[str, Any]] = {}
        for name, layer, (*row, signal, dead, saturated, rank) in zip(names, layers, table, strict=True):
            others = {"signal": signal, "dead": dead, "saturated": saturated, "rank": rank}
            others = {key: None if value < 0 else value for key, value in others.items()}
            rows[name] = {"type": layer.kind, **named_statistics(row), **others}
            if layer.input is not None:
                rows[name]["input"] = dict(zip(("mean", "std", "between"), layer.input.tolist(), strict=True))
        self.emit(trainer, step, {"layers": {name: rows[name] for name in recorded}})

    def _reset(self) -> None:
        self._open.close()
        self._step, self._recorded = None, {}


def _axis_of_units(module: nn.Module, output: Tensor) -> int:
    """Dimension of the channels or features of an output."""
    if isinstance(module, BY_CHANNEL) and output.dim() > 1:
        return 1
    return 1 if output.dim() == 4 and not isinstance(module, (nn.Linear, nn.LayerNorm)) else -1


class _Functions(TorchFunctionMode):
    """Passes on the outputs of activation functions that are called as functions."""

    def __init__(self, record: Callable[[str, Tensor], None]) -> None:
        super().__init__()
        self.record = record

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = function(*args, **(kwargs or {}))
        kind = FUNCTIONS.get(getattr(function, "__name__", ""))
        if kind and isinstance(output, Tensor):
            self.record(kind, output)
        return output


class _Layer:
    """Running sums of one layer in one step."""

    def __init__(self, kind: str, device: torch.device) -> None:
        self.kind = kind
        self.values = Distribution(device)
        self.active: Tensor | None = None  # [units]: whether each was above zero anywhere
        self.saturated: Tensor | None = None  # how many outputs
        self.by_unit: Tensor | None = None  # [4, units]: number, sum, number x mean^2, squares around the mean of each part
        self.input: Tensor | None = None  # its mean, standard deviation and difference between samples
        self.moments: Tensor | None = None  # [F + 1, F + 1] of the inputs with a one appended

    @property
    def units(self) -> int | None:
        """Number of units, once recorded."""
        return None if self.active is None else len(self.active)

    def add(self, output: Tensor, axis: int, is_rectifier: bool, bounded: str | None) -> None:
        self.values.add(output)
        if is_rectifier and output.dim() > 1:
            active = output.movedim(axis, 0).flatten(1).amax(1) > 0
            self.active = active if self.active is None else self.active | active
        if bounded:
            count = SATURATED[bounded](output).sum().to(self.values.sums.dtype)
            self.saturated = count if self.saturated is None else self.saturated + count

    def add_function(self, function: str, output: Tensor, axis: int) -> None:
        """Add the output of ``relu``, ``sigmoid`` or ``tanh``."""
        self.add(output, axis, function == "relu", function if function in SATURATED else None)

    def add_units(self, output: Tensor, axis: int) -> None:
        """Add moments of each unit around the mean of this part, where single precision loses little."""
        values = output.detach().float().movedim(axis, -1)
        values = values.reshape(-1, values.shape[-1])
        mean = values.mean(0)
        around = (values - mean).square_().sum(0).to(self.values.sums)
        mean = mean.to(around)
        number = torch.full_like(mean, len(values))
        rows = torch.stack([number, number * mean, number * mean.square(), around])
        self.by_unit = rows if self.by_unit is None else self.by_unit + rows

    def add_input(self, inputs: Tensor, axis: int) -> None:
        rows = inputs.float().movedim(axis, -1)
        rows = rows.flatten(1, -2).mean(1) if axis == 1 and rows.dim() > 2 else rows.flatten(0, -2)
        step = -(-rows.shape[1] // MAX_FEATURES)
        rows = rows[:, ::step]
        rows = torch.cat([rows, rows.new_ones(len(rows), 1)], 1).to(self.values.sums.dtype)
        moments = rows.T @ rows
        self.moments = moments if self.moments is None else self.moments + moments

    def describe_input(self, inputs: Tensor) -> None:
        """Describe the input of the first layer, on this process, in the first part of the step."""
        values = inputs.float()
        between = (values - values[:1]).abs().amax() if values.dim() and len(values) > 1 else values.new_full((), torch.nan)
        self.input = torch.stack([values.mean(), values.std(correction=0), between])

    def reduce(self) -> None:
        """Sum over all processes."""
        if self.active is not None:
            self.active = all_reduce(self.active.to(torch.int32), "MAX").bool()
        for values in (self.saturated, self.by_unit, self.moments):
            if values is not None:
                all_reduce(values)

    def fractions(self, window: Any) -> Tensor:
        """Signal, fraction of dead units, fraction of saturated outputs, and rank of the input; -1 where undefined."""
        none = self.values.sums.new_full((), -1)
        dead = none if self.active is None else 1 - torch.stack(list(window)).any(0).to(none.dtype).mean()
        saturated = none if self.saturated is None else self.saturated / self.values.sums[0]
        signal = none if self.by_unit is None else _signal(*self.by_unit)
        return torch.stack([signal, dead, saturated, none if self.moments is None else _participation(self.moments)])


def _signal(number: Tensor, total: Tensor, squared_means: Tensor, around: Tensor) -> Tensor:
    """Standard deviation of the units, root mean square over them, from within and between the parts."""
    between = (squared_means - total.square() / number).clamp(min=0)
    return ((around + between) / number).mean().sqrt()


def _participation(moments: Tensor) -> Tensor:
    """tr(C)^2 / tr(C^2) of the covariance C, from sums of products of the features with a one appended."""
    number = moments[-1, -1]
    mean = moments[-1, :-1] / number
    covariance = moments[:-1, :-1] / number - torch.outer(mean, mean)
    return covariance.trace().square() / covariance.square().sum().clamp(min=torch.finfo(moments.dtype).tiny)
