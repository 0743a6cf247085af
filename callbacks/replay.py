"""Does a training step again and finds the first operation whose result is not finite, forward or backward.

Looking at every operation is far too dear for a training; for one step that is known to have gone wrong it is nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
SHOWN_SAMPLES = 5


@dataclass
class Step:
    """All that one call of ``training_step`` depends on beside the module.

    Attributes:
        number: of the optimizer step it belongs to, from 1.
        batch: on the device, after augmentation.
        random: the states of torch's generators before the step, ``cpu`` and perhaps ``cuda``.
        carried: what the module keeps from one step to the next as plain attributes, as the state of a recurrent network.
        buffers: small buffers as they were before the step, by name, without those of batch norms.
    """

    number: int
    epoch: int
    batch_idx: int
    batch: Any
    random: dict[str, Tensor]
    carried: dict[str, Any] = field(default_factory=dict)
    buffers: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class Fault:
    """Where a step first went wrong.

    Attributes:
        what: the loss, or the parameter whose gradient is not finite, as in ``the loss is nan``.
        kind: ``operation``: it made numbers that are not finite out of finite ones. Otherwise what was not finite before the
            step: ``batch``, ``parameter``, ``buffer``, ``state`` (carried over from the step before).
        name: of that batch entry, parameter and so on; of an operation as PyTorch's ATen names it.
        phase: ``forward`` or ``backward``; of an operation.
        module: the innermost module in which it happened, by name; empty is the training step itself.
        module_type: its class.
        node: the step of the backward pass that it was part of, as ``SqrtBackward0``.
        inputs: each as plain data: ``shape``, ``dtype``, ``least`` and ``most`` of what is finite, ``nan``, ``inf`` (counts).
        output: the same of the result, or of what was not finite before the step.
        samples: the places in the batch that have it, at most five; empty where that cannot be told.
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
            return f"the batch itself holds {bad} in {self.name}{samples}"
        if self.kind == "state":
            return f"{self.name}, carried over from the step before, holds {bad}"
        if self.kind != "operation":
            return f"the {self.kind} {self.name} held {bad} before the step"
        where = f"{self.module} ({self.module_type})" if self.module else f"{self.module_type}.training_step"
        bounds = [(each["least"], each["most"]) for each in self.inputs if "least" in each]
        least, most = min((low for low, _ in bounds), default=0), max((high for _, high in bounds), default=0)
        given = f"out of finite numbers from {least:.4g} to {most:.4g}" if bounds else "out of nothing"
        shape = "x".join(map(str, self.output["shape"])) or "a number"
        made = f"made {bad}{samples} in {shape} {given}"
        if self.phase == "forward":
            return f"{self.name} in {where} {made}"
        return f"the backward pass of {self.node.partition('Backward')[0] or 'it'} in {where} went wrong: {self.name} {made}"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def random_state(device: torch.device) -> dict[str, Tensor]:
    """The states of the generators that a step on the device draws from; asks the device for nothing."""
    cuda = {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {}
    return {"cpu": torch.get_rng_state(), **cuda}


def set_random_state(state: Mapping[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def carriers(module: nn.Module) -> list[str]:
    """The names of the public plain attributes of a module that hold tensors, tuples or lists of tensors, or nothing yet."""
    return [name for name, value in vars(module).items() if name[0] != "_" and _is_carried(value)]


def _is_carried(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return bool(value) and all(map(_is_carried, value))
    return value is None or isinstance(value, Tensor)


def replay(module: L.LightningModule, step: Step, precision: str = "32-true", share: float = 1.0) -> Fault | None:
    """Do a step again, forward and backward, and find where it first went wrong; None if it does not.

    The module must be a copy with the weights from before the step: it keeps gradients, and logs no more. Its batch norms
    that take their statistics from the batch may have taken in the step already: that changes no result.

    Args:
        precision: as Lightning's Trainer names it; autocasts where it says ``mixed``.
        share: what the loss is multiplied by, as with gradient accumulation.
    """
    device = next(iter(module.parameters())).device
    for name, value in step.carried.items():
        setattr(module, name, value)
    module.log = module.log_dict = lambda *_, **__: None
    _forget_spoiled_statistics(module)
    tracer = _Tracer(module)
    tracer.know_before(module, step)
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.enable_grad(), tracer.watching(module):
        set_random_state(step.random, device)
        dtype = AUTOCAST.get(precision)
        with torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None, cache_enabled=False):
            loss = _loss(module, step)
        if loss is None:
            return None
        if not bool(torch.isfinite(loss).all()):
            return tracer.fault(loss, f"the loss is {loss.detach().float().sum().item()}")
        if not loss.requires_grad:
            return None
        for parameter in module.parameters():
            parameter.grad = None
        tracer.phase = "backward"
        tracer.label(loss, "")
        (loss * share).backward()
    bad = [(name, parameter.grad) for name, parameter in module.named_parameters() if not _is_finite(parameter.grad)]
    if not bad:
        return None
    name, gradient = min(bad, key=lambda each: tracer.time_of(each[1]))  # the earliest cause
    return tracer.fault(gradient, f"the gradient of {name} is {'nan' if gradient.isnan().any() else 'inf'}")


def _loss(module: L.LightningModule, step: Step) -> Tensor | None:
    takes_index = is_param_in_hook_signature(module.training_step, "batch_idx", min_args=2)
    output = module.training_step(step.batch, step.batch_idx) if takes_index else module.training_step(step.batch)
    return output.get("loss") if isinstance(output, Mapping) else output


def _forget_spoiled_statistics(module: nn.Module) -> None:
    for each in module.modules():
        is_of_batch = isinstance(each, _NormBase) and each.training and each.track_running_stats
        if is_of_batch and not (_is_finite(each.running_mean) and _is_finite(each.running_var)):
            each.reset_running_stats()


@dataclass
class _Origin:
    """Where numbers that are not finite began.

    Those that were put there on purpose, as the -inf of an attention mask, are no cause of what is made of them later.
    """

    time: int
    fault: Fault
    on_purpose: bool = False


class _Tracer(TorchDispatchMode):
    """Sees every operation below autograd, and follows what is not finite from its origin through all that is made of it.

    Following is needed: a network may well hold an infinity that harms nobody, as ``where(x > 0, log(x), 0)`` does. It goes by
    memory: what a result was written to is known by its address until something else is written there.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.types = {name: type(each).__name__ for name, each in module.named_modules()}
        self.origins: dict[int, _Origin] = {}
        self.time = 0
        self.samples = 0
        self.weights = {parameter.shape for parameter in module.parameters()}  # what has such a shape is of no sample
        self.phase = "forward"
        self.modules = [""]  # those that are being computed, the innermost last
        self.labels: dict[Any, str] = {}  # node of the graph -> module; holding a node keeps its Python object
        self.node: Any = None

    # ------------------------------------------------------------------ before the step

    def know_before(self, module: nn.Module, step: Step) -> None:
        """Take note of what is not finite to begin with."""
        leaves = _named_tensors(step.batch)
        self.samples = next((len(value) for _, value in leaves if value.dim()), 0)
        for name, value in leaves:
            self._know("batch", name or "it", value, samples=_samples(value, self.samples))
        for name, value in _named_tensors(step.carried):
            self._know("state", name, value)
        for name, value in module.named_parameters():
            self._know("parameter", name, value)
        for name, value in module.named_buffers():
            self._know("buffer", name, value, on_purpose=not _has_nan(value))

    def _know(self, kind: str, name: str, value: Tensor, on_purpose: bool = False, samples: list[int] | None = None) -> None:
        if not _is_finite(value):
            fault = Fault("", kind, name, output=_described(value), samples=samples or [])
            self.origins[_address(value)] = _Origin(self.time, fault, on_purpose)

    # ------------------------------------------------------------------ where we are

    @contextmanager
    def watching(self, module: nn.Module) -> Iterator[None]:
        """Inside, all operations and the module that each belongs to are seen; the hooks are gone afterwards."""
        hooks = []
        for name, each in module.named_modules():
            if name:
                hooks.append(each.register_forward_pre_hook(self._entering(name)))
                hooks.append(each.register_forward_hook(self._leaving(name), always_call=True))
        try:
            with self:
                yield
        finally:
            for hook in hooks:
                hook.remove()

    def _entering(self, name: str) -> Callable[..., None]:
        return lambda *_: self.modules.append(name)

    def _leaving(self, name: str) -> Callable[..., None]:
        def leave(module: nn.Module, inputs: Any, output: Any) -> None:
            self.modules.pop()
            for value in tree_leaves(output):
                self.label(value, name)

        return leave

    def label(self, value: Any, name: str) -> None:
        """Remember that the part of the graph behind a value which has no label yet is of this module."""
        waiting = [value.grad_fn] if isinstance(value, Tensor) and value.grad_fn is not None else []
        while waiting:
            node = waiting.pop()
            if node in self.labels:
                continue
            self.labels[node] = name
            node.register_prehook(self._reaching(node))
            waiting += [each for each, _ in node.next_functions if each is not None]

    def _reaching(self, node: Any) -> Callable[..., None]:
        def reach(gradients: Any) -> None:
            self.node = node

        return reach

    # ------------------------------------------------------------------ every operation

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        # looked at before: an operation may write over what it is given
        before = [(_is_finite(value), _has_nan(value), self._origin(value)) for value in given]
        described = [_described(value) for value in given] if function._schema.is_mutable else None
        result = function(*args, **(kwargs or {}))
        self.time += 1
        made = [value for value in tree_leaves(result) if isinstance(value, Tensor)]
        # batch norms write into their statistics without a word
        made += [value for value, (finite, *_) in zip(given, before, strict=True) if finite and not _is_finite(value)]
        uninitialized = "empty" in function._schema.name
        for value in made:
            if uninitialized or _is_finite(value):
                self.origins.pop(_address(value), None)
            else:
                self._follow(value, function, args, kwargs, given, before, described)
        return result

    def _origin(self, value: Tensor) -> _Origin | None:
        return self.origins.get(_address(value))

    def _follow(
        self,
        value: Tensor,
        function: Any,
        args: Any,
        kwargs: Any,
        given: list[Tensor],
        before: list[tuple[bool, bool, _Origin | None]],
        described: list[dict[str, Any]] | None,
    ) -> None:
        known = [origin for finite, _, origin in before if not finite and origin is not None]
        causes = [origin for origin in known if not origin.on_purpose]
        nan_of_inf = _has_nan(value) and not any(nan for _, nan, _ in before)
        if causes:
            origin = min(causes, key=lambda each: each.time)
        elif known and not nan_of_inf:
            origin = known[0]
        else:
            numbers = [each for each in tree_leaves((args, kwargs)) if isinstance(each, float)]
            on_purpose = any(map(math.isinf, numbers)) and not _has_nan(value)
            origin = _Origin(self.time, self._operation(function, value, described or list(map(_described, given))), on_purpose)
        self.origins[_address(value)] = origin

    def _operation(self, function: Any, value: Tensor, inputs: list[dict[str, Any]]) -> Fault:
        forward = self.phase == "forward" or self.node is None
        module = self.modules[-1] if forward else self.labels[self.node]
        return Fault(
            what="",
            kind="operation",
            name=function._schema.name.removeprefix("aten::"),
            phase="forward" if forward else "backward",
            module=module,
            module_type=self.types[module],
            node="" if forward else self.node.name(),
            inputs=inputs,
            output=_described(value),
            samples=[] if value.shape in self.weights else _samples(value, self.samples),
        )

    # ------------------------------------------------------------------ afterwards

    def time_of(self, value: Tensor) -> int:
        origin = self._origin(value)
        return self.time + 1 if origin is None else origin.time

    def fault(self, value: Tensor, what: str) -> Fault:
        """Where a value that is not finite comes from."""
        origin = self._origin(value)
        if origin is None:
            return Fault(what, "operation", "an operation", self.phase, "", self.types[""], output=_described(value))
        origin.fault.what = what
        return origin.fault


def _address(value: Tensor) -> int:
    return value.untyped_storage().data_ptr() if value.layout == torch.strided else id(value)


def _values(value: Tensor) -> Tensor:
    value = value.detach()
    return value._values() if value.is_sparse else value


def _counts(value: Any) -> bool:
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex()) and value.numel() > 0


def _is_finite(value: Tensor | None) -> bool:
    return not _counts(value) or bool(torch.isfinite(_values(value)).all())


def _has_nan(value: Tensor) -> bool:
    return _counts(value) and bool(_values(value).isnan().any())


def _described(value: Tensor) -> dict[str, Any]:
    """A tensor in a few numbers, as plain data."""
    about: dict[str, Any] = {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
    if not _counts(value) or value.is_complex():
        return about
    values = _values(value)
    finite = values[torch.isfinite(values)].double()
    if len(finite):
        about |= {"least": finite.min().item(), "most": finite.max().item()}
    return about | {"nan": int(values.isnan().sum()), "inf": int(values.isinf().sum())}


def _samples(value: Tensor, count: int) -> list[int]:
    """The places along the first dimension that are not finite, if it is the batch's and not all of them are."""
    if value.layout != torch.strided or not value.dim() or len(value) != count or count < 2:
        return []
    bad = (~torch.isfinite(value.detach())).flatten(1).any(1) if value.dim() > 1 else ~torch.isfinite(value.detach())
    found = bad.nonzero().flatten().tolist()
    return found[:SHOWN_SAMPLES] if len(found) < count else []


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
