"""Stops a training at the step where its numbers stop being finite, and says which layer and operation began it.

Until then it costs one pass over the gradients a step. Then the step is done again, on a copy, with every operation looked at.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor, nn

from zoo.callbacks.replay import Fault, Step, carriers, random_state, replay, set_random_state

FORMAT = 1
FILE = "autopsy.pt"
SMALL = 2**16  # numbers of a buffer that is kept at each step


class NonFinite(RuntimeError):
    """The loss or a gradient of a training is not finite."""


class NonFiniteAutopsy(L.Callback):
    """Looks at the loss and the gradients after every backward pass, and stops the training before the
    optimizer takes a step with what is not finite.

    **What is exact.** The batch, the random state and, as the optimizer has not stepped, the weights are those of the bad
    step, so doing it again goes wrong in the same way. Batch norms have taken their statistics in already, which does not
    matter to a step that normalizes by its batch. What a module keeps between steps is put back if it is a public plain
    attribute or a buffer of at most 65,536 numbers; other state of its own is as it was after the step. The module's
    ``on_train_batch_start``, which may seed, is called again on the copy.

    **What it waits for.** On a processor nothing: the flag is looked at at once. On a GPU that would have the host wait for
    the device in every step. With a fused optimizer, which can be told on the device to leave a step out, the flag of a step
    is looked at in the next one, and from the bad step on no weight changes: as exact, without waiting. With any other
    optimizer the host does wait once a step.

    **What it holds.** The batches since the last look: with several processes those of one optimizer step, on a GPU with a
    fused optimizer those of two, otherwise one.

    **What it leaves alone.** With a gradient scaler (``16-mixed``) gradients overflow now and then, and the scaler leaves
    these steps out: only the loss is looked at, and that in one process alone. Strategies that split the weights, and
    devices other than these two, are not watched. Where the module optimizes by hand the step is not done again.

    Args:
        folder: where ``autopsy.pt`` goes; the default is the Trainer's ``default_root_dir``.
        about: more plain data for the file, asked for when it is written.
        error: makes the exception out of the message and the fault, which is None where doing it again did not go wrong.
        late: look at the flag of a step in the next one; the default is to do so on a GPU, where the optimizer is fused.
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        about: Callable[[], Mapping[str, Any]] = dict,
        error: Callable[[str, Fault | None], Exception] = lambda text, fault: NonFinite(text),
        late: bool | None = None,
    ) -> None:
        self.folder = None if folder is None else Path(folder)
        self.about, self.error, self.late = about, error, late
        self._forget()

    def _forget(self) -> None:
        self.watches = self.is_late = False
        self.step: Step | None = None  # the one that is being done
        self.loss: Tensor | None = None
        self.flags: list[tuple[Step, Tensor]] = []  # of the steps since the optimizer's last one
        self.waiting: _Flags | None = None  # of the optimizer's last step
        self.left_out: Tensor | None = None  # 1 on the device from the first bad step on: the optimizer's "found_inf"
        self.optimizer: Any = None

    # ------------------------------------------------------------------ every step

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        alone = trainer.world_size == 1
        is_whole = type(trainer.strategy) in (SingleDeviceStrategy, DDPStrategy)  # others derive from them and split weights
        self.watches = is_whole and pl_module.device.type in ("cpu", "cuda") and (alone or scaler is None)
        self.scaled, self.shared = scaler is not None, not alone
        wanted = pl_module.device.type == "cuda" if self.late is None else self.late
        fused = [bool(optimizer.defaults.get("fused")) for optimizer in trainer.optimizers]
        self.is_late = self.watches and wanted and fused == [True] and not self.scaled and pl_module.automatic_optimization
        self.one = torch.ones((), device=pl_module.device)
        self.parameters = [] if self.scaled else _by_type(pl_module.parameters())
        self.carriers, self.buffers = carriers(pl_module), _small_buffers(pl_module)
        if self.is_late:
            self.optimizer, self.left_out = trainer.optimizers[0], torch.zeros((), device=pl_module.device)
            self.optimizer.found_inf = self.left_out

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        if self.watches:
            random, kept = random_state(pl_module.device), {name: getattr(pl_module, name) for name in self.carriers}
            buffers = {name: pl_module.get_buffer(name).clone() for name in self.buffers}
            self.step = Step(trainer.global_step + 1, trainer.current_epoch, batch_idx, batch, random, kept, buffers)

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        if self.watches:
            # processes must come to the same answer, and the gradient is what they share
            self.loss = None if self.shared else loss.detach()

    def on_after_backward(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self.watches or self.step is None:
            return
        flag = torch.zeros((), device=pl_module.device)
        for parameters in self.parameters:
            _mark([each.grad for each in parameters if each.grad is not None], flag, self.one)
        if self.loss is not None:
            _mark([self.loss], flag, self.one)
        if not (self.is_late or self.shared):
            if bool(flag):
                self._examine(trainer, pl_module, self.step)
            return
        self.flags.append((self.step, flag))
        if self.is_late:
            torch.maximum(self.left_out, flag, out=self.left_out)

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        if self.is_late:
            self._look(trainer, pl_module)
            self.waiting, self.flags = _Flags(self.flags), []
        elif self.shared and self.watches:
            self._look(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        every = trainer.log_every_n_steps
        if self.is_late and (trainer.is_last_batch or (every and (batch_idx + 1) % every == 0)):
            self._look(trainer, pl_module)  # the device is waited for now anyway, and others judge the loss

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        if self.optimizer is not None and hasattr(self.optimizer, "found_inf"):
            del self.optimizer.found_inf
        self._forget()

    def _look(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Have the host look at the flags that are due."""
        if self.is_late:
            looked, self.waiting = self.waiting, None
        else:
            looked, self.flags = _Flags(self.flags), []
        for step in looked.bad() if looked else ():
            self._examine(trainer, pl_module, step)

    # ------------------------------------------------------------------ the bad step

    def _examine(self, trainer: L.Trainer, pl_module: L.LightningModule, step: Step) -> None:
        """Do the step again, write the file, and raise."""
        fault, reason = None, "when the step was done again all was finite"
        if not pl_module.automatic_optimization:
            reason = "where is not known, as the module optimizes by hand"
        else:
            try:
                fault = self._replay(trainer, pl_module, step)
            except Exception as error:  # whatever it is, the training has gone wrong for another reason
                reason = f"where is not known, as doing the step again failed: {type(error).__name__}: {error}"
        speaker = 0
        if self.shared:
            faults: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(faults, fault)
            speaker = next((rank for rank, each in enumerate(faults) if each is not None), 0)
            fault = faults[speaker]
        path = (self.folder or Path(trainer.default_root_dir)) / FILE
        what = fault.what if fault else "the loss or a gradient is not finite"
        text = f"{what} at step {step.number}: {fault or reason}"
        if trainer.global_rank == speaker:
            try:
                _write(path, {**self._content(trainer, pl_module, step, fault), **self.about()})
            except (OSError, RuntimeError, TypeError) as error:
                text += f". It could not be kept: {error}"
        raise self.error(text, fault)

    def _replay(self, trainer: L.Trainer, pl_module: L.LightningModule, step: Step) -> Fault | None:
        copy = deepcopy(pl_module)
        copy.trainer = trainer
        for module in copy.modules():
            module._compiled_call_impl = None  # what is compiled cannot be looked into
        for name, value in step.buffers.items():
            copy.get_buffer(name).copy_(value)
        # the module may seed or otherwise begin its step, which must be part of what is kept
        devices = [copy.device] if copy.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            set_random_state(step.random, copy.device)
            copy.on_train_batch_start(step.batch, step.batch_idx)
            step.random = random_state(copy.device)
        return replay(copy, step, trainer.precision, 1 / trainer.accumulate_grad_batches)

    def _content(self, trainer: L.Trainer, pl_module: L.LightningModule, step: Step, fault: Fault | None) -> dict[str, Any]:
        """What the file holds, as plain data on the CPU."""
        return {
            "autopsy": FORMAT,
            "step": step.number,
            "epoch": step.epoch,
            "batch_idx": step.batch_idx,
            "batch": _plain(step.batch),
            "random": dict(step.random),
            "carried": _plain(step.carried),
            "state_dict": _plain({name: step.buffers.get(name, value) for name, value in pl_module.state_dict().items()}),
            "evaluating": [name for name, module in pl_module.named_modules() if not module.training],
            "frozen": [name for name, parameter in pl_module.named_parameters() if not parameter.requires_grad],
            "device": pl_module.device.type,
            "precision": str(trainer.precision),
            "share": 1 / trainer.accumulate_grad_batches,
            "fault": fault.to_dict() if fault else None,
        }


class _Flags:
    """Flags on their way from the device to the host."""

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

    def bad(self) -> list[Step]:
        """The steps with a flag that is set."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return [step for step, is_set in zip(self.steps, self.values.tolist(), strict=True) if is_set]


def _small_buffers(root: nn.Module) -> list[str]:
    """Names of those that are kept at each step: not of batch norms, which do not look at them while they train."""
    norms = {name for name, module in root.named_modules() if isinstance(module, nn.modules.batchnorm._NormBase)}
    buffers = ((name, buffer) for name, buffer in root.named_buffers() if name.rpartition(".")[0] not in norms)
    return [name for name, buffer in buffers if buffer.numel() <= SMALL]


def _by_type(parameters: Iterable[nn.Parameter]) -> list[list[nn.Parameter]]:
    groups: dict[torch.dtype, list[nn.Parameter]] = {}
    for each in parameters:
        groups.setdefault(each.dtype, []).append(each)
    return list(groups.values())


def _mark(tensors: list[Tensor], flag: Tensor, one: Tensor) -> None:
    """Set the flag to 1 if a number in tensors of one type is not finite, on their device.

    That is what torch's gradient scaler looks with, here at a scale of ``one``, which leaves each number as it is: one
    kernel on a GPU, and on a processor many times faster than looking at one tensor after the other.
    """
    tensors = [each.detach() if each.requires_grad else each for each in tensors]  # a gradient may have a graph of its own
    tensors = [each._values() if each.is_sparse else each for each in tensors]
    tensors = [torch.view_as_real(each) if each.is_complex() else each for each in tensors]
    if tensors:
        torch._amp_foreach_non_finite_check_and_unscale_(tensors, flag, one)


def _plain(value: Any) -> Any:
    """Tensors on the CPU in dicts, lists and tuples, which is what may be read without trusting a file."""
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


def _write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.partial")
    try:
        torch.save(content, beside)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def repeat(content: Mapping[str, Any], module: L.LightningModule) -> Fault | None:
    """Do the step of a file again; None if it does not go wrong.

    Args:
        content: of ``autopsy.pt``, as ``torch.load(path, weights_only=True)`` gives it.
        module: built as the one that was trained, on the device to do it on; it is given the weights of the file, and changed.

    Raises:
        RuntimeError: the weights do not fit the module.
    """
    module.load_state_dict(content["state_dict"])
    for name, each in module.named_modules():
        each.training = name not in content["evaluating"]
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name not in content["frozen"])

    def here(value: Any) -> Any:
        return move_data_to_device(value, module.device)

    batch, kept = here(content["batch"]), here(content["carried"])
    step = Step(content["step"], content["epoch"], content["batch_idx"], batch, content["random"], kept)
    return replay(module, step, content["precision"], content["share"])
