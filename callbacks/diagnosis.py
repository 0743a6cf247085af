"""Diagnosis of a running training from the records of its monitors, its losses, and the gradients and norms themselves."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from zoo.callbacks.findings import (
    AGREEING,
    CONSEQUENCES,
    LOSS_FINDINGS,
    PATIENCE,
    Finding,
    check_activations,
    check_gradients,
    check_initial_loss,
    check_losses,
    check_throughput,
)
from zoo.callbacks.recording import Guarded, Monitor, Record, RecordListener, callbacks_of, optimized_parameters

RULES = {"activations": check_activations, "throughput": check_throughput}  # by kind of record
MIN_NORM_VALUES = 16  # of a channel in one batch, for batch norm
# attributes in a checkpoint besides the findings
KEPT = (
    "history", "rates", "losses", "val_losses", "val_accuracies", "sum", "steps", "step", "epoch", "withdrawn", "sources", "last",
    "newest",
)  # fmt: skip


class Diagnosis(Guarded, RecordListener):
    """Checks the records of the monitors of the same ``Trainer`` during training and reports each finding once::

        Trainer(callbacks=[ActivationStatistics(), GradientMonitor(), Diagnosis(classes=10)])

    Of what the module logs it reads ``train/accuracy``, ``val/accuracy`` and ``val/loss``, or ``train_accuracy`` or ``train_acc``
    and so on.

    Args:
        classes: number of classes, from which the loss at chance level follows; None, or fewer than two, leaves out what needs
            it.
        write: called with each finding as a record; by default it goes to the Trainer's loggers, as text where they take text.
        frozen: whether parameters without ``requires_grad`` are frozen by an option.
        remedies: finding name -> what to try, in place of the finding's own remedy.
        verbose: print each finding when it is found, unless a ``TrainingProgress`` shows it.

    Attributes:
        findings: all so far.
        steps: the step of each of them.
        standing: those that still hold. What is not found any more has the steps at which it was; and what the losses of later
            epochs contradict is withdrawn.
    """

    def __init__(
        self,
        classes: int | None = None,
        write: Callable[[Record], None] | None = None,
        frozen: bool = False,
        remedies: Mapping[str, str] | None = None,
        verbose: bool = True,
    ) -> None:
        self.classes = classes if classes and classes > 1 else None
        self.write, self.frozen, self.remedies, self.verbose = write, frozen, remedies or {}, verbose
        self.start()

    def start(self) -> None:
        super().start()
        self.findings: list[Finding] = []
        self.steps: list[int] = []
        self._withdrawn: list[str] = []
        self._sources: dict[str, str] = {}  # the kind of record that each finding is in, if it is in one
        self._last: dict[str, int] = {}  # step at which each was found again
        self._newest: dict[str, int] = {}  # step of the last record of each kind
        self._history: dict[str, list[Record]] = {"activations": [], "gradients": [], "throughput": []}
        self._rates: list[float] = []
        self._losses: list[float] = []
        self._val_losses: list[float] = []
        self._val_accuracies: list[float] = []
        self._sum: Tensor | None = None
        self._steps = self._step = self._epoch = 0
        self._rate: float | Tensor | None = None
        self._hook: RemovableHandle | None = None
        self._optimized: set[int] = set()  # the id of each parameter in an optimizer

    @property
    def most_severe(self) -> Finding | None:
        return min(self.standing, key=lambda finding: finding.severity, default=None)  # "error" is before "warning"

    @property
    def standing(self) -> list[Finding]:
        pairs = zip(self.findings, self.steps, strict=True)
        return [self._dated(finding, first) for finding, first in pairs if _key(finding) not in self._withdrawn]

    def _dated(self, finding: Finding, first: int) -> Finding:
        """The finding, with its steps if the newest record does not have it."""
        last = self._last.get(_key(finding), first)
        if last >= self._newest.get(self._sources.get(_key(finding), ""), last):
            return finding
        steps = f"at step {first}" if last == first else f"from step {first} to {last}"
        return replace(finding, evidence=f"{finding.evidence} ({steps})")

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        self.start()
        if trainer.is_global_zero and not any(isinstance(callback, Monitor) for callback in callbacks_of(trainer)):
            warnings.warn(
                "Diagnosis has no monitors to listen to: add ActivationStatistics() and GradientMonitor() to the callbacks",
                stacklevel=1,
            )

    def on_record(self, trainer: L.Trainer, record: Record) -> None:
        kind = record["kind"]
        if kind not in self._history:
            return
        self._step, self._epoch = record["step"], record["epoch"]
        self._newest[kind] = self._step
        history = self._history[kind]
        history.append(record)
        del history[:-AGREEING]
        if kind == "gradients":
            self._rates = _bounded([*self._rates, float(self._rate or 0)], AGREEING, max)
        found: list[Finding] = []
        with self.guarded(f"findings in {kind}"):
            found += check_gradients(history, self._rates) if kind == "gradients" else RULES[kind](history)
        self._report(trainer, found, kind)

    def _report(self, trainer: L.Trainer, findings: Iterable[Finding], source: str = "") -> None:
        for finding in findings:
            if any(finding.name in CONSEQUENCES.get(known.name, ()) for known in self.findings):
                continue
            self._last[_key(finding)] = self._step
            if _key(finding) not in map(_key, self.findings):
                finding = replace(finding, remedy=self.remedies.get(finding.name, finding.remedy))
                self.findings.append(finding)
                self.steps.append(self._step)
                self._sources[_key(finding)] = source
                self._show(trainer, finding)

    def _withdraw(self, trainer: L.Trainer, found: list[Finding]) -> None:
        """Withdraw what was found in the losses of former epochs, and is not now."""
        holding = set(map(_key, found))
        for finding in self.findings:
            key = _key(finding)
            if finding.name not in LOSS_FINDINGS or (key in holding) != (key in self._withdrawn):
                continue
            (self._withdrawn.remove if key in self._withdrawn else self._withdrawn.append)(key)
            kind = "withdrawal" if key in self._withdrawn else "finding"
            if self.write is not None:
                self.write({"step": self._step, "epoch": self._epoch, "kind": kind, **finding.to_dict()})
            else:
                for logger in trainer.loggers:
                    logger.log_metrics({"findings": len(self.standing)}, step=self._step)

    def _show(self, trainer: L.Trainer, finding: Finding) -> None:
        """Write a finding, or log it, and print it."""
        if self.write is not None:
            self.write({"step": self._step, "epoch": self._epoch, "kind": "finding", **finding.to_dict()})
        else:
            for logger in trainer.loggers:
                logger.log_metrics({"findings": len(self.findings)}, step=self._step)
                if isinstance(logger, TensorBoardLogger):
                    logger.experiment.add_text(f"findings/{finding.name}", str(finding), self._step)
                elif isinstance(logger, WandbLogger):
                    rows = [[str(step), str(each)] for step, each in zip(self.steps, self.findings, strict=True)]
                    logger.log_text("findings/text", columns=["step", "finding"], data=rows, step=self._step)
        if self.verbose and not any(getattr(callback, "diagnosis", None) is self for callback in callbacks_of(trainer)):
            trainer.lightning_module.print(f"step {self._step}  {finding.one_line}")  # above a progress bar

    def state_dict(self) -> dict[str, Any]:
        findings = [asdict(finding) for finding in self.findings]
        return {"findings": findings, "found_at": self.steps, **{name: getattr(self, f"_{name}") for name in KEPT}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.findings = [Finding(**fields) for fields in state_dict["findings"]]
        self.steps = list(state_dict["found_at"])
        for name in KEPT:
            setattr(self, f"_{name}", state_dict[name])

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._sum = None if self._sum is None else self._sum.to(pl_module.device)  # that of a checkpoint was read to the CPU
        self._optimized = optimized_parameters(*trainer.optimizers)
        idle = [name for name, p in pl_module.named_parameters() if p.requires_grad and id(p) not in self._optimized]
        if idle and self._optimized and trainer.is_global_zero:
            self._report(trainer, [Finding(
                "not-optimized", "warning", idle[0], f"{len(idle)} parameters that require gradients are in no optimizer",
                "configure_optimizers got only a part of the network", "all of self.parameters(), or requires_grad_(False)",
            )])  # fmt: skip
        learn = [name for name, p in pl_module.named_parameters() if p.requires_grad]
        still = [name for name, p in pl_module.named_parameters() if not p.requires_grad]
        if learn and still and not self.frozen and trainer.is_global_zero:
            self._report(trainer, [Finding(
                "frozen-parameters", "warning", still[0], f"{len(still)} of {len(still) + len(learn)} parameters are frozen",
                "requires_grad was set to False and not restored", "requires_grad_(True)",
            )])  # fmt: skip

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.optimizers and trainer.optimizers[0].param_groups:
            self._rate = trainer.optimizers[0].param_groups[-1].get("lr")  # which not every optimizer has
        if batch_idx == 0 and trainer.current_epoch == 0 and trainer.is_global_zero:
            self._check_norms(trainer, pl_module)

    def _check_norms(self, trainer: L.Trainer, module: nn.Module) -> None:
        """Count the values of a channel that batch norm gets in the first batch."""

        def count(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if not inputs or not isinstance(inputs[0], Tensor) or inputs[0].dim() < 2:  # called by name, or as no norm of torch
                return
            values = inputs[0].numel() // max(1, inputs[0].shape[1])
            if norm.training and values < MIN_NORM_VALUES:
                self._report(trainer, [Finding(
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
            left = None
            with self.guarded("gradients of the last step"):
                left = next((name for name, gradient in moved if gradient.count_nonzero()), None)
            if left is not None:
                self._report(trainer, [Finding(
                    "gradients-not-zeroed", "error", left, "it still has the gradient of the last step when the next is computed",
                    "zero_grad is missing, so that gradients of all steps add up", "optimizer.zero_grad() before each backward",
                )])  # fmt: skip

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._unhook()
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if not isinstance(loss, Tensor) or loss.numel() != 1:  # by hand anything may be returned
            return
        loss = loss.detach().float().reshape(())
        if self._sum is None and trainer.current_epoch == 0 and batch_idx == 0 and self.classes and trainer.is_global_zero:
            self._report(trainer, check_initial_loss(float(loss) * trainer.accumulate_grad_batches, self.classes))
        self._sum = loss if self._sum is None else self._sum + loss
        self._steps += 1

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._sum is None or not self._steps or not trainer.is_global_zero:
            return
        self._step, self._epoch = trainer.global_step - 1, trainer.current_epoch
        self._losses = [*self._losses, float(self._sum) / self._steps * trainer.accumulate_grad_batches][-AGREEING:]
        self._sum, self._steps = torch.zeros_like(self._sum), 0
        if (loss := _logged(trainer, "val", "loss")) is not None:
            self._val_losses = _bounded([*self._val_losses, loss], PATIENCE, min)
        if (accuracy := _logged(trainer, "val", "accuracy", "acc")) is not None:
            self._val_accuracies = _bounded([*self._val_accuracies, accuracy], PATIENCE, max)
        train, recent = _logged(trainer, "train", "accuracy", "acc"), self._val_accuracies[-PATIENCE:]
        gap = train - max(recent) if train is not None and recent else None
        epochs = trainer.current_epoch + 1
        found = list(
            check_losses(
                self._losses, self._val_losses, gap, self.classes, trainer.global_step, epochs, train, self._val_accuracies
            )
        )
        self._report(trainer, found)
        self._withdraw(trainer, found)


def _bounded(values: list[float], recent: int, extreme: Callable[[list[float]], float]) -> list[float]:
    """The most recent values, after the extreme of all earlier ones: what the rules need, in memory and checkpoints that do not
    grow."""
    return [extreme(values[:-recent]), *values[-recent:]] if len(values) > recent else values


def _key(finding: Finding) -> str:
    return f"{finding.name} in {finding.where}"


def _logged(trainer: L.Trainer, stage: str, *names: str) -> float | None:
    """The latest value of a metric that the module logs under one of these names, as in ``val/loss`` or ``val_loss``."""
    keys = (f"{stage}{separator}{name}" for name in names for separator in "/_")
    return next((float(trainer.callback_metrics[key]) for key in keys if key in trainer.callback_metrics), None)
