"""The plot of a learning rate range test."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from zoo.pictures.figure import COLORS
from zoo.training.tuning import RangeTest


def draw_range_test(test: RangeTest, recipe_lr: float, title: str) -> Figure:
    """Draw losses as points, smoothed losses as a line, and the suggested learning rate next to that of the recipe."""
    figure = Figure((5.8, 4.0), layout="constrained")
    axes = figure.subplots()
    axes.scatter(test.rates, test.losses, s=9, color="gray", alpha=0.6, label="loss per step")
    axes.plot(test.rates, test.smoothed, color=COLORS[0], label="smoothed")
    if test.suggestion is not None:
        axes.axvline(test.suggestion, color=COLORS[1], label=f"suggested: {test.suggestion:g}")
    axes.axvline(recipe_lr, color=COLORS[2], linestyle=":", label=f"recipe: {recipe_lr:g}")
    # the last losses, which diverge, would compress the rest
    low, highest = min(test.losses), max(test.smoothed[0], float(np.median(test.losses)))
    axes.set(title=title, xlabel="learning rate", ylabel="training loss", xscale="log")
    margin = max(highest - low, 1e-6)
    axes.set_ylim(low - 0.1 * margin, highest + 0.4 * margin)
    axes.grid(alpha=0.25)
    axes.legend(loc="best")
    return figure
