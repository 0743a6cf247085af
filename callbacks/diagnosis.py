"""Diagnosis of a running training from the records of its monitors, its losses, and the gradients and norms themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from zoo.callbacks.findings import (
    AGREEING,
    PATIENCE,
    Finding,
    check_activations,
    check_gradients,
    check_initial_loss,
    check_losses,
    check_throughput,
)
from zoo.callbacks.recording import Record, optimized_parameters

MIN_NORM_VALUES = 16  # of a channel in one batch, for batch norm


class Diagnosis(L.Callback):
    """Checks the records of monitors during training and reports each finding once.

    Pass its ``add_record`` to the monitors as ``write``::

        diagnosis = Diagnosis(classes=10)
        monitors = [kind(write=diagnosis.add_record) for kind in (ActivationStatistics, GradientMonitor)]
        Trainer(callbacks=[*monitors, diagnosis])

    Args:
        classes: number of classes, from which the loss at chance level follows; None leaves out what needs it.
        metrics: the latest values, filled by a logger; train/accuracy and val/accuracy are used.
        write: called with every record that ``add_record`` gets and with each finding as a record; by default nothing is written.
        frozen: whether parameters without ``requires_grad`` are frozen by an option.
        remedies: finding name -> what to try, in place of the finding's own remedy.

    Attributes:
        findings: all so far.
        steps: the step of each of them.
    """

    def __init__(
        self,
        classes: int | None = None,
        metrics: Mapping[str, float] = MappingProxyType({}),
        write: Callable[[Record], None] = lambda record: None,
        frozen: bool = False,
        remedies: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.classes, self.metrics, self.write, self.frozen, self.remedies = classes, metrics, write, frozen, remedies
        self.findings: list[Finding] = []
        self.steps: list[int] = []
        self._history: dict[str, list[Record]] = {"activations": [], "gradients": [], "throughput": []}
        self._rates: list[float] = []
        self._losses: list[float] = []
        self._val_losses: list[float] = []
        self._val_accuracies: list[float] = []
        self._sum: Tensor | None = None
        self._steps = self._step = self._epoch = 0
        self._rate = 0.0
        self._hook: RemovableHandle | None = None
        self._optimized: set[int] = set()  # the id of each parameter in an optimizer

    @property
    def most_severe(self) -> Finding | None:
        return min(self.findings, key=lambda finding: finding.severity, default=None)  # "error" is before "warning"

    def add_record(self, record: Record) -> None:
        """Check a new record of a monitor."""
        self.write(record)
        kind = record["kind"]
        if kind not in self._history:
            return
        self._step, self._epoch = record["step"], record["epoch"]
        history = self._history[kind]
        history.append(record)
        del history[:-AGREEING]
        if kind == "gradients":
            self._rates.append(self._rate)
            self._report(check_gradients(history, self._rates))
        else:
            self._report({"activations": check_activations, "throughput": check_throughput}[kind](history))

    def _report(self, findings: Iterable[Finding]) -> None:
        for finding in findings:
            if all((finding.name, finding.where) != (known.name, known.where) for known in self.findings):
                finding = replace(finding, remedy=self.remedies.get(finding.name, finding.remedy))
                self.findings.append(finding)
                self.steps.append(self._step)
                self.write({"step": self._step, "epoch": self._epoch, "kind": "finding", **finding.to_dict()})

    def state_dict(self) -> dict[str, Any]:
        return {"losses": self._losses, "val_losses": self._val_losses, "val_accuracies": self._val_accuracies}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._losses, self._val_losses = list(state_dict["losses"]), list(state_dict["val_losses"])
        self._val_accuracies = list(state_dict["val_accuracies"])

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._optimized = optimized_parameters(*trainer.optimizers)
        idle = [name for name, p in pl_module.named_parameters() if p.requires_grad and id(p) not in self._optimized]
        if idle and self._optimized and trainer.is_global_zero:
            self._report([Finding(
                "not-optimized", "warning", idle[0], f"{len(idle)} parameters that require gradients are in no optimizer",
                "configure_optimizers got only a part of the network", "all of self.parameters(), or requires_grad_(False)",
            )])  # fmt: skip
        learn = [name for name, p in pl_module.named_parameters() if p.requires_grad]
        still = [name for name, p in pl_module.named_parameters() if not p.requires_grad]
        if learn and still and not self.frozen and trainer.is_global_zero:
            self._report([Finding(
                "frozen-parameters", "warning", still[0], f"{len(still)} of {len(still) + len(learn)} parameters are frozen",
                "requires_grad was set to False and not restored", "requires_grad_(True)",
            )])  # fmt: skip

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.optimizers and trainer.optimizers[0].param_groups:
            self._rate = trainer.optimizers[0].param_groups[-1]["lr"]
        if batch_idx == 0 and trainer.current_epoch == 0 and trainer.is_global_zero:
            self._check_norms(pl_module)

    def _check_norms(self, module: nn.Module) -> None:
        """Count the values of a channel that batch norm gets in the first batch."""

        def count(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if not inputs:  # called by name
                return
            values = inputs[0].numel() // inputs[0].shape[1]
            if norm.training and values < MIN_NORM_VALUES:
                self._report([Finding(
                    "small-batch-norm", "warning", name, f"its statistics come from {values} values of a channel in a batch",
                    "a tiny batch: the statistics are mostly noise, and differ from those of evaluation",
                    "a larger batch, synchronized batch norm, or group norm",
                )])  # fmt: skip

        norms = [(n, m) for n, m in module.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        if norms:
            name, norm = norms[-1]  # the last one sees the smallest maps
            self._hook = norm.register_forward_pre_hook(count)

    def _unhook(self) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._unhook()

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        is_early = trainer.global_step in (1, 2) and trainer.is_global_zero
        if is_early and trainer.accumulate_grad_batches == 1 and pl_module.automatic_optimization:
            moved = [
                (name, p.grad) for name, p in pl_module.named_parameters() if id(p) in self._optimized and p.grad is not None
            ]
            left = next((name for name, gradient in moved if gradient.count_nonzero()), None)
            if left is not None:
                self._report([Finding(
                    "gradients-not-zeroed", "error", left, "it still has the gradient of the last step when the next is computed",
                    "zero_grad is missing, so that gradients of all steps add up", "optimizer.zero_grad() before each backward",
                )])  # fmt: skip

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._unhook()
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if not isinstance(loss, Tensor):
            return
        loss = loss.detach()
        if self._sum is None and trainer.current_epoch == 0 and batch_idx == 0 and self.classes and trainer.is_global_zero:
            self._report(check_initial_loss(float(loss) * trainer.accumulate_grad_batches, self.classes))
        self._sum = loss if self._sum is None else self._sum + loss
        self._steps += 1

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._sum is None or not self._steps or not trainer.is_global_zero:
            return
        self._step, self._epoch = trainer.global_step - 1, trainer.current_epoch
        self._losses.append(float(self._sum) / self._steps * trainer.accumulate_grad_batches)
        self._sum, self._steps = torch.zeros_like(self._sum), 0
        values = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        if "val/loss" in values:
            self._val_losses.append(values["val/loss"])
        if "val/accuracy" in values:
            self._val_accuracies.append(values["val/accuracy"])
        train, recent = self.metrics.get("train/accuracy"), self._val_accuracies[-PATIENCE:]
        gap = train - max(recent) if train is not None and recent else None
        self._report(check_losses(self._losses, self._val_losses, gap, self.classes, trainer.global_step))
