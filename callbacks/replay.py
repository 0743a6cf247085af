"""Replay of a training step that finds the first operation with a non-finite result, forward or backward.

Intercepting every operation is far too slow for training, but not for the one step that is known to have failed. torch's own
anomaly detection sees nan in the backward pass alone, and names neither the module nor what an infinity was made of.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
MAX_SAMPLES = 5


@dataclass
class Step:
    """Everything that a call of ``training_step`` depends on besides the module.

    Attributes:
        number: of the optimizer step it belongs to, from 1.
        batch: on the device, after augmentation.
        rng_state: of torch's generators before the step, ``cpu`` and perhaps ``cuda``.
        state: what the module keeps between steps in plain attributes, such as the state of a recurrent network.
        buffers: small buffers before the step, by name, without those of batch norms.
    """

    number: int
    epoch: int
    batch_idx: int
    batch: Any
    rng_state: dict[str, Tensor]
    state: dict[str, Any] = field(default_factory=dict)
    buffers: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class Anomaly:
    """The first non-finite value of a step.

    Attributes:
        what: the loss, or the parameter whose gradient is not finite, as in ``the loss is nan``.
        kind: ``operation``: it made a non-finite result from finite inputs. Otherwise what was not finite before the step:
            ``batch``, ``parameter``, ``buffer``, ``state`` (kept from the last step).
        name: of that batch entry, parameter and so on, or the ATen name of the operation.
        phase: of an operation, ``forward`` or ``backward``.
        module: name of the innermost module around it; empty is the training step itself.
        module_type: its class.
        node: the autograd node that it was part of, as in ``SqrtBackward0``.
        inputs: of each ``shape``, ``dtype``, ``min`` and ``max`` of the finite values, counts of ``nan`` and ``inf``.
        output: the same of the result, or of what was not finite before.
        samples: indices in the batch, at most five; empty where unknown.
    """

    what: str
    kind: str
    name: str
    phase: str = ""
    module: str = ""
    module_type: str = ""
    node: str = ""
    inputs: list[dict[str, Any]] = field(default_factory=list)
    output: dict[str, Any] = field(default_factory=dict)
    samples: list[int] = field(default_factory=list)

    def __str__(self) -> str:
        samples = f" of sample{'s' if len(self.samples) > 1 else ''} {', '.join(map(str, self.samples))}" if self.samples else ""
        bad = " and ".join(f"{self.output[key]} {key}" for key in ("nan", "inf") if self.output.get(key))
        if self.kind == "batch":
            return f"the batch contains {bad} in {self.name}{samples}"
        if self.kind == "state":
            return f"{self.name}, kept from the last step, contains {bad}"
        if self.kind != "operation":
            return f"the {self.kind} {self.name} contained {bad} before the step"
        where = f"{self.module} ({self.module_type})" if self.module else f"{self.module_type}.training_step"
        bounds = [(each["min"], each["max"]) for each in self.inputs if "min" in each]
        low, high = min((low for low, _ in bounds), default=0), max((high for _, high in bounds), default=0)
        source = f"from finite inputs in [{low:.4g}, {high:.4g}]" if bounds else "from no input"
        shape = "x".join(map(str, self.output["shape"])) or "a number"
        made = f"returned {bad}{samples} in {shape} {source}"
        if self.phase == "forward":
            return f"{self.name} in {where} {made}"
        return f"{self.name} in the backward pass of {self.node.partition('Backward')[0] or 'it'} in {where} {made}"


def rng_state(device: torch.device) -> dict[str, Tensor]:
    """The states of the generators that a step on the device uses, without synchronizing with it."""
    cuda = {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {}
    return {"cpu": torch.get_rng_state(), **cuda}


def set_rng_state(state: Mapping[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def state_attributes(module: nn.Module) -> list[str]:
    """Names of the public plain attributes of a module that hold tensors, tuples or lists of them, or None."""
    return [name for name, value in vars(module).items() if name[0] != "_" and _is_state(value)]


def _is_state(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return bool(value) and all(map(_is_state, value))
    return value is None or isinstance(value, Tensor)


def replay(module: L.LightningModule, step: Step, precision: str = "32-true", loss_scale: float = 1.0) -> Anomaly | None:
    """Replay a step, forward and backward, and return its first non-finite value; None if all values are finite.

    The module must be a copy with the weights from before the step: it keeps gradients, and stops logging. Batch norms in
    training mode may have updated their statistics already, which does not change the result.

    Args:
        precision: Lightning's; autocasts where it is ``mixed``.
        loss_scale: factor of the loss, as with gradient accumulation.
    """
    device = next(iter(module.parameters())).device
    for name, value in step.state.items():
        setattr(module, name, value)
    for name in ("log", "log_dict"):
        setattr(module, name, lambda *_, **__: None)
    _reset_non_finite_statistics(module)
    tracer = _Tracer(module)
    tracer.add_inputs(module, step)
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.enable_grad(), tracer.tracing(module):
        set_rng_state(step.rng_state, device)
        dtype = AUTOCAST.get(precision)
        with torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None, cache_enabled=False):
            loss = _loss(module, step)
        if loss is None:
            return None
        if not bool(torch.isfinite(loss).all()):
            return tracer.anomaly(loss, f"the loss is {loss.detach().float().sum().item()}")
        if not loss.requires_grad:
            return None
        for parameter in module.parameters():
            parameter.grad = None
        tracer.phase = "backward"
        tracer.label(loss, "")
        (loss * loss_scale).backward()
    gradients = [(name, p.grad) for name, p in module.named_parameters() if p.grad is not None]
    bad = [(name, gradient) for name, gradient in gradients if not _is_finite(gradient)]
    if not bad:
        return None
    name, gradient = min(bad, key=lambda each: tracer.time_of(each[1]))  # the earliest cause
    return tracer.anomaly(gradient, f"the gradient of {name} is {'nan' if gradient.isnan().any() else 'inf'}")


def _loss(module: L.LightningModule, step: Step) -> Tensor | None:
    takes_index = is_param_in_hook_signature(module.training_step, "batch_idx", min_args=2)
    output = module.training_step(step.batch, step.batch_idx) if takes_index else module.training_step(step.batch)
    return output.get("loss") if isinstance(output, Mapping) else output


def _reset_non_finite_statistics(module: nn.Module) -> None:
    for each in module.modules():
        if isinstance(each, _NormBase) and each.training and not all(map(_is_finite, each.buffers())):
            each.reset_running_stats()


@dataclass
class _Origin:
    """The origin of non-finite values.

    Intended ones, such as the -inf of an attention mask, are not the cause of what is computed from them.
    """

    time: int
    anomaly: Anomaly
    is_intended: bool = False


class _Tracer(TorchDispatchMode):
    """Intercepts every operation below autograd, and follows non-finite values from their origin through the results.

    Following is needed because a network may contain harmless infinities, as ``where(x > 0, log(x), 0)`` does. A value is
    identified by the address of its memory until something else is written there.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # of torch.utils._python_dispatch
        self.types = {name: type(each).__name__ for name, each in module.named_modules()}
        self.origins: dict[int, _Origin] = {}
        self.time = 0
        self.samples = 0
        self.weights = {parameter.shape for parameter in module.parameters()}  # values of such a shape belong to no sample
        self.phase = "forward"
        self.modules = [""]  # the running ones, the innermost last
        self.labels: dict[Any, str] = {}  # node of the graph -> module; holding a node keeps its Python object
        self.node: Any = None

    def add_inputs(self, module: nn.Module, step: Step) -> None:
        """Record what is not finite before the step."""
        leaves = _named_tensors(step.batch)
        self.samples = next((len(value) for _, value in leaves if value.dim()), 0)
        for name, value in leaves:
            self._add("batch", name or "it", value, samples=_samples(value, self.samples))
        for name, value in _named_tensors(step.state):
            self._add("state", name, value)
        for name, value in module.named_parameters():
            self._add("parameter", name, value)
        for name, value in module.named_buffers():
            self._add("buffer", name, value, is_intended=not _has_nan(value))

    def _add(self, kind: str, name: str, value: Tensor, is_intended: bool = False, samples: list[int] | None = None) -> None:
        if not _is_finite(value):
            anomaly = Anomaly("", kind, name, output=_summary(value), samples=samples or [])
            self.origins[_address(value)] = _Origin(self.time, anomaly, is_intended)

    @contextmanager
    def tracing(self, module: nn.Module) -> Iterator[None]:
        """Intercept all operations inside and track the module that each belongs to."""
        with ExitStack() as stack:
            for name, each in module.named_modules():
                if name:
                    stack.enter_context(each.register_forward_pre_hook(partial(self._enter, name)))
                    stack.enter_context(each.register_forward_hook(partial(self._leave, name), always_call=True))
            stack.enter_context(self)
            yield

    def _enter(self, name: str, module: nn.Module, inputs: Any) -> None:
        self.modules.append(name)

    def _leave(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        self.modules.pop()
        for value in tree_leaves(output):
            self.label(value, name)

    def label(self, value: Any, name: str) -> None:
        """Label the nodes of the graph behind a value that have no label yet with a module."""
        waiting = [value.grad_fn] if isinstance(value, Tensor) and value.grad_fn is not None else []
        while waiting:
            node = waiting.pop()
            if node in self.labels:
                continue
            self.labels[node] = name
            node.register_prehook(partial(self._reach, node))
            waiting += [each for each, _ in node.next_functions if each is not None]

    def _reach(self, node: Any, gradients: Any) -> None:
        self.node = node

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        # before the call: an operation may overwrite its inputs
        before = [(_is_finite(value), _has_nan(value), self._origin(value)) for value in inputs]
        summaries = [_summary(value) for value in inputs] if function._schema.is_mutable else None
        result = function(*args, **(kwargs or {}))
        self.time += 1
        made = [value for value in tree_leaves(result) if isinstance(value, Tensor)]
        # batch norms write into their statistics without declaring it
        made += [value for value, (finite, *_) in zip(inputs, before, strict=True) if finite and not _is_finite(value)]
        uninitialized = "empty" in function._schema.name
        for value in made:
            if uninitialized or _is_finite(value):
                self.origins.pop(_address(value), None)
            else:
                self._follow(value, function, args, kwargs, inputs, before, summaries)
        return result

    def _origin(self, value: Tensor) -> _Origin | None:
        return self.origins.get(_address(value))

    def _follow(
        self,
        value: Tensor,
        function: Any,
        args: Any,
        kwargs: Any,
        inputs: list[Tensor],
        before: list[tuple[bool, bool, _Origin | None]],
        summaries: list[dict[str, Any]] | None,
    ) -> None:
        known = [origin for finite, _, origin in before if not finite and origin is not None]
        causes = [origin for origin in known if not origin.is_intended]
        nan_of_inf = _has_nan(value) and not any(nan for _, nan, _ in before)
        if causes:
            origin = min(causes, key=lambda each: each.time)
        elif known and not nan_of_inf:
            origin = known[0]
        else:
            numbers = [each for each in tree_leaves((args, kwargs)) if isinstance(each, float)]
            is_intended = any(map(math.isinf, numbers)) and not _has_nan(value)
            origin = _Origin(self.time, self._operation(function, value, summaries or list(map(_summary, inputs))), is_intended)
        self.origins[_address(value)] = origin

    def _operation(self, function: Any, value: Tensor, inputs: list[dict[str, Any]]) -> Anomaly:
        forward = self.phase == "forward" or self.node is None
        module = self.modules[-1] if forward else self.labels[self.node]
        return Anomaly(
            what="",
            kind="operation",
            name=function._schema.name.removeprefix("aten::"),
            phase="forward" if forward else "backward",
            module=module,
            module_type=self.types[module],
            node="" if forward else self.node.name(),
            inputs=inputs,
            output=_summary(value),
            samples=[] if value.shape in self.weights else _samples(value, self.samples),
        )

    def time_of(self, value: Tensor) -> int:
        origin = self._origin(value)
        return self.time + 1 if origin is None else origin.time

    def anomaly(self, value: Tensor, what: str) -> Anomaly:
        """The origin of a non-finite value."""
        origin = self._origin(value)
        if origin is None:
            return Anomaly(what, "operation", "an operation", self.phase, "", self.types[""], output=_summary(value))
        origin.anomaly.what = what
        return origin.anomaly


def _address(value: Tensor) -> int:
    return value.untyped_storage().data_ptr() if value.layout == torch.strided else id(value)


def _values(value: Tensor) -> Tensor:
    value = value.detach()
    return value._values() if value.is_sparse else value


def _has_values(value: Any) -> bool:
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex()) and value.numel() > 0


