"""Findings: rules that read the records of a run and report problems, the evidence, the likely cause and a remedy.

The rules are functions of records, so they apply to a running training as to a finished one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise, takewhile
from statistics import median
from typing import Any

from zoo.callbacks.recording import Record

# Fractions of units and of outputs from which a layer is reported. Where samples are much alike, half of all units are silent;
# and of the outputs of a tanh, two thirds may be near an end.
DEAD, SATURATED = 0.8, 0.8
SPREAD = 1e3  # factor by which activations may grow or shrink from the first layer to another
UPDATE_WILD, UPDATE_HIGH, UPDATE_LOW = 1.0, 0.1, 1e-6  # update-to-weight ratio of a step: at first, later, at the least
GRADIENT_SHARE = 1e-5  # of the largest gradient per weight, below which a layer learns nothing
GROWING = 1.5  # times as much as two records ago
EXPLODING = 1e3  # gradient norm, relative to that of the weights or 1
SHRUNK = 0.9  # of the weights two records ago
SETTLED = 16  # steps
EARLY = 100  # steps in which a loss may stay at chance level, as in a warmup
PATIENCE = 6  # epochs
AGREEING = 3  # records that must agree before something is reported
DATA_LOADING = 0.4  # fraction of the time
GAP = 0.2  # between accuracy in training and in validation
CHANCE = 0.9  # of the loss at chance level: a loss that is not lower is no better than chance
FALLEN = 0.98  # of a loss three epochs ago: one that is lower is learning
ABOVE_CHANCE = (1.5, 0.05)  # times chance level, or as much above it: an accuracy that is higher is learning
LOSS_FINDINGS = ("not-learning", "memorized-labels", "overfitting")  # of the state at the end of an epoch
# what follows from a finding, and is not reported after it
CONSEQUENCES = {
    "weight-decay-too-high": {
        "vanishing-activations", "dead-units", "vanishing-gradients", "no-gradient", "learning-rate-too-high", "not-learning",
    },
}  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or may be.

    Attributes:
        name: what it is, as in ``dead-units``.
        severity: ``error`` if the training is useless like this, else ``warning``.
        where: the layer, parameter or part.
        evidence: what was measured.
        cause: the likely reason.
        remedy: what to try.
    """

    name: str
    severity: str
    where: str
    evidence: str
    cause: str
    remedy: str

    def to_dict(self) -> dict[str, str]:
        fields = asdict(self)
        fields["try"] = fields.pop("remedy")
        return fields

    @property
    def one_line(self) -> str:
        """A line for while the training runs, what and where first."""
        line = f"{self.severity}: {self.name} in {self.where}: {self.evidence}; try: {self.remedy}"
        return printable(" ".join(line.split()))

    def __str__(self) -> str:
        return f"{self.severity}: {self.name} in {self.where}: {self.evidence}. Likely cause: {self.cause}. Try: {self.remedy}"


