"""Checks before a long training: first loss, activations and gradients, overfitting one batch, learning rate range test."""

from __future__ import annotations

import math
from copy import copy, deepcopy
from dataclasses import dataclass, field
from typing import Any

import lightning as L
import torch

from zoo.callbacks.activation_statistics import ActivationStatistics
from zoo.callbacks.diagnosis import Diagnosis
from zoo.callbacks.findings import Finding
from zoo.callbacks.gradient_monitor import GradientMonitor
from zoo.callbacks.recording import Record
from zoo.config.run import Run
from zoo.registry.registry import Registry
from zoo.training.monitoring import REMEDIES
from zoo.training.tuning import Setup, build_setup, fit, range_test

STEPS = 12  # recorded
OVERFIT_STEPS = 100  # in which one batch must be learned
SAMPLES = 32  # of that batch at most
LEARNED = 0.8  # of the first loss, above what label smoothing leaves; a correct network gets far below


@dataclass
class Check:
    """Result of one check, with its findings."""

    name: str
    summary: str
    findings: list[Finding] = field(default_factory=list)
    is_clear: bool = True  # else neither good nor bad

    @property
    def state(self) -> str:
        """``fine``, ``unclear``, or the severity of the worst finding."""
        worst = min((finding.severity for finding in self.findings), default=None)  # "error" is before "warning"
        return worst or ("fine" if self.is_clear else "unclear")

    def to_dict(self) -> dict[str, Any]:
        findings = [finding.to_dict() for finding in self.findings]
        return {"check": self.name, "state": self.state, "summary": self.summary, "findings": findings}


def examine(registry: Registry, run: Run) -> list[Check]:
    """Check a Run before it is trained; no weights change, and nothing is written.

    Raises:
        UserError: as ``zoo.training.tuning.build_setup`` does.
    """
    setup = build_setup(registry, run)
    checks = _first_steps(setup)
    if checks[0].findings and checks[0].findings[0].name == "not-finite":
        return checks  # the rest would fail too
    if setup.data.has_samples:
        checks.append(_overfit_batch(setup))
    checks.append(_rate(setup))
    return checks


def _first_steps(setup: Setup) -> list[Check]:
    classes = setup.task.chance_classes
    records: list[Record] = []
    diagnosis = Diagnosis(classes, write=records.append, frozen=True, remedies=REMEDIES, verbose=False)
    monitors = [kind(every=1, write=records.append) for kind in (ActivationStatistics, GradientMonitor)]
    losses = _Losses()
    limits = {"limit_train_batches": STEPS, "limit_val_batches": 0}
    fit(
        setup.run.model_copy(update={"recipe": _constant(setup)}),
        setup.data,
        _copy(setup),
        limits,
        [*monitors, diagnosis, losses, *setup.callbacks],
    )
    guess = f", chance level ln({classes}) = {math.log(classes):.3g}" if classes else ""
    of_loss = [finding for finding in diagnosis.findings if finding.name == "initial-loss"]
    if not losses.values or not math.isfinite(losses.values[0]):
        of_loss = [Finding(
            "not-finite", "error", "loss", "it is not finite at the first step, whatever the learning rate",
            "a logarithm of 0, a division by 0, or a nan in the inputs", "`zoo train`, then `zoo autopsy`, which names the layer",
        )]  # fmt: skip
    checks = [Check("initial loss", f"{losses.values[0]:.3g}{guess}" if losses.values else "not finite", of_loss)]
    first = next((record for record in records if record["kind"] == "activations"), None)
    others = [finding for finding in diagnosis.findings if finding.name != "initial-loss"]
    return [*checks, Check("activations and gradients", _signals(first), others)]


def _signals(record: Record | None) -> str:
    """Describe how much the outputs of layers vary between samples."""
    layers = [layer for layer in record["layers"].values() if layer["signal"] is not None] if record else []
    if not layers:
        return "no layer with weights"
    least, most = (f"{choose(layer['signal'] for layer in layers):.2g}" for choose in (min, max))
    counted = "1 layer" if len(layers) == 1 else f"{len(layers)} layers"
    return (
        f"standard deviation of outputs over samples {least}"
        + (f" to {most}" if most != least else "")
        + f", {counted} with weights"
    )


