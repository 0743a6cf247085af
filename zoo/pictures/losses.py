"""The zoo's losses and their derivatives as functions of one score."""

from __future__ import annotations

from collections.abc import Callable

import torch
from matplotlib.figure import Figure
from torch import Tensor

from zoo.config.recipe import Recipe
from zoo.optim.losses import build_loss
from zoo.pictures.figure import COLORS, Picture
from zoo.registry.registry import Registry
from zoo.training.run_folder import RunFolder

SCORES = torch.linspace(-4, 4, 401, dtype=torch.float64)

Samples = Callable[[Tensor], tuple[Tensor, Tensor]]  # scores [n] -> logits and targets of n samples


def _two_classes(scores: Tensor) -> tuple[Tensor, Tensor]:
    return torch.stack([scores, torch.zeros_like(scores)], 1), torch.zeros(len(scores), dtype=torch.long)


def _one_label(scores: Tensor) -> tuple[Tensor, Tensor]:
    return scores[:, None], torch.ones(len(scores), 1)


def _one_number(scores: Tensor) -> tuple[Tensor, Tensor]:
    return scores[:, None], torch.zeros(len(scores), 1, dtype=scores.dtype)


PANELS: dict[str, tuple[Samples, tuple[str, ...], str]] = {
    "classes": (_two_classes, ("cross-entropy", "hinge"), "score of the true class minus that of the other"),
    "labels": (_one_label, ("bce", "focal"), "score of a label that is present"),
    "numbers": (_one_number, ("mse", "l1", "huber"), "predicted minus true number"),
}


def losses(registry: Registry, runs: list[RunFolder]) -> Picture:
    """Draw a panel for each kind of target: losses above, derivatives below."""
    figure = Figure((11.4, 5.8), layout="constrained")
    grid = figure.subplots(2, len(PANELS), sharex=True, height_ratios=(3, 2), squeeze=False)
    for (above, below), (title, (samples, names, label)) in zip(grid.T, PANELS.items(), strict=True):
        for color, name in zip(COLORS, names, strict=False):
            values, slopes = measure(name, samples)
            above.plot(SCORES, values, color=color, label=name)
            below.plot(SCORES, slopes, color=color)
        above.set(title=title, ylim=(-0.15, 5))
        below.set(xlabel=label, ylim=(-2.2, 2.2))
        above.legend(loc="upper center", frameon=True, framealpha=1, edgecolor="none")
        for axes in (above, below):
            axes.axvline(0, color="gray", linewidth=0.8)
            axes.axhline(0, color="gray", linewidth=0.8)
            axes.grid(alpha=0.25)
    grid[0, 0].set_ylabel("loss")
    grid[1, 0].set_ylabel("derivative")
    return Picture(
        figure,
        "what a loss does to training is its derivative: hinge is content beyond its margin of 1, where cross-entropy still "
        "pushes a little; focal ignores what is nearly right; the squared error pushes harder the further off, so that outliers "
        "dominate, while l1 and huber push with a constant force",
        "zoo train svm",
    )


def measure(name: str, samples: Samples) -> tuple[Tensor, Tensor]:
    """A registered loss and its derivative at ``SCORES``, both [401]."""
    scores = SCORES.clone().requires_grad_()
    values = build_loss(Recipe(loss=name), name)(*samples(scores), reduction="none").view(-1)
    (slopes,) = torch.autograd.grad(values.sum(), scores)
    return values.detach(), slopes
