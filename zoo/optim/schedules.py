"""Learning-rate schedules as closed functions of the step, so that a resume needs no state."""

from __future__ import annotations

import math
from collections.abc import Callable

from zoo.config.recipe import Recipe

ONE_CYCLE_RISE = 0.3  # fraction of the training in which one-cycle rises
ONE_CYCLE_START = 1 / 25  # of the peak (Smith and Topin 2017; the values of torch's OneCycleLR)
ONE_CYCLE_END = ONE_CYCLE_START / 1e4


def lr_factor(recipe: Recipe, total_steps: int) -> Callable[[int], float]:
    """Return the factor of the learning rate as a function of the step in [0, total_steps).

    ``constant``; ``multistep``, which drops by ``gamma`` at each milestone; ``cosine``, to zero (Loshchilov and Hutter 2016);
    ``one-cycle``, up and down by cosines. All but the last have a linear warmup of ``warmup_epochs``.
    With SWA, ``swa_lr`` takes the place of any of them when the average starts.
    """
    warmup_steps = round(recipe.warmup_epochs * total_steps / recipe.epochs)
    averages_at_own_rate = recipe.average == "swa" and recipe.swa_lr is not None
    first_averaged_step = recipe.first_averaged_epoch * total_steps // recipe.epochs

    def factor(step: int) -> float:
        if averages_at_own_rate and step >= first_averaged_step:
            return recipe.swa_lr / recipe.lr
        if recipe.schedule == "one-cycle":
            return _one_cycle(step, total_steps)
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        match recipe.schedule:
            case "multistep":
                # 0.55 * 100 is a little more than 55
                return recipe.gamma ** sum(step >= round(share * total_steps, 6) for share in recipe.milestones)
            case "cosine":
                return _cosine(1.0, 0.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
        return 1.0

    return factor


def _one_cycle(step: int, total_steps: int) -> float:
    peak = ONE_CYCLE_RISE * total_steps - 1
    if step <= peak:
        return _cosine(ONE_CYCLE_START, 1.0, step / peak)
    return _cosine(1.0, ONE_CYCLE_END, min(1.0, (step - peak) / (total_steps - 1 - peak)))


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2