def _overfit_batch(setup: Setup) -> Check:
    """Train on one batch, without augmentation and on the labels alone, until it is memorized."""
    data, recipe = copy(setup.data), _constant(setup)
    split = data.splits["train"]
    count = min(SAMPLES, len(split))
    data.splits = {**data.splits, "train": split.subset(torch.linspace(0, len(split) - 1, count).long())}
    data.batch_size, data.augmentation = count, lambda batch, seed: batch
    recipe = recipe.model_copy(update={"epochs": OVERFIT_STEPS, "batch_size": count, "accumulate_grad_batches": 1, "teacher": ""})
    losses = _Losses(fraction=LEARNED / 4)
    fit(setup.run.model_copy(update={"recipe": recipe}), data, _copy(setup, recipe), {"limit_val_batches": 0}, [losses])
    values = losses.values
    if not values:
        values = [math.nan]
    summary = f"{count} samples, loss {values[0]:.3g} -> {values[-1]:.3g} in {len(values)} steps"
    learned = min(values) - losses.floor < LEARNED * (values[0] - losses.floor) or values[0] - losses.floor < 0.1
    finding = Finding(
        "cannot-overfit", "error", "one batch", f"its loss went from {values[0]:.3g} to {values[-1]:.3g} in {len(values)} steps",
        "it cannot memorize even one batch: a layer is detached, the learning rate is far too low or too high, or the loss does "
        "not depend on the labels",
        "`zoo tune` for the learning rate; then check for layers without a gradient",
    )  # fmt: skip
    return Check("overfit one batch", summary, [] if learned else [finding])


def _rate(setup: Setup) -> Check:
    test, rate = range_test(setup), setup.run.recipe.lr
    end = f"it diverged above {test.rates[-1]:.2g}" if test.diverged else f"it was finite up to {test.rates[-1]:.2g}"
    if test.suggestion is None:
        summary = f"recipe.lr={rate:g}; the loss did not fall at any learning rate in {len(test.rates)} steps"
        return Check("learning rate", summary, is_clear=False)
    summary = f"recipe.lr={rate:g}; the loss was lowest at {test.suggestion:g}, and {end}"
    findings = []
    if test.diverged and rate > 10 * test.rates[-1]:
        findings.append(Finding(
            "learning-rate-too-high", "error", "learning rate",
            f"recipe.lr={rate:g}, and the loss diverged at {test.rates[-1]:.2g}",
            "steps that overshoot", f"--set recipe.lr={test.suggestion:g}",
        ))  # fmt: skip
    if rate < test.suggestion / 1000:
        findings.append(Finding(
            "learning-rate-too-low", "warning", "learning rate",
            f"recipe.lr={rate:g}, and the loss was lowest at {test.suggestion:g}",
            "steps so small that training takes a thousand times as long", f"--set recipe.lr={test.suggestion / 3:.1g}",
        ))  # fmt: skip
    return Check("learning rate", summary, findings)


def _constant(setup: Setup) -> Any:
    """The recipe with a constant learning rate."""
    return setup.run.recipe.model_copy(update={"schedule": "constant", "warmup_epochs": 0.0, "epochs": 1})


def _copy(setup: Setup, recipe: Any = None) -> Any:
    task = deepcopy(setup.task)
    task.recipe = recipe or _constant(setup)
    return task


class _Losses(L.Callback):
    """The loss of each step; training stops where the loss falls below the given fraction of the first."""

    def __init__(self, fraction: float | None = None) -> None:
        self.fraction, self.values, self.floor = fraction, [], 0.0

    def on_train_batch_end(self, trainer: L.Trainer, task: L.LightningModule, outputs: Any, *_: Any) -> None:
        self.values.append(float(outputs["loss"]) * trainer.accumulate_grad_batches)
        if len(self.values) == 1 and (smoothing := task.recipe.label_smoothing) and (classes := task.chance_classes):
            right, wrong = 1 - smoothing + smoothing / classes, smoothing / classes
            self.floor = -right * math.log(right) - (classes - 1) * wrong * math.log(wrong)
        if self.fraction is not None and self.values[-1] - self.floor < self.fraction * (self.values[0] - self.floor):
            trainer.should_stop = True
