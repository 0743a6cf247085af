"""Stop training at the first non-finite loss or gradient, and names the layer and operation it came from.

Until then it costs one pass over the gradients a step. Then the step is replayed on a copy with every operation intercepted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor, nn

from zoo.callbacks.replay import Anomaly, Step, replay, rng_state, set_rng_state, state_attributes

FORMAT = 1
FILE = "autopsy.pt"
MAX_BUFFER = 2**16  # elements of a buffer that is copied at each step


class NonFinite(RuntimeError):
    """A loss or gradient is not finite."""


class NonFiniteAutopsy(L.Callback):
    """Checks loss and gradients after every backward pass, and stops the training before the optimizer would step with
    non-finite values.

    **Exactness.** The batch, the random state and, as the optimizer has not stepped, the weights are those of the failing
    step, so the replay fails in the same way. Batch norms have updated their statistics already, which does not matter to a
    step that normalizes by its batch. What a module keeps between steps is restored if it is a public plain attribute or a
    buffer of at most 65,536 elements; other state is that after the step. The module's ``on_train_batch_start``, which may
    seed, is called again on the copy.

    **Synchronization.** On a CPU the flag is read at once. On a GPU that would have the host wait for the device in every
    step. With a fused optimizer, which can skip a step on the device, the flag of a step is read in the next one, and from
    the failing step on no weight changes: as exact, without waiting. With any other optimizer the host waits once a step.

    **Memory.** The batches since the last check: with several processes those of one optimizer step, on a GPU with a fused
    optimizer those of two, otherwise one.

    **Limits.** With a gradient scaler (``16-mixed``) gradients overflow now and then, and the scaler skips these steps: only
    the loss is checked, and only in a single process. Sharded strategies, and other devices than CPU and CUDA, are not
    checked. With manual optimization the step is not replayed.

    Args:
        folder: where ``autopsy.pt`` is written; by default the Trainer's ``default_root_dir``.
        extra: returns more plain data for the file.
        error: makes the exception from the message and the anomaly, which is None where the replay was finite.
        deferred: read the flag of a step in the next one; by default on a GPU with a fused optimizer.
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        extra: Callable[[], Mapping[str, Any]] = dict,
        error: Callable[[str, Anomaly | None], Exception] = lambda text, anomaly: NonFinite(text),
        deferred: bool | None = None,
    ) -> None:
        self.folder = None if folder is None else Path(folder)
        self.extra, self.error, self.deferred = extra, error, deferred
        self._reset()

    def _reset(self) -> None:
        self.enabled = self.is_deferred = False
        self.step: Step | None = None  # the current one
        self.loss: Tensor | None = None
        self.flags: list[tuple[Step, Tensor]] = []  # of the steps since the optimizer's last one
        self.pending: _Flags | None = None  # of the last optimizer step
        self.found_inf: Tensor | None = None  # the optimizer's: 1 on the device from the failing step on
        self.optimizer: Any = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        alone = trainer.world_size == 1
        is_whole = type(trainer.strategy) in (SingleDeviceStrategy, DDPStrategy)  # subclasses may shard weights
        self.enabled = is_whole and pl_module.device.type in ("cpu", "cuda") and (alone or scaler is None)
        self.scaled, self.shared = scaler is not None, not alone
        deferred = pl_module.device.type == "cuda" if self.deferred is None else self.deferred
        fused = [bool(optimizer.defaults.get("fused")) for optimizer in trainer.optimizers]
        self.is_deferred = self.enabled and deferred and fused == [True] and not self.scaled and pl_module.automatic_optimization
        self.one = torch.ones((), device=pl_module.device)
        self.parameters = [] if self.scaled else _by_dtype(pl_module.parameters())
        self.attributes, self.buffers = state_attributes(pl_module), _small_buffers(pl_module)
        if self.is_deferred:
            self.optimizer, self.found_inf = trainer.optimizers[0], torch.zeros((), device=pl_module.device)
            self.optimizer.found_inf = self.found_inf

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        if self.enabled:
            rng, state = rng_state(pl_module.device), {name: getattr(pl_module, name) for name in self.attributes}
            buffers = {name: pl_module.get_buffer(name).clone() for name in self.buffers}
            self.step = Step(trainer.global_step + 1, trainer.current_epoch, batch_idx, batch, rng, state, buffers)

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        if self.enabled:
            # processes must agree, and the gradient is what they share
            self.loss = None if self.shared else loss.detach()

    def on_after_backward(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self.enabled or self.step is None:
            return
        flag = torch.zeros((), device=pl_module.device)
        for parameters in self.parameters:
            _mark([each.grad for each in parameters if each.grad is not None], flag, self.one)
        if self.loss is not None:
            _mark([self.loss], flag, self.one)
        if not (self.is_deferred or self.shared):
            if bool(flag):
                self._stop(trainer, pl_module, self.step)
            return
        self.flags.append((self.step, flag))
        if self.found_inf is not None:
            torch.maximum(self.found_inf, flag, out=self.found_inf)

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        if self.is_deferred:
            self._check(trainer, pl_module)
            self.pending, self.flags = _Flags(self.flags), []
        elif self.shared and self.enabled:
            self._check(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]  # the Trainer sets it without declaring it
        if self.is_deferred and (trainer.is_last_batch or (every and (batch_idx + 1) % every == 0)):
            self._check(trainer, pl_module)  # the host synchronizes now anyway, and others use the loss

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        if self.optimizer is not None and hasattr(self.optimizer, "found_inf"):
            del self.optimizer.found_inf
        self._reset()

    def _check(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Read the flags that are due."""
        if self.is_deferred:
            flags, self.pending = self.pending, None
        else:
            flags, self.flags = _Flags(self.flags), []
        for step in flags.failing() if flags else ():
            self._stop(trainer, pl_module, step)

    def _stop(self, trainer: L.Trainer, pl_module: L.LightningModule, step: Step) -> None:
        """Replay the step, write the file, and raise."""
        anomaly, reason = None, "all values were finite in the replay"
        if not pl_module.automatic_optimization:
            reason = "not located, because of manual optimization"
        else:
            try:
                anomaly = self._replay(trainer, pl_module, step)
            except Exception as error:  # training has failed for another reason
                reason = f"not located, as the replay failed: {type(error).__name__}: {error}"
        reporter = 0
        if self.shared:
            anomalies: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(anomalies, anomaly)
            reporter = next((rank for rank, each in enumerate(anomalies) if each is not None), 0)
            anomaly = anomalies[reporter]
        path = (self.folder or Path(trainer.default_root_dir)) / FILE
        what = anomaly.what if anomaly else "the loss or a gradient is not finite"
        text = f"{what} at step {step.number}: {anomaly or reason}"
        if trainer.global_rank == reporter:
            try:
                content = {**self._content(trainer, pl_module, step, anomaly), **self.extra()}
                trainer.strategy.checkpoint_io.save_checkpoint(content, path)
            except Exception as error:  # the message matters more than the file
                text += f". {FILE} could not be written: {error}"
        raise self.error(text, anomaly)

    def _replay(self, trainer: L.Trainer, pl_module: L.LightningModule, step: Step) -> Anomaly | None:
        copy = deepcopy(pl_module)
        copy.trainer = trainer
        for module in copy.modules():
            module._compiled_call_impl = None  # compiled modules cannot be intercepted
        for name, value in step.buffers.items():
            copy.get_buffer(name).copy_(value)
        # the module may seed here, which must be part of the saved state
        devices = [copy.device] if copy.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            set_rng_state(step.rng_state, copy.device)
            copy.on_train_batch_start(step.batch, step.batch_idx)
            step.rng_state = rng_state(copy.device)
        return replay(copy, step, trainer.precision, 1 / trainer.accumulate_grad_batches)

    def _content(self, trainer: L.Trainer, pl_module: L.LightningModule, step: Step, anomaly: Anomaly | None) -> dict[str, Any]:
        """The content of the file, as plain data on the CPU."""
        return {
            "autopsy": FORMAT,
            "step": step.number,
            "epoch": step.epoch,
            "batch_idx": step.batch_idx,
            "batch": _plain(step.batch),
            "rng_state": dict(step.rng_state),
            "state": _plain(step.state),
            "state_dict": _plain({name: step.buffers.get(name, value) for name, value in pl_module.state_dict().items()}),
            "evaluating": [name for name, module in pl_module.named_modules() if not module.training],
            "frozen": [name for name, parameter in pl_module.named_parameters() if not parameter.requires_grad],
            "device": pl_module.device.type,
            "precision": str(trainer.precision),
            "loss_scale": 1 / trainer.accumulate_grad_batches,
            "anomaly": asdict(anomaly) if anomaly else None,
        }


class _Flags:
    """Flags in transfer from the device to the host."""

    def __init__(self, flags: list[tuple[Step, Tensor]]) -> None:
        self.steps = [step for step, _ in flags]
        self.arrived: torch.cuda.Event | None = None
        values = torch.stack([flag for _, flag in flags]) if flags else torch.zeros(0)
        if values.is_cuda:
            self.values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True).copy_(values, non_blocking=True)
            self.arrived = torch.cuda.Event()
            self.arrived.record()
        else:
            self.values = values

    def failing(self) -> list[Step]:
        """The steps whose flag is set."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return [step for step, is_set in zip(self.steps, self.values.tolist(), strict=True) if is_set]


def _small_buffers(root: nn.Module) -> list[str]:
    """Names of the buffers that are copied at each step, without those of batch norms, which do not use them in training."""
    norms = {name for name, module in root.named_modules() if isinstance(module, nn.modules.batchnorm._NormBase)}
    buffers = ((name, buffer) for name, buffer in root.named_buffers() if name.rpartition(".")[0] not in norms)
    return [name for name, buffer in buffers if buffer.numel() <= MAX_BUFFER]


def _by_dtype(parameters: Iterable[nn.Parameter]) -> list[list[nn.Parameter]]:
    groups: dict[torch.dtype, list[nn.Parameter]] = {}
    for each in parameters:
        groups.setdefault(each.dtype, []).append(each)
    return list(groups.values())


def _mark(tensors: list[Tensor], flag: Tensor, one: Tensor) -> None:
    """Set the flag to 1, on the device, if any value in tensors of one dtype is not finite.

    This is the kernel of torch's gradient scaler with a scale of ``one``, which leaves the values as they are: one launch on a
    GPU, and on a CPU many times faster than checking one tensor after the other.
    """
    tensors = [each.detach() if each.requires_grad else each for each in tensors]  # a gradient may have a graph of its own
    tensors = [each._values() if each.is_sparse else each for each in tensors]
    tensors = [torch.view_as_real(each) if each.is_complex() else each for each in tensors]
    if tensors:
        torch._amp_foreach_non_finite_check_and_unscale_(tensors, flag, one)


def _plain(value: Any) -> Any:
    """Move tensors in dicts, lists and tuples to the CPU: plain data that can be read without trusting the file."""
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (tuple, list)):
        plain = [_plain(each) for each in value]
        return tuple(plain) if isinstance(value, tuple) else plain
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a batch of {type(value).__name__} is not plain data")


def replay_file(content: Mapping[str, Any], module: L.LightningModule) -> Anomaly | None:
    """Replay the step of a file and return its first non-finite value; None if all values are finite.

    Args:
        content: of ``autopsy.pt``, as ``torch.load(path, weights_only=True)`` gives it.
        module: an instance like the one that was trained, on the device to use; it is modified.

    Raises:
        RuntimeError: the weights do not match the module.
    """
    module.load_state_dict(content["state_dict"])
    for name, each in module.named_modules():
        each.training = name not in content["evaluating"]
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name not in content["frozen"])

    def here(value: Any) -> Any:
        return move_data_to_device(value, module.device)

    batch, state = here(content["batch"]), here(content["state"])
    step = Step(content["step"], content["epoch"], content["batch_idx"], batch, content["rng_state"], state)
    return replay(module, step, content["precision"], content["loss_scale"])
