"""Gradient norm and update-to-weight ratio of every parameter, and the gradient noise scale, on recorded steps."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.optim import ASGD, SGD, Adadelta, Adagrad, Adam, Adamax, NAdam, Optimizer, RAdam, RMSprop

from zoo.callbacks.distribution import histogram
from zoo.callbacks.recording import Monitor, all_reduce, is_sharded, optimized_parameters

DECAY = 0.9  # of the two running means in the noise scale
PRODUCTS = ("gradient", "weight", "update", "along_weight", "with_previous", "previous", "with_next")
# those that add the weight decay to the gradient, unless they decouple it
COUPLED = (SGD, ASGD, Adam, Adamax, NAdam, RAdam, Adagrad, Adadelta, RMSprop)


class GradientMonitor(Monitor):
    """Records gradients as the optimizer gets them: summed over accumulated batches, averaged over processes, without the factor
    of mixed precision, before they are clipped.

    A record holds of each parameter

    - ``norm`` of its gradient, ``weight_norm`` before the step, and ``update_ratio``, the update-to-weight ratio: the norm of
      what the step added over that norm, about 1e-3 where a learning rate fits;
    - ``cosine`` similarity of its gradient to that of the last record;
    - ``histogram`` of its gradient, as in ``ActivationStatistics``, and the ``zero`` fraction;

    and of all parameters of the optimizer together

    - ``norm``; ``without``, the names of trainable parameters that got no gradient; ``clipped``, the fraction of records
      so far whose norm was above the Trainer's ``gradient_clip_val`` (None without);
    - ``decay``, the norm of the weight decay over that of the gradient, of the parameters that are decayed (None without): of
      what both add to a step where the decay is decoupled from the gradient, as in AdamW, and else of what enters it;
    - ``noise_scale``, in samples: about the largest batch size that still helps (McCandlish et al. 2018,
      arXiv:1812.06162, the simple noise scale tr(S) / |G|^2). Two successive gradients share the true gradient and not the noise,
      so it is B (mean |g|^2 - mean g.g') / mean g.g', with B the samples of a step and running means over the records; None
      until those products are positive, and where the samples of a batch cannot be counted.

    It keeps the gradients of one record and, within a recorded step, the weights: twice the size of the parameters. A checkpoint
    holds those gradients, too, so that a resumed training records the same. Gradients of sharded strategies are summed over
    processes, and are not in a checkpoint.

    Args:
        every: as in ``Monitor``.
        layers: globs of names of parameters, as in ``network.conv.weight``; what matches none is left out.
        write: as in ``Monitor``.
    """

    kind = "gradients"

    def start(self) -> None:
        super().start()
        self._kept: dict[str, Tensor] = {}  # gradients of the last record
        self._pending: _Pending | None = None  # a record that waits for the gradient of the next step
        self._samples = 0
        self._records = self._clipped = 0
        self._squares = self._products = 0.0
        self._is_sharded = False

    def state_dict(self) -> dict[str, Any]:
        sums = {"records": self._records, "clipped": self._clipped, "squares": self._squares, "products": self._products}
        kept = {} if self._is_sharded else {"kept": self._kept, "pending": self._pending and self._pending.state()}
        return {**super().state_dict(), **sums, **kept}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._records, self._clipped = state_dict.get("records", 0), state_dict.get("clipped", 0)
        self._squares, self._products = state_dict.get("squares", 0.0), state_dict.get("products", 0.0)
        self._kept = dict(state_dict.get("kept", {}))
        if pending := state_dict.get("pending"):
            self._pending = _Pending.restored(pending, self._kept)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._is_sharded = is_sharded(trainer)
        if not any(p.requires_grad and self.is_selected(name) for name, p in pl_module.named_parameters()):
            self.leave_out("all parameters", "none that requires a gradient is selected")
        # those of a checkpoint were read to the CPU
        self._kept = {name: gradient.to(pl_module.device) for name, gradient in self._kept.items()}
        if self._pending is not None:
            self._pending.gradients, self._pending.device = self._kept, pl_module.device

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        with self.guarded("the number of samples"):
            self._samples += _samples_in(batch)

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        step = trainer.global_step
        if self._pending is not None and self._pending.step == step:
            return  # the optimizer evaluates the loss again in the same step, as LBFGS does
        samples, self._samples = self._samples, 0
        if self._pending is None and not self.is_due(step):
            return
        gradients: dict[str, Tensor] = {}
        with self.measuring("gradients", pl_module.device):
            gradients = self._gradients(trainer, pl_module, optimizer)
            if self._pending is not None:
                self._pending.add_next(gradients)
        self._finish(trainer)
        if self.is_due(step) and gradients:
            with self.measuring("gradients", pl_module.device):
                kept = {name: gradient.clone() for name, gradient in gradients.items()}  # they are clipped in place
                own = optimized_parameters(optimizer)
                named: dict[str, Tensor] = {name: p for name, p in pl_module.named_parameters() if id(p) in own}
                pending = _Pending(step, samples, named, kept, self._kept)
                pending.without = [
                    name for name, p in named.items() if p.requires_grad and p.grad is None and self.is_selected(name)
                ]
                decays = _decays(optimizer)
                pending.decays = {name: decays[id(named[name])] for name in pending.names}
                self._pending, self._kept = pending, kept

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        pending = self._pending
        if pending is not None and pending.before and trainer.global_step > pending.step:
            with self.measuring("updates", pl_module.device):
                pending.add_update(dict(pl_module.named_parameters()))
            if pending.step == self._last:  # no other follows
                self._finish(trainer)
                self._kept = {}

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._finish(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        is_new = self._pending is not None and not self._pending.is_restored
        if is_new and not is_sharded(trainer):  # else it would wait for other processes
            self._finish(trainer)  # the last before an exception matters most
        self._pending, self._kept = None, {}

    def _gradients(self, trainer: L.Trainer, module: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
        scale, own = _scale(trainer), optimized_parameters(optimizer)
        found = {}
        for name, parameter in module.named_parameters():
            if parameter.grad is None or id(parameter) not in own or not self.is_selected(name) or name in self._unmeasured:
                continue
            with self.guarded(name):
                gradient = _local(parameter.grad)
                found[name] = gradient if scale == 1 else gradient / scale
        return found

    def _finish(self, trainer: L.Trainer) -> None:
        """Emit the pending record."""
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        record: dict[str, Any] = {}
        with self.measuring("gradients", pending.device):
            record = self._summary(trainer, pending)
        if record:
            self.emit(trainer, pending.step, record)

    def _summary(self, trainer: L.Trainer, pending: _Pending) -> dict[str, Any]:
        rows = pending.rows(is_sharded(trainer)).tolist()  # the only synchronization
        parameters = {}
        total = product = 0.0
        decayed = by_gradient = 0.0  # squared norms
        for name, row in zip(pending.names, rows, strict=True):
            gradient, weight, update, along_weight, with_previous, previous, with_next, zeros, *counts = row
            cosine = with_previous / (gradient * previous) ** 0.5 if gradient * previous > 0 else None
            parameters[name] = {
                "norm": gradient**0.5,
                "weight_norm": weight**0.5,
                "update_ratio": (update / weight) ** 0.5 if weight > 0 and pending.is_updated else None,
                "cosine": cosine,
                "zero": zeros / max(1, sum(counts)),
                "histogram": [int(count) for count in counts],
            }
            total, product = total + gradient, product + with_next
            decay, rate = pending.decays[name]
            if decay and rate is None:
                decayed, by_gradient = decayed + decay * decay * weight, by_gradient + gradient
            elif decay and rate and pending.is_updated:
                shrinkage = rate * decay
                decayed += shrinkage * shrinkage * weight
                by_gradient += max(0.0, update + 2 * shrinkage * along_weight + shrinkage * shrinkage * weight)
        clip, noise_scale = trainer.gradient_clip_val, None
        self._records += 1
        self._clipped += bool(clip) and total**0.5 > clip
        if pending.is_followed and total < float("inf"):
            self._squares = DECAY * self._squares + (1 - DECAY) * total
            self._products = DECAY * self._products + (1 - DECAY) * product
            if self._products > 0 and pending.samples:  # which are unknown in a batch of an unusual type
                samples = pending.samples * trainer.world_size
                noise_scale = max(0.0, samples * (self._squares - self._products) / self._products)
        return {
            "norm": total**0.5,
            "clipped": self._clipped / self._records if clip else None,
            "noise_scale": noise_scale,
            "decay": (decayed / by_gradient) ** 0.5 if by_gradient > 0 and decayed > 0 else None,
            "without": pending.without,
            "parameters": parameters,
        }


class _Pending:
    """A record in the making, on the device."""

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
        self.decays: dict[str, tuple[float, float | None]] = {}
        self.is_updated = self.is_followed = self.is_restored = False
        self.products: dict[str, dict[str, Tensor | float]] = {name: dict.fromkeys(PRODUCTS, 0.0) for name in self.names}
        self.counts: dict[str, Tensor] = {}
        for name, gradient in gradients.items():
            own = self.products[name]
            own["gradient"], own["weight"] = _dot(gradient, gradient), _dot(self.before[name], self.before[name])
            zeros = gradient.numel() - gradient.count_nonzero()
            self.counts[name] = torch.cat([zeros[None], histogram(gradient)])
            if (former := previous.get(name)) is not None and former.shape == gradient.shape:
                own["with_previous"], own["previous"] = _dot(gradient, former), _dot(former, former)

    def state(self) -> dict[str, Any]:
        """As plain data, after the update, without the gradients."""
        fields = {name: getattr(self, name) for name in ("step", "samples", "without", "decays", "is_updated")}
        return {**fields, "products": self.products, "counts": self.counts}

    @classmethod
    def restored(cls, state: dict[str, Any], gradients: dict[str, Tensor]) -> _Pending:
        """The inverse of ``state``."""
        pending = cls.__new__(cls)
        device = next(iter(state["counts"].values())).device
        vars(pending).update(state, names=list(state["products"]), gradients=gradients, device=device, before={})
        pending.is_followed, pending.is_restored = False, True
        return pending

    def add_update(self, parameters: dict[str, Tensor]) -> None:
        for name, before in self.before.items():
            moved = _local(parameters[name]) - before
            self.products[name] |= {"update": _dot(moved, moved), "along_weight": _dot(moved, before)}
        self.before, self.is_updated = {}, True

    def add_next(self, gradients: dict[str, Tensor]) -> None:
        for name in self.names:
            if name in gradients:
                self.products[name]["with_next"] = _dot(self.gradients[name], gradients[name])
        self.is_followed = gradients.keys() >= set(self.names)  # with several optimizers the next step may be another's

    def rows(self, sharded: bool) -> Tensor:
        """For each parameter its products, its zeros and its histogram; shards are summed over processes."""
        wide = torch.float32 if self.device.type == "mps" else torch.float64
        values = [value for name in self.names for value in self.products[name].values()]
        products = torch.stack([torch.as_tensor(value, dtype=wide, device=self.device) for value in values])
        products = products.view(len(self.names), len(PRODUCTS))
        counts = torch.stack([self.counts[name].to(self.device, wide) for name in self.names])
        table = torch.cat([products, counts], 1)
        return all_reduce(table) if sharded else table


def _local(values: Tensor) -> Tensor:
    """The shard of a tensor on this process, as real numbers."""
    values = values.detach()
    values = values.to_local() if hasattr(values, "to_local") else values
    values = values.to_dense() if values.layout != torch.strided else values
    if values.is_meta:
        raise TypeError("it is a meta tensor")
    return torch.view_as_real(values) if values.is_complex() else values


def _dot(a: Tensor, b: Tensor) -> Tensor:
    wide = torch.float32 if a.device.type == "mps" else torch.float64
    if a is b:
        norm: Tensor = torch.linalg.vector_norm(a, dtype=wide)
        return norm.square()
    return (a.to(wide) * b.to(wide)).sum()


def _decays(optimizer: Optimizer) -> dict[int, tuple[float, float | None]]:
    """By ``id`` of each parameter its weight decay and, where that does not enter the gradient, its learning rate."""
    found = {}
    for group in optimizer.param_groups:
        is_coupled = isinstance(optimizer, COUPLED) and not group.get("decoupled_weight_decay")
        decay = float(group.get("weight_decay") or 0), None if is_coupled else float(group.get("lr") or 0)
        found.update(dict.fromkeys(map(id, group["params"]), decay))
    return found


def _scale(trainer: L.Trainer) -> float:
    """The loss scale that is still in the gradients, where an optimizer unscales in its own step."""
    plugin = trainer.precision_plugin
    if not isinstance(plugin, MixedPrecision) or plugin.scaler is None:
        return 1.0
    unscales_itself = any(getattr(optimizer, "_step_supports_amp_scaling", False) for optimizer in trainer.optimizers)
    return plugin.scaler.get_scale() if unscales_itself else 1.0


def _samples_in(batch: Any) -> int:
    """Number of samples in a batch: the length of the first tensor in it."""
    if isinstance(batch, Tensor):
        return len(batch) if batch.dim() else 1
    parts = batch.values() if isinstance(batch, dict) else batch if isinstance(batch, (list, tuple)) else ()
    return next((count for part in parts if (count := _samples_in(part))), 0)