def printable(text: str) -> str:
    """Text whose control characters, in names that others chose, are escaped."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def check_activations(history: list[Record]) -> Iterator[Finding]:
    """Findings in the newest record of ``ActivationStatistics``, given those before it."""
    layers = history[-1]["layers"]
    yield from _check_signal(layers)
    yield from _check_input(layers)
    for name, layer in layers.items():
        recent = [record["layers"][name] for record in history[-AGREEING:] if name in record["layers"]]
        if len(recent) < AGREEING:
            continue
        dead, all_zero = layer["dead"] or 0, layer["dead"] is not None and min(each["zero"] for each in recent[-2:]) > 0.999
        if all_zero or dead >= DEAD:
            yield Finding(
                "dead-units", "error" if all_zero or dead > 0.95 else "warning", name,
                f"{layer['zero']:.2%} of its outputs are zero, over the whole batch" if all_zero else
                f"{dead:.0%} of its units were zero for every sample of the last records",
                "a step so large that the biases became too negative for any input, or a poor initialization",
                "a lower learning rate, a warmup, or leaky ReLU",
            )  # fmt: skip
        # gates that are open or closed are what lets a recurrent network remember, and a trained network may be confident:
        # attention and states of networks that learn well saturate in time
        is_early = history[-AGREEING]["step"] < EARLY
        if is_early and layer["type"] != "gate" and all((each["saturated"] or 0) >= SATURATED for each in recent):
            yield Finding(
                "saturated-activations", "warning", name,
                f"{layer['saturated']:.0%} of its outputs are at an end of their range, where the derivative is nearly zero",
                "its inputs are too large: initial weights too large, or inputs that are not normalized",
                "Xavier initialization, a normalization layer before it, or ReLU in its place",
            )  # fmt: skip


def _check_signal(layers: dict[str, Any]) -> Iterator[Finding]:
    """Activations that shrink or grow from layer to layer, in the order in which they ran.

    The outputs of a layer before a normalization may have any scale: it is undone.
    """
    undone = {name for name, after in pairwise(layers) if "Norm" in layers[after]["type"]}
    signals = [(name, row["signal"]) for name, row in layers.items() if row.get("signal") is not None and name not in undone]
    hidden = [(name, signal) for name, signal in signals[:-1] if math.isfinite(signal)]  # without the head, which may be small
    if len(hidden) < 2 or hidden[0][1] <= 0:
        return
    first_name, first = hidden[0]
    # where the signal is lost, it stays so; a layer that gets the same input for every sample may stand in between
    lost = list(takewhile(lambda item: item[1] * SPREAD < first, reversed(hidden[1:])))
    if lost:
        name, last = lost[-1]
        yield Finding(
            "vanishing-activations", "error", name,
            f"the standard deviation of its outputs over samples is {last:.2g}, that of {first_name} {first:.2g}",
            "each layer shrinks its input: initial weights too small, or saturating functions in a row",
            "He initialization for ReLU, Xavier for tanh, or normalization layers",
        )  # fmt: skip
    name, last = max(hidden[1:], key=lambda item: item[1])
    if last > SPREAD * first:
        yield Finding(
            "exploding-activations", "error", name,
            f"the standard deviation of its outputs over samples is {last:.2g}, that of {first_name} {first:.2g}",
            "each layer enlarges its input: initial weights too large, or enlarged by a high learning rate",
            "He or Xavier initialization, normalization layers, or a lower learning rate",
        )  # fmt: skip


def _check_input(layers: dict[str, Any]) -> Iterator[Finding]:
    first = next(((name, layer) for name, layer in layers.items() if layer.get("input")), None)
    if first is None:
        return
    name, (mean, std, spread) = first[0], (first[1]["input"][key] for key in ("mean", "std", "between"))
    if spread == 0:
        yield Finding(
            "constant-input", "error", name, "every sample of the batch is the same",
            "a data loader or transform that always returns the same sample, or zeros",
            "inspect a batch",
        )  # fmt: skip
    elif "Norm" not in first[1]["type"] and (std > 10 or abs(mean) > 5 * std):
        yield Finding(
            "input-not-normalized", "warning", name, f"the input has mean {mean:.3g} and standard deviation {std:.3g}",
            "pixels from 0 to 255, or statistics of other data",
            "normalize to mean 0 and standard deviation 1 by the statistics of the training data",
        )  # fmt: skip


def check_gradients(history: list[Record], rates: list[float]) -> Iterator[Finding]:
    """Findings in the newest record of ``GradientMonitor``; ``rates`` are the learning rates at each record."""
    newest, recent = history[-1], history[-AGREEING:]
    norm = newest["norm"]
    if norm > EXPLODING * math.hypot(1, _weight_norm(newest)) and not newest.get("clipped"):
        yield Finding(
            "exploding-gradients", "error", "all parameters", f"the gradient norm is {norm:.3g} at step {newest['step']}",
            "repeated multiplication by factors above one, as in recurrent networks, or far too high a learning rate",
            "gradient clipping at norm 1, an LSTM, or a lower learning rate",
        )  # fmt: skip
    if len(recent) < AGREEING:
        return
    decays = [record.get("decay") or 0.0 for record in recent]
    # at the start, or where weights shrink: where the loss is all but zero, a sound decay outweighs the gradient, too
    is_winning = recent[0]["step"] == 0 or _weight_norm(newest) < SHRUNK * _weight_norm(recent[0])
    if newest["step"] < EARLY and min(decays) > 1 and is_winning:
        yield Finding(
            "weight-decay-too-high", "error", "all parameters", f"the weight decay is {decays[-1]:.2g} times the gradient",
            "weights shrink faster than they learn: with SGD, Adam or RMSprop the decay is an L2 penalty, which must be far "
            "smaller than the decoupled decay of AdamW",
            "a weight decay of 0, or a hundredth of this one",
        )  # fmt: skip
    yield from _check_missing(recent)
    ratios = [ratio for record in recent if (ratio := _median_update_ratio(record)) is not None]
    # weights that start at zero, as those of a new head, change by much of their norm at first
    high = UPDATE_HIGH if recent[0]["step"] >= SETTLED else UPDATE_WILD
    if len(ratios) == AGREEING and min(ratios) > high:
        yield Finding(
            "learning-rate-too-high", "error", "all parameters", f"the median update-to-weight ratio is {ratios[-1]:.2g}",
            "the learning rate is too high: ratios of about 1e-3 are usual", "a ten times lower learning rate",
        )  # fmt: skip
    is_steady = 0.5 * max(rates) <= rates[-1] <= 1.5 * rates[-AGREEING]  # neither a warmup nor the end of a schedule
    if len(ratios) == AGREEING and is_steady and max(ratios) < UPDATE_LOW:
        yield Finding(
            "learning-rate-too-low", "warning", "all parameters", f"the median update-to-weight ratio is {ratios[-1]:.2g}",
            "the learning rate is too low: ratios of about 1e-3 are usual", "a hundred times higher learning rate",
        )  # fmt: skip
    yield from _check_vanishing(recent)


def _weight_norm(record: Record) -> float:
    return math.hypot(*(each["weight_norm"] for each in record["parameters"].values()))


def _median_update_ratio(record: Record) -> float | None:
    rows = record["parameters"].items()
    ratios = [row["update_ratio"] for name, row in rows if row["update_ratio"] and name.endswith("weight")]
    return median(ratios) if ratios else None


def _check_missing(recent: list[Record]) -> Iterator[Finding]:
    names = [name for name in recent[-1]["parameters"] if all((r["parameters"].get(name) or {}).get("norm") == 0 for r in recent)]
    names += [name for name in recent[-1].get("without", ()) if all(name in r.get("without", ()) for r in recent)]
    if names:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        yield Finding(
            "no-gradient", "error", names[0], f"{names[0]}{more} got no gradient, or only zeros, in {len(recent)} records",
            "the layer is not used, its output is detached, or units after it are dead",
            "look for .detach(), .data, torch.no_grad() and for layers that forward does not call",
        )  # fmt: skip


def _check_vanishing(recent: list[Record]) -> Iterator[Finding]:
    """Weights whose gradient is a tiny fraction of that of others, per weight."""

    def sizes(record: Record) -> dict[str, float]:
        return {
            name: each["norm"] / math.sqrt(max(1, sum(each["histogram"])))
            for name, each in record["parameters"].items()
            if name.endswith("weight") and each["norm"]
        }

    tables = [sizes(record) for record in recent]
    if not all(tables):
        return
    shares = [{name: size / max(table.values()) for name, size in table.items()} for table in tables]

    def is_small(name: str) -> bool:
        of_name = [each.get(name, 1.0) for each in shares]
        # behind norms that start at zero, as residual branches may, gradients are tiny at first and grow
        return max(of_name) < GRADIENT_SHARE and of_name[-1] < GROWING * of_name[0]

    small = [name for name in shares[-1] if is_small(name)]
    if small:
        yield Finding(
            "vanishing-gradients", "error", small[0],
            f"its gradient is {shares[-1][small[0]]:.1g} of the largest, per weight",
            "the gradient is repeatedly multiplied by small derivatives (sigmoid, tanh) or small weights",
            "ReLU, normalization layers, residual connections, or another initialization",
        )  # fmt: skip


def check_initial_loss(loss: float, classes: int) -> Iterator[Finding]:
    """Compare the loss of the first batch with chance level, ln(classes)."""
    guess = math.log(classes)
    if not math.isfinite(loss) or loss > 2 * guess + 1:
        yield Finding(
            "initial-loss", "warning", "loss", f"it starts at {loss:.3g}, chance level is ln({classes}) = {guess:.3g}",
            "the untrained network is overconfident: the head's weights or its inputs are too large",
            "a smaller initialization of the head, a normalization layer before it, or normalized inputs",
        )  # fmt: skip


def check_losses(
    losses: list[float],
    val_losses: list[float],
    gap: float | None,
    classes: int | None,
    steps: int,
    epochs: int,
    train_accuracy: float | None = None,
    val_accuracies: Sequence[float] = (),
) -> Iterator[Finding]:
    """Findings in the learning curves at the end of an epoch.

    A single validation says little: batch norms lag behind at high learning rates. So it counts only where its loss has not
    improved for some epochs.

    Args:
        losses: mean training loss of the last epochs.
        val_losses: the same in validation, after the lowest of all epochs before.
        gap: training accuracy less the best validation accuracy of the last epochs; None is unknown.
        classes: number of classes.
        steps: of the optimizer so far.
        epochs: so far.
        train_accuracy: of the last epoch; None is unknown.
        val_accuracies: of each epoch. Above chance level something has been learned, whatever the loss, which confident mistakes
            may raise above that of a guess.
    """
    if classes is None or not losses:
        return
    guess = math.log(classes)
    lately = losses[-AGREEING:]
    is_flat = len(lately) == AGREEING and min(lately) > CHANCE * guess and lately[-1] > FALLEN * lately[0]
    factor, more = ABOVE_CHANCE
    least = min(factor / classes, 1 / classes + more)
    generalizes = bool(val_accuracies) and val_accuracies[-1] > least
    is_above_chance = generalizes or (train_accuracy is not None and train_accuracy > least)
    if is_flat and steps >= EARLY and not is_above_chance:
        yield Finding(
            "not-learning", "error", "loss", f"after {epochs} epochs it is {losses[-1]:.3g}, chance level is {guess:.3g}",
            "labels that do not match their samples, a learning rate far too low or too high, or uninformative inputs",
            "check whether the network can overfit a single batch",
        )  # fmt: skip
    recent = val_losses[-PATIENCE:]
    if len(val_losses) <= PATIENCE or min(recent) < min(val_losses[:-PATIENCE]):
        return
    if max(val_accuracies[-PATIENCE:], default=0) > max(val_accuracies[:-PATIENCE], default=1):
        return
    if min(recent) > 0.8 * guess and val_losses[-1] > guess and losses[-1] < 0.5 * guess and not generalizes:
        yield Finding(
            "memorized-labels", "error", "labels",
            f"the training loss is {losses[-1]:.3g}, the validation loss no better than chance ({val_losses[-1]:.3g})",
            "labels that do not match their samples: the network memorizes them, but cannot generalize",
            "inspect samples with their labels; are files and labels in the same order?",
        )  # fmt: skip
    elif gap is not None and gap > GAP:
        yield Finding(
            "overfitting", "warning", "accuracy",
            f"{gap:.0%} higher in training than in validation, whose loss has not improved for {PATIENCE} epochs",
            "too few samples for so large a network, which has memorized them",
            "augmentation, weight decay, dropout, or fewer epochs",
        )  # fmt: skip


def check_throughput(history: list[Record]) -> Iterator[Finding]:
    """Whether data loading is the bottleneck, by the newest records of ``Throughput``."""
    recent = [record["data_loading"] for record in history[-AGREEING:]]
    if len(recent) == AGREEING and min(recent) > DATA_LOADING:
        yield Finding(
            "slow-data-loading", "warning", "data", f"{recent[-1]:.0%} of the time is data loading time",
            "files are read or augmented more slowly than the network learns",
            "keep decoded data in memory, smaller images, or more workers",
        )  # fmt: skip
