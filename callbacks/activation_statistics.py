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
from torch.nn.utils.rnn import PackedSequence
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from zoo.callbacks.distribution import Distribution, named_statistics
from zoo.callbacks.gates import RECURRENT, gates
from zoo.callbacks.recording import Monitor, all_reduce, common, uncompiled
from zoo.callbacks.units import WEIGHTED, UnitAxes, positions_of

WINDOW = 5  # records
MAX_FEATURES = 512  # of a layer's input, for its covariance
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

    Units are on the dimension where the layer that made them has its channels or features. Outputs without floating-point values
    are left out, as are losses; packed sequences count without their padding. Layers stand in the order in which they ran. Hooks
    exist only during the forward pass of a recorded step, in which compiled modules run eagerly.

    Args:
        every: as in ``Monitor``.
        layers: globs of names of layers, as in ``network.stage1.0.conv1``; what matches none is left out.
        write: as in ``Monitor``.
    """

    kind = "activations"

    def start(self) -> None:
        super().start()
        self._step: int | None = None  # being recorded
        self._finished = -1  # the last that was
        self._is_stepped = False  # whether an optimizer has stepped in it
        self._is_empty = True  # whether no record has any layer
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
        step = trainer.global_step
        if self._step is None and self.is_due(step):
            if step == self._finished:
                self.leave_out("later steps", "an optimizer is stepped without the Trainer, which then counts no steps")
            else:
                self._step, self._is_stepped = step, False
        if self._step is not None:
            self._attach(pl_module)

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        if pl_module.automatic_optimization:  # else more may run forward after it
            self._open.close()  # what is computed again in the backward pass must not count twice

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._open.close()
        if self._step is not None and (trainer.global_step > self._step or self._is_stepped):
            self._record(trainer, pl_module.device, self._step)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._finished >= 0 and self._is_empty and not self._unmeasured:
            self.leave_out("all layers", "none that is selected was called in a recorded step, as none within TorchScript is")

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._reset()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._reset()

    def _attach(self, root: L.LightningModule) -> None:
        running: list[str] = []  # names of the running modules, the innermost last
        first: list[str] = []  # name of the layer that ran first
        itself: set[str] = set()  # names of the modules that are such a function
        axes, device = UnitAxes(), root.device
        self._open.enter_context(uncompiled(root))
        if not root.automatic_optimization:
            self._open.enter_context(register_optimizer_step_post_hook(self._note_step))

        def enter(name: str, is_layer: bool, *_: Any) -> None:
            running.append(name)
            if is_layer and not first:
                first.append(name)

        def leave(name: str, *_: Any) -> None:
            while name in running and running.pop() != name:  # those within it may have ended in an exception
                pass

        for name, module in root.named_modules():
            is_layer = name != "" and (not list(module.children()) or bool(list(module.parameters(recurse=False))))
            with self.guarded(name):
                self._open.enter_context(module.register_forward_pre_hook(partial(enter, name, is_layer)))
                if is_layer and self.is_selected(name):
                    hook = partial(self._record_module, name, first, axes, device)
                    self._open.enter_context(module.register_forward_hook(hook, with_kwargs=True))
                self._open.enter_context(module.register_forward_hook(partial(leave, name), always_call=True))
            if isinstance(module, (*RECTIFIERS, *BOUNDED)):
                itself.add(name)

        def record(function: str, inputs: tuple[Any, ...], output: Any) -> None:
            with self.guarded("the units of some functions"):
                axes.follow(function, inputs, output)
            if function in FUNCTIONS and isinstance(output, Tensor):
                self._record_function(running[-1] if running else "", itself, axes, device, FUNCTIONS[function], output)

        self._open.enter_context(_Functions(record))

    def _note_step(self, *_: Any) -> None:
        self._is_stepped = True

    def _record_module(
        self,
        name: str,
        first: list[str],
        axes: UnitAxes,
        device: torch.device,
        module: nn.Module,
        inputs: tuple[Any, ...],
        named_inputs: dict[str, Any],
        output: Any,
    ) -> None:
        if name in self._unmeasured:
            return
        with self.measuring(name, device):
            values = _floating_output(output)
            if values is None:
                return
            positions = positions_of(module)
            axis = values.dim() - 1 - positions if isinstance(module, WEIGHTED) else axes.of(values)
            units = None if axis is None else values.shape[axis]
            layer = self._layer(name, type(module).__name__, values.device)
            if units is not None and layer.units not in (
                None,
                units,
            ):  # a module in several places, as a bottleneck's ReLU
                layer = self._layer(f"{name}:{units}", layer.kind, values.device)
            layer.add(values, axis, isinstance(module, RECTIFIERS), BOUNDED.get(type(module)))
            given = next(iter((*inputs, *named_inputs.values())), None)
            given = given.data if isinstance(given, PackedSequence) else given
            if isinstance(module, WEIGHTED) and axis is not None and isinstance(given, Tensor):
                layer.add_units(values, axis)
                layer.add_input(given, positions)
            if first == [name] and layer.input is None and isinstance(given, Tensor) and given.is_floating_point():
                layer.describe_input(given)
        if isinstance(module, RECURRENT) and (own := f"the gates of {name}") not in self._unmeasured:
            with self.measuring(own, device):
                named = {**dict(zip(("input", "hx"), inputs, strict=False)), **named_inputs}
                states = output[0] if isinstance(output, tuple) else output
                for gate, function, values in gates(module, (named["input"], named.get("hx")), states):
                    self._layer(f"{name}/{gate}", "gate", values.device).add_function(function, values, values.dim() - 1)

    def _record_function(
        self, inside: str, itself: set[str], axes: UnitAxes, device: torch.device, function: str, output: Tensor
    ) -> None:
        axis = axes.of(output)
        name = f"{inside}/{function}:{1 if axis is None else output.shape[axis]}"
        if output.dim() and inside not in itself and self.is_selected(name) and name not in self._unmeasured:
            with self.measuring(name, device):
                self._layer(name, function, output.device).add_function(function, output, axis)

    def _layer(self, name: str, kind: str, device: torch.device) -> _Layer:
        if name not in self._recorded:
            self._recorded[name] = _Layer(kind, device)
        return self._recorded[name]

    def _record(self, trainer: L.Trainer, device: torch.device, step: int) -> None:
        recorded = {name: layer for name, layer in self._recorded.items() if not self._is_left_out(name)}
        self._step, self._finished, self._recorded = None, step, {}
        rows: dict[str, dict[str, Any]] = {}
        with self.measuring("activations", device):
            rows = self._rows(recorded)
        if rows:
            self._is_empty = False
            self.emit(trainer, step, {"layers": {name: rows[name] for name in recorded if name in rows}})

    def _is_left_out(self, name: str) -> bool:
        return not self._unmeasured.isdisjoint((name, name.rpartition(":")[0]))

    def _rows(self, recorded: dict[str, _Layer]) -> dict[str, dict[str, Any]]:
        """The statistics of the layers that ran in all processes, in the same order there."""
        same = {f"{name} {layer.shapes}": name for name, layer in recorded.items()}
        names = [same[each] for each in common(same)]
        layers = [recorded[name] for name in names]
        if not layers:
            return {}
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
        return rows

    def _reset(self) -> None:
        self._open.close()
        self._step, self._recorded = None, {}


def _floating_output(output: Any) -> Tensor | None:
    """The first floating-point tensor in an output; None where there is no distribution, as of a loss or of integers.

    Raises:
        TypeError: the output cannot be measured.
    """
    tensors = [value for value in tree_leaves(output) if isinstance(value, Tensor)]
    if not tensors:
        raise TypeError(f"its output ({type(output).__name__}) holds no tensor")
    values = next((value for value in tensors if value.is_floating_point()), tensors[0])
    odd = {"complex": values.is_complex(), "nested": values.is_nested, "meta": values.is_meta}
    for kind in (kind for kind, is_so in {**odd, "sparse": values.layout != torch.strided}.items() if is_so):
        raise TypeError(f"its output is a {kind} tensor")
    if not values.is_floating_point() or not values.dim() or not values.numel():
        return None
    return values


class _Functions(TorchFunctionMode):
    """Passes on the inputs and outputs of functions."""

    def __init__(self, record: Callable[[str, tuple[Any, ...], Any], None]) -> None:
        super().__init__()
        self.record = record

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = function(*args, **(kwargs or {}))
        if isinstance(output, (Tensor, tuple, list)):
            self.record(getattr(function, "__name__", ""), (*args, *(kwargs or {}).values()), output)
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

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the sums."""
        return [() if sums is None else tuple(sums.shape) for sums in (self.active, self.saturated, self.by_unit, self.moments)]

    def add(self, output: Tensor, axis: int | None, is_rectifier: bool, bounded: str | None) -> None:
        self.values.add(output)
        if is_rectifier and axis is not None:
            active = output.movedim(axis, 0).reshape(output.shape[axis], -1).amax(1) > 0
            self.active = active if self.active is None else self.active | active
        if bounded:
            count = SATURATED[bounded](output).sum().to(self.values.sums.dtype)
            self.saturated = count if self.saturated is None else self.saturated + count

    def add_function(self, function: str, output: Tensor, axis: int | None) -> None:
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

    def add_input(self, inputs: Tensor, positions: int) -> None:
        """Add the inputs of a linear or convolutional layer, with ``positions`` dimensions behind the features: their means."""
        rows = inputs.float()
        rows = rows.flatten(-positions).mean(-1) if positions else rows
        rows = rows.reshape(-1, rows.shape[-1])
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
