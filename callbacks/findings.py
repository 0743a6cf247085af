"""What the records of a training mean: findings in words, each with its evidence, the likely cause and what to try.

The rules are functions of records, so that they judge a training that runs and one that ended long ago alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import takewhile
from statistics import median
from typing import Any

from zoo.callbacks.recording import Record

WEIGHTED = ("Linear", "Conv1d", "Conv2d", "Conv3d")
# Shares of units and of outputs, from which on a layer is told of. Where samples are much alike, half of all units are silent;
# and of the outputs of a tanh, two thirds may be near an end.
DEAD, SATURATED = 0.8, 0.8
SPREAD = 1e3  # factor by which activations may grow or shrink from the first layer to another
UPDATE_WILD, UPDATE_HIGH, UPDATE_LOW = 1.0, 0.1, 1e-6  # of a parameter's norm, in one step: at first, later, at the least
GRADIENT_SHARE = 1e-5  # of the largest gradient per weight, below which a layer learns nothing
GROWING = 1.5  # times as much as two records ago
EXPLODING = 1e3  # norm of the gradient, against that of the weights or 1
SETTLED = 16  # steps
EARLY = 100  # steps in which a loss may stay that of guessing, as in a warmup
PATIENT = 6  # epochs
SEEN = 3  # records that must agree before an early accident is told as a state
WAITING = 0.4  # share of the time
GAP = 0.2  # between accuracy in training and in validation
KNOWN = 0.9  # of what guessing costs: a loss that is not lower knows nothing
FALLEN = 0.98  # of a loss three epochs ago: one that is lower is learning


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or may be.

    Attributes:
        name: what it is, as in ``dead-relu``.
        severity: ``error`` if the training is of no use so, else ``warning``.
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
        told = asdict(self)
        told["try"] = told.pop("remedy")
        return told

    @property
    def in_short(self) -> str:
        """One line, what and where first, for while the training goes on."""
        line = f"{self.severity}: {self.name} in {self.where}: {self.evidence}; try: {self.remedy}"
        return " ".join(line.split())

    def __str__(self) -> str:
        return f"{self.severity}: {self.name} in {self.where}: {self.evidence}. Likely cause: {self.cause}. Try: {self.remedy}"


def judge_activations(history: list[Record]) -> Iterator[Finding]:
    """What the newest of the records of ``ActivationStatistics`` says, with those before it."""
    layers = history[-1]["layers"]
    yield from _spread(layers)
    yield from _input(layers)
    for name, layer in layers.items():
        recent = [record["layers"][name] for record in history[-SEEN:] if name in record["layers"]]
        if len(recent) < SEEN:
            continue
        dead, all_zero = layer["dead"] or 0, layer["dead"] is not None and min(each["zero"] for each in recent[-2:]) > 0.999
        if all_zero or dead >= DEAD:
            yield Finding(
                "dead-relu", "error" if all_zero or dead > 0.95 else "warning", name,
                f"{layer['zero']:.2%} of its outputs are zero, over the whole batch" if all_zero else
                f"{dead:.0%} of its units were zero for every sample of the last records",
                "a step so large that biases fell below what any input lifts them over, or a bad start",
                "a lower learning rate, a warmup, or leaky-relu",
            )  # fmt: skip
        # gates that are open or closed are what lets a recurrent network remember, and what has learned may be sure of itself:
        # attention and states of networks that learn well come to their ends in time
        is_early = history[-SEEN]["step"] < EARLY
        if is_early and layer["type"] != "gate" and all((each["saturated"] or 0) >= SATURATED for each in recent):
            yield Finding(
                "saturated", "warning", name,
                f"{layer['saturated']:.0%} of its outputs are at an end of their range, where the slope is nearly zero",
                "what goes in is too large: weights too large at the start, or inputs that are not normalized",
                "Xavier initialization, a norm in front of it, or relu in its place",
            )  # fmt: skip


def _spread(layers: dict[str, Any]) -> Iterator[Finding]:
    """Activations that shrink or grow from layer to layer, in the order in which they ran."""
    signals = [(name, layer.get("signal")) for name, layer in layers.items() if layer["type"] in WEIGHTED]
    # without the head, which may be small
    hidden = [(name, signal) for name, signal in signals[:-1] if signal is not None and math.isfinite(signal)]
    if len(hidden) < 2 or hidden[0][1] <= 0:
        return
    first_name, first = hidden[0]
    # where the signal is lost, it stays so; a layer that is given the same for every sample may stand in between
    lost = list(takewhile(lambda item: item[1] * SPREAD < first, reversed(hidden[1:])))
    if lost:
        name, last = lost[-1]
        yield Finding(
            "vanishing-activations", "error", name,
            f"its outputs differ between samples by {last:.2g}, those of {first_name} by {first:.2g}",
            "each layer shrinks what it is given: weights too small at the start, or squashing functions in a row",
            "He initialization for relu, Xavier for tanh, or norms between the layers",
        )  # fmt: skip
    name, last = max(hidden[1:], key=lambda item: item[1])
    if last > SPREAD * first:
        yield Finding(
            "exploding-activations", "error", name,
            f"its outputs differ between samples by {last:.2g}, those of {first_name} by {first:.2g}",
            "each layer enlarges what it is given: weights too large at the start, or a rate that made them so",
            "He or Xavier initialization, norms between the layers, or a lower learning rate",
        )  # fmt: skip


def _input(layers: dict[str, Any]) -> Iterator[Finding]:
    first = next(((name, layer) for name, layer in layers.items() if layer.get("input")), None)
    if first is None:
        return
    name, (mean, std, spread) = first[0], (first[1]["input"][key] for key in ("mean", "std", "between"))
    if spread == 0:
        yield Finding(
            "constant-input", "error", name, "every sample of the batch is the same",
            "a loader or a transform that gives one sample again and again, or nothing but zeros",
            "look at a batch (zoo data preview)",
        )  # fmt: skip
    elif "Norm" not in first[1]["type"] and (std > 10 or abs(mean) > 5 * std):
        yield Finding(
            "input-not-normalized", "warning", name, f"what goes in has mean {mean:.3g} and deviation {std:.3g}",
            "pixels from 0 to 255, or statistics of other data",
            "normalize to mean 0 and deviation 1 by the statistics of the training data",
        )  # fmt: skip


def judge_gradients(history: list[Record], rates: list[float]) -> Iterator[Finding]:
    """What the newest of the records of ``GradientMonitor`` says; ``rates`` are the learning rates at each record."""
    newest, recent = history[-1], history[-SEEN:]
    norm = newest["norm"]
    weights = math.hypot(1, *(each["weight"] for each in newest["parameters"].values()))
    if norm > EXPLODING * weights:
        yield Finding(
            "exploding-gradients", "error", "all parameters", f"the norm of the gradient is {norm:.3g} at step {newest['step']}",
            "a product of many factors above one, as in a recurrent network over a long sequence, or a rate far too high",
            "a limit on the norm (recipe.gradient_clip_val=1), an LSTM, or a lower learning rate",
        )  # fmt: skip
    if len(recent) < SEEN:
        return
    yield from _without_gradient(recent)
    ratios = [ratio for record in recent if (ratio := _median_update(record)) is not None]
    # weights that start at zero, as those of a new head, move by much of their size at first
    high = UPDATE_HIGH if recent[0]["step"] >= SETTLED else UPDATE_WILD
    if len(ratios) == SEEN and min(ratios) > high:
        yield Finding(
            "rate-too-high", "error", "all parameters",
            f"a step changes the median parameter by {ratios[-1]:.2g} of its size",
            "the learning rate is too high: steps of about a thousandth of its size are usual",
            "a tenth of the rate, or zoo tune",
        )  # fmt: skip
    is_steady = 0.5 * max(rates) <= rates[-1] <= 1.5 * rates[-SEEN]  # neither a warmup nor the end of a schedule
    if len(ratios) == SEEN and is_steady and max(ratios) < UPDATE_LOW:
        yield Finding(
            "rate-too-low", "warning", "all parameters",
            f"a step changes the median parameter by {ratios[-1]:.2g} of its size",
            "the learning rate is too low: steps of about a thousandth of its size are usual",
            "a hundred times the rate, or zoo tune",
        )  # fmt: skip
    yield from _vanishing(recent)


def _median_update(record: Record) -> float | None:
    ratios = [each["update"] for name, each in record["parameters"].items() if each["update"] and name.endswith("weight")]
    return median(ratios) if ratios else None


def _without_gradient(recent: list[Record]) -> Iterator[Finding]:
    names = [name for name in recent[-1]["parameters"] if all((r["parameters"].get(name) or {}).get("norm") == 0 for r in recent)]
    names += [name for name in recent[-1].get("without", ()) if all(name in r.get("without", ()) for r in recent)]
    if names:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        yield Finding(
            "no-gradient", "error", names[0], f"{names[0]}{more} got no gradient, or nothing but zeros, in {len(recent)} records",
            "the layer is not used, what it gives is detached, or units behind it are dead",
            "look for .detach(), .data, torch.no_grad() and for layers that forward does not call",
        )  # fmt: skip


def _vanishing(recent: list[Record]) -> Iterator[Finding]:
    """Weights whose gradient is a tiny part of that of others, per weight."""

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
            "what comes back through the layers behind it is multiplied by small slopes again and again (sigmoid, tanh) or by "
            "small weights",
            "relu, a norm between the layers, residual connections, or another initialization",
        )  # fmt: skip


def judge_initial_loss(loss: float, classes: int) -> Iterator[Finding]:
    """The loss of the first batch, before anything was learned, against that of guessing: ln(classes)."""
    guess = math.log(classes)
    if not math.isfinite(loss) or loss > 2 * guess + 1:
        yield Finding(
            "initial-loss", "warning", "loss", f"it starts at {loss:.3g}, guessing costs ln({classes}) = {guess:.3g}",
            "the network is sure of wrong answers before it has seen any: the head's weights or its inputs are too large",
            "a smaller initialization of the head, a norm in front of it, normalized inputs",
        )  # fmt: skip


def judge_learning(
    losses: list[float], val_losses: list[float], gap: float | None, classes: int | None, steps: int
) -> Iterator[Finding]:
    """What losses say at the end of an epoch.

    Validation alone says little of a single epoch: batch norms lag behind at high rates. So it is judged only where its loss has
    not got better for some epochs.

    Args:
        losses: means of the training loss, one an epoch.
        val_losses: of validation, likewise.
        gap: accuracy in training less the best of validation in the last epochs; None is unknown.
        classes: how many answers there are.
        steps: of the optimizer so far.
    """
    if classes is None or not losses:
        return
    guess = math.log(classes)
    lately = losses[-SEEN:]
    if len(lately) == SEEN and steps >= EARLY and min(lately) > KNOWN * guess and lately[-1] > FALLEN * lately[0]:
        yield Finding(
            "nothing-learned", "error", "loss", f"after {len(losses)} epochs it is {losses[-1]:.3g}, guessing costs {guess:.3g}",
            "labels that do not belong to their samples, a rate far too low or too high, or inputs without information",
            "zoo diagnose: can it learn a single batch by heart?",
        )  # fmt: skip
    recent = val_losses[-PATIENT:]
    if len(val_losses) <= PATIENT or min(recent) < min(val_losses[:-PATIENT]):
        return
    if min(recent) > 0.8 * guess and val_losses[-1] > guess and losses[-1] < 0.5 * guess:
        yield Finding(
            "labels-suspect", "error", "labels",
            f"training samples are learned (loss {losses[-1]:.3g}), validation is no better than guessing ({val_losses[-1]:.3g})",
            "labels that do not belong to their samples: what is learned by heart helps nobody else",
            "look at samples with their labels (zoo data preview); were files and labels sorted alike?",
        )  # fmt: skip
    elif gap is not None and gap > GAP:
        yield Finding(
            "overfitting", "warning", "accuracy",
            f"{gap:.0%} higher in training than in validation, whose loss has not got better for {PATIENT} epochs",
            "too few samples for so large a network, which knows them by heart",
            "augmentation, weight decay, dropout, or fewer epochs",
        )  # fmt: skip


def judge_pace(history: list[Record]) -> Iterator[Finding]:
    """Whether the loop waits for data, by the newest records of ``Pace``."""
    recent = [record["waiting"] for record in history[-SEEN:]]
    if len(recent) == SEEN and min(recent) > WAITING:
        yield Finding(
            "waiting-for-data", "warning", "data", f"{recent[-1]:.0%} of the time goes into waiting for the next batch",
            "files are read or augmented more slowly than the network learns",
            "keep decoded data in memory, smaller images, or more workers",
        )  # fmt: skip
