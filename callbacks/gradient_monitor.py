"""What happens to every parameter on recorded steps: its gradient, how far the step moved it, and how noisy gradients are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.optim import Optimizer

from zoo.callbacks.distribution import histogram
from zoo.callbacks.recording import Monitor, Record, holds_parts, over_processes, parameters_of

MEMORY = 0.9  # weight of the past in the two means that the noise scale is made of
PRODUCTS = ("gradient", "weight", "update", "with_previous", "previous", "with_next")


class GradientMonitor(Monitor):
    """Records gradients as the optimizer gets them: summed over accumulated batches, averaged over processes, without the factor
    of mixed precision, before they are clipped.

    A record holds of each parameter

    - ``norm`` of its gradient, ``weight``, its own norm before the step, and ``update``, the norm of what the step added to it
      over its own: about 1e-3 where a learning rate fits;
    - ``cosine`` between its gradient and that of the record before;
    - ``histogram`` of its gradient, as in ``ActivationStatistics``, and the ``zero`` share;

    and of all together, which are those of the optimizer that steps

    - ``norm``; ``without``, the names of parameters that should learn and got no gradient; ``clipped``, the share of records so
      far whose norm was above the Trainer's ``gradient_clip_val`` (None without);
    - ``noise_scale``, in samples: about how large a batch may be before larger ones stop helping (McCandlish et al. 2018,
      arXiv:1812.06162, the simple noise scale tr(S) / |G|^2). Two gradients in a row share their true part and not their noise,
      so it is B (mean |g|^2 - mean g.g') / mean g.g', with B the samples of a step and running means over the records; None
      until those products are positive.

    It keeps the gradients of one record and, within a recorded step, the weights: twice the size of what is watched. Gradients of
    sharded strategies are summed over processes.

    Args:
        every: as in ``Monitor``.
        layers: globs of names of parameters, as in ``network.conv.weight``; what matches none is left out.
        write: as in ``Monitor``.
    """

    kind = "gradients"

    def __init__(self, every: int = 200, layers: tuple[str, ...] = ("*",), write: Callable[[Record], None] | None = None) -> None:
        super().__init__(every, layers, write)
        self._kept: dict[str, Tensor] = {}  # gradients of the newest record
        self._pending: _Pending | None = None  # a record that waits for the gradient of the step after
        self._samples = 0
        self._records = self._clipped = 0
        self._squares = self._products = 0.0

    def state_dict(self) -> dict[str, Any]:
        figures = {"records": self._records, "clipped": self._clipped, "squares": self._squares, "products": self._products}
        return {**super().state_dict(), **figures}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._records, self._clipped = state_dict.get("records", 0), state_dict.get("clipped", 0)
        self._squares, self._products = state_dict.get("squares", 0.0), state_dict.get("products", 0.0)

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        self._samples += _samples_in(batch)

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        step, samples, self._samples = trainer.global_step, self._samples, 0
        if self._pending is None and not self.is_due(step):
            return
        with torch.no_grad(), self.measured(pl_module.device):
            gradients = self._gradients(trainer, pl_module, optimizer)
            if self._pending is not None:
                self._pending.see_next(gradients)
        self._finish(trainer)
        if self.is_due(step) and gradients:
            with torch.no_grad(), self.measured(pl_module.device):
                kept = {name: gradient.clone() for name, gradient in gradients.items()}  # they are clipped in place
                own = parameters_of(optimizer)
                named = {name: p for name, p in pl_module.named_parameters() if id(p) in own}
                self._pending = _Pending(step, samples, named, kept, self._kept)
                self._pending.without = [
                    name for name, p in named.items() if p.requires_grad and p.grad is None and self.chosen(name)
                ]
                self._kept = kept

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        pending = self._pending
        if pending is not None and pending.before and trainer.global_step > pending.step:
            with torch.no_grad(), self.measured(pl_module.device):
                pending.see_update(dict(pl_module.named_parameters()))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._finish(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if not holds_parts(trainer):  # else it would wait for other processes
            self._finish(trainer)  # the last before a fault tells most
        self._pending, self._kept = None, {}

    def _gradients(self, trainer: L.Trainer, module: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
        scale, own = _scale(trainer), parameters_of(optimizer)
        found = {}
        for name, parameter in module.named_parameters():
            if parameter.grad is not None and self.chosen(name) and id(parameter) in own:
                gradient = _local(parameter.grad)
                found[name] = gradient if scale == 1 else gradient / scale
        return found

    def _finish(self, trainer: L.Trainer) -> None:
        """Hand on the record that is waiting."""
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        with torch.no_grad(), self.measured(pending.device):
            rows = pending.rows(holds_parts(trainer)).tolist()  # the one crossing
        parameters = {}
        total = product = 0.0
        for name, row in zip(pending.names, rows, strict=True):
            gradient, weight, update, with_previous, previous, with_next, zeros, *counts = row
            cosine = with_previous / (gradient * previous) ** 0.5 if gradient * previous > 0 else None
            parameters[name] = {
                "norm": gradient**0.5,
                "weight": weight**0.5,
                "update": (update / weight) ** 0.5 if weight > 0 and pending.is_updated else None,
                "cosine": cosine,
                "zero": zeros / sum(counts),
                "histogram": [int(count) for count in counts],
            }
            total, product = total + gradient, product + with_next
        clip, noise_scale = trainer.gradient_clip_val, None
        self._records += 1
        self._clipped += bool(clip) and total**0.5 > clip
        if pending.is_followed and total < float("inf"):
            self._squares = MEMORY * self._squares + (1 - MEMORY) * total
            self._products = MEMORY * self._products + (1 - MEMORY) * product
            if self._products > 0:
                samples = pending.samples * trainer.world_size
                noise_scale = max(0.0, samples * (self._squares - self._products) / self._products)
        clipped = self._clipped / self._records if clip else None
        whole = {"norm": total**0.5, "clipped": clipped, "noise_scale": noise_scale, "without": pending.without}
        self.emit(trainer, pending.step, {**whole, "parameters": parameters})


class _Pending:
    """One record that is being made, all on the device."""

    def __init__(
        self,
        step: int,
        samples: int,
        parameters: dict[str, Tensor],
        gradients: dict[str, Tensor],
        previous: dict[str, Tensor],
    ) -> None:
        self.step, self.samples, self.names = step, samples, list(gradients)
        self.device = next(iter(gradients.values())).device
        self.before = {name: _local(parameters[name]).clone() for name in self.names}
        self.gradients = gradients
        self.without: list[str] = []
        self.is_updated = self.is_followed = False
        self.products = {name: dict.fromkeys(PRODUCTS, 0.0) for name in self.names}
        self.counts: dict[str, Tensor] = {}
        for name, gradient in gradients.items():
            own = self.products[name]
            own["gradient"], own["weight"] = _dot(gradient, gradient), _dot(self.before[name], self.before[name])
            zeros = gradient.numel() - gradient.count_nonzero()
            self.counts[name] = torch.cat([zeros[None], histogram(gradient)])
            if (former := previous.get(name)) is not None and former.shape == gradient.shape:
                own["with_previous"], own["previous"] = _dot(gradient, former), _dot(former, former)

    def see_update(self, parameters: dict[str, Tensor]) -> None:
        for name, before in self.before.items():
            moved = _local(parameters[name]) - before
            self.products[name]["update"] = _dot(moved, moved)
        self.before, self.is_updated = {}, True

    def see_next(self, gradients: dict[str, Tensor]) -> None:
        for name in self.names:
            if name in gradients:
                self.products[name]["with_next"] = _dot(self.gradients[name], gradients[name])
        self.is_followed = gradients.keys() >= set(self.names)  # with several optimizers the next step may be another's

    def rows(self, parts: bool) -> Tensor:
        """For each parameter its products, its zeros and its histogram; ``parts`` are summed over processes."""
        wide = torch.float32 if self.device.type == "mps" else torch.float64
        values = [value for name in self.names for value in self.products[name].values()]
        products = torch.stack([torch.as_tensor(value, dtype=wide, device=self.device) for value in values])
        products = products.view(len(self.names), len(PRODUCTS))
        table = torch.cat([products, torch.stack([self.counts[name] for name in self.names]).to(wide)], 1)
        return over_processes(table) if parts else table


def _local(values: Tensor) -> Tensor:
    """The part of a tensor that lies on this process, as real numbers."""
    values = values.detach()
    values = values.to_local() if hasattr(values, "to_local") else values
    values = values.to_dense() if values.is_sparse else values
    return torch.view_as_real(values) if values.is_complex() else values


def _dot(a: Tensor, b: Tensor) -> Tensor:
    wide = torch.float32 if a.device.type == "mps" else torch.float64
    if a is b:
        return torch.linalg.vector_norm(a, dtype=wide).square()
    return (a.to(wide) * b.to(wide)).sum()


def _scale(trainer: L.Trainer) -> float:
    """What the gradients are multiplied by still, where an optimizer divides in its own step."""
    plugin = trainer.precision_plugin
    if not isinstance(plugin, MixedPrecision) or plugin.scaler is None:
        return 1.0
    unscales_itself = any(getattr(optimizer, "_step_supports_amp_scaling", False) for optimizer in trainer.optimizers)
    return plugin.scaler.get_scale() if unscales_itself else 1.0


def _samples_in(batch: Any) -> int:
    """Samples of a batch: the length of the first tensor in it."""
    if isinstance(batch, Tensor):
        return len(batch) if batch.dim() else 1
    parts = batch.values() if isinstance(batch, dict) else batch if isinstance(batch, (list, tuple)) else ()
    return next((count for part in parts if (count := _samples_in(part))), 0)