def _is_finite(value: Tensor) -> bool:
    return not _has_values(value) or bool(torch.isfinite(_values(value)).all())


def _has_nan(value: Tensor) -> bool:
    return _has_values(value) and bool(_values(value).isnan().any())


def _summary(value: Tensor) -> dict[str, Any]:
    """Shape, type, range and counts of a tensor as plain data."""
    summary: dict[str, Any] = {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
    if not _has_values(value) or value.is_complex():
        return summary
    values = _values(value)
    finite = values[torch.isfinite(values)].double()
    if len(finite):
        summary |= {"min": finite.min().item(), "max": finite.max().item()}
    return summary | {"nan": int(values.isnan().sum()), "inf": int(values.isinf().sum())}


def _samples(value: Tensor, count: int) -> list[int]:
    """Indices along the first dimension that are not finite, if that is the batch and not all of them are."""
    if value.layout != torch.strided or not value.dim() or len(value) != count or count < 2:
        return []
    bad = (~torch.isfinite(value.detach())).flatten(1).any(1) if value.dim() > 1 else ~torch.isfinite(value.detach())
    found = bad.nonzero().flatten().tolist()
    return found[:MAX_SAMPLES] if len(found) < count else []


def _named_tensors(value: Any, name: str = "") -> list[tuple[str, Tensor]]:
    """The tensors in nested dicts, tuples and lists, each with its path, as in ``images`` or ``0.labels``."""
    if isinstance(value, Tensor):
        return [(name, value)]
    pairs: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        pairs = value.items()
    elif isinstance(value, (tuple, list)):
        pairs = enumerate(value)
    return [found for key, each in pairs for found in _named_tensors(each, f"{name}.{key}" if name else str(key))]
