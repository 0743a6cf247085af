"""Truth against prediction of a regression."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from zoo.core.errors import UserError
from zoo.pictures.figure import COLORS, Picture
from zoo.pictures.predictions import load_trained, open_test_data
from zoo.registry.registry import Registry
from zoo.training.run_folder import RunFolder

COLUMNS = 3
SHOWN = 2000  # points
SIDE = 3.0  # inches


def scatter(
    registry: Registry, runs: list[RunFolder], checkpoint: str = "best", data: str = "", settings: Sequence[str] = ()
) -> Picture:
    """Draw the predicted against the true values of each number, for test images."""
    folder = runs[0]
    task, run = load_trained(registry, folder, checkpoint)
    module = open_test_data(registry, run, task.spec, data, settings, folder.path)
    if not len(module.splits["test"]):
        raise UserError(f"{data or run.data['name']} has no test images")
    task.to("cuda" if torch.cuda.is_available() else "cpu")
    with torch.inference_mode():
        _, true, predicted = task.predict_split(module, "test", SHOWN)
    return Picture(
        draw_scatter(true, predicted, task.spec.targets, f"{folder.path.name} ({len(true):,} test images)"),
        "points on the diagonal are right; a cloud that is flatter than the diagonal means that the network keeps to the mean, "
        "and points far away may be wrong labels",
        f"zoo report {folder.name}",
    )


def draw_scatter(true: Tensor, predicted: Tensor, names: Sequence[str], title: str) -> Figure:
    """Draw a panel for each number, with the diagonal and its R2.

    Args:
        true, predicted: [n, numbers]; nan is unknown.
    """
    columns = min(COLUMNS, len(names))
    rows = math.ceil(len(names) / columns)
    figure = Figure((SIDE * columns + 0.4, SIDE * rows + 0.6), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for place, (name, panel) in enumerate(zip(names, panels, strict=False)):
        known = ~true[:, place].isnan()
        x, y = true[known, place].double(), predicted[known, place].double()
        limits = float(min(x.min(), y.min())), float(max(x.max(), y.max()))
        margin = 0.04 * (limits[1] - limits[0]) or 1.0
        limits = limits[0] - margin, limits[1] + margin
        panel.plot(limits, limits, color="black", linewidth=1, linestyle="--")
        panel.scatter(x, y, s=6, color=COLORS[0], alpha=0.4, linewidths=0)
        r2 = 1 - float((x - y).square().sum() / (x - x.mean()).square().sum())
        panel.set(xlim=limits, ylim=limits, aspect="equal", title=f"{name}, R2 {r2:.4f}", xlabel="true", ylabel="predicted")
    for panel in panels[len(names) :]:
        panel.set_visible(False)
    figure.suptitle(title, fontsize=10)
    return figure
