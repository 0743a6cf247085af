"""Decision regions of classifiers in the plane."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from zoo.config.resolution import resolve
from zoo.config.settings import parse_setting
from zoo.core.counts import percentage
from zoo.core.errors import UserError
from zoo.core.ranks import rank_zero_print
from zoo.pictures.figure import Picture
from zoo.pictures.plane import STEPS, class_colors, class_handles, coordinates, draw_points, plane_points, set_up_axes
from zoo.pictures.predictions import load_trained
from zoo.registry.registry import Registry
from zoo.tasks.task import Task
from zoo.training import building, engine
from zoo.training.run_folder import RunFolder, temporary_runs

CHUNK = 4096  # points per batch: nearest neighbors compare each with all training points
PALEST, DARKEST = 0.12, 0.5  # color strength at uniform probabilities and at certainty
# drawn without a run, in two rows: title and settings that converge within seconds
QUICK = {"epochs": 30, "batch_size": 32, "weight_decay": 0.0}
SOFTMAX = ("softmax", {"model": {"name": "softmax"}, "recipe": {**QUICK, "lr": 0.03}})
MLP = ("mlp", {"model": {"name": "mlp", "hidden_sizes": [64, 64]}, "recipe": {**QUICK, "lr": 0.01}})
NEIGHBORS = {
    metric: [(f"{k}-NN, {metric}", {"model": {"name": "knn", "k": k, "metric": metric}}) for k in (1, 3, 5)]
    for metric in ("L1", "L2")
}
STANDARD = [*NEIGHBORS["L1"], SOFTMAX, *NEIGHBORS["L2"], MLP]
MARKS = "dots: training points, crosses: misclassified test points; both in the color of the true class"
LOOK_FOR = (
    "colors are predicted classes, paler with lower probability, dots and crosses (misclassified test points) are true "
    "classes; look for islands around single training points (overfitting) and for boundaries too straight (underfitting)"
)
NEIGHBORS_LOOK = "more neighbors smooth the boundary, and L1, in the first row, gives it axis-aligned corners"
SMALL = {"accelerator": "cpu", "devices": 1}  # these networks are too small to gain from a GPU


@dataclass(frozen=True)
class Panel:
    """A classifier and its data.

    Attributes:
        data: data module, after ``setup``.
        probabilities: at each point of the plane, [256 (y), 256 (x), classes].
    """

    title: str
    data: Any
    probabilities: np.ndarray

    @property
    def wrong(self) -> Tensor:
        """Misclassified test points, bool [n], looked up in ``probabilities``."""
        split = self.data.splits["test"]
        x, y = split.images.pixels.flatten(1).long().T
        return torch.from_numpy(self.probabilities.argmax(2))[y, x] != split.labels

    @property
    def accuracy(self) -> str:
        """On the test points, as a percentage."""
        wrong = self.wrong
        return percentage(int((~wrong).sum()), len(wrong))


def regions(
    registry: Registry, runs: list[RunFolder], checkpoint: str = "best", data: str = "", settings: Sequence[str] = ()
) -> Picture:
    """Draw the decision regions of runs or, given a data set only, of standard classifiers that are trained for it."""
    points = [name for name, entry in registry.data.items() if "points" in entry.tags]
    if runs:
        if data or settings:
            raise UserError(f"a run is drawn on its own data: omit {'--data' if data else '--set'}, or the runs")
        panels = [_panel_of_run(registry, folder, checkpoint, points) for folder in runs]
        columns, look_for = min(len(runs), 4), LOOK_FOR
        following = f"zoo picture curves {' '.join(folder.name for folder in runs)}"
    else:
        if data not in points:
            what = f"{data} is not points in the plane" if data else "give runs, or a data set with --data"
            raise UserError(f"{what}: --data takes {', '.join(points)}")
        panels = _standard_panels(registry, data, settings)
        columns = max(2, len(panels) // 2)  # L1 above L2
        look_for = f"{LOOK_FOR}; {NEIGHBORS_LOOK}"
        following = f"zoo train mlp --data {data} --name nonlinear    zoo picture regions nonlinear"
    return Picture(draw_regions(panels, columns), look_for, following)


def _panel_of_run(registry: Registry, folder: RunFolder, checkpoint: str, points: list[str]) -> Panel:
    task, run = load_trained(registry, folder, checkpoint)
    if not task.spec.are_points:
        raise UserError(
            f"regions need points in the plane, and {folder.name} was trained on images ({run.data['name']}): "
            f"train on {', '.join(points)}"
        )
    return Panel(folder.path.name, building.build_test_data(registry, run, task.spec), plane_probabilities(task))


def _standard_panels(registry: Registry, data: str, settings: Sequence[str]) -> list[Panel]:
    """Train k-nearest neighbors, a linear classifier and a perceptron in temporary runs."""
    layers = [*(parse_setting(text, ("data",)) for text in settings), {"data": {"name": data}, "trainer": SMALL}]
    runs = [(title, resolve(registry, training["model"]["name"], {}, [training, *layers])) for title, training in STANDARD]
    panels = []
    with temporary_runs():
        for number, (title, run) in enumerate(runs, 1):
            rank_zero_print(f"{title} ({number} of {len(runs)})")
            task, run = load_trained(registry, engine.train(registry, run).folder, "best")
            panels.append(Panel(title, building.build_data(registry, run), plane_probabilities(task)))
    return panels


def plane_probabilities(task: Task) -> np.ndarray:
    """Predict all points of the plane: probabilities, [256 (y), 256 (x), classes]."""
    with torch.inference_mode():
        parts = [task.predict_step({"images": part.to(task.device)}).cpu() for part in plane_points().split(CHUNK)]
    return torch.cat(parts).view(STEPS, STEPS, -1).numpy()


def region_colors(probabilities: np.ndarray) -> np.ndarray:
    """Color of the predicted class, paler with lower probability, [256, 256, 3] in [0, 1]."""
    classes = probabilities.shape[2]
    # from 0 at uniform probabilities to 1 at certainty
    confidence = (probabilities.max(2, keepdims=True) * classes - 1) / (classes - 1)
    strength = PALEST + (DARKEST - PALEST) * confidence
    return 1 - strength * (1 - class_colors(classes)[probabilities.argmax(2)])


def draw_regions(panels: Sequence[Panel], columns: int) -> Figure:
    """Draw a panel per classifier: regions, training points, and crosses for misclassified test points."""
    rows = math.ceil(len(panels) / columns)
    figure = Figure((2.9 * columns, 3.1 * rows + 0.5), layout="constrained")
    places = figure.subplots(rows, columns, squeeze=False).flat
    for axes, panel in zip(places, panels, strict=False):
        _draw_panel(axes, panel)
    for axes in list(places)[len(panels) :]:
        axes.axis("off")
    classes = max((panel.data.spec.classes for panel in panels), key=len)
    ncols, title = min(len(classes), 2 * columns), textwrap.fill(MARKS, int(13 * figure.get_figwidth()))
    style = {"title": title, "title_fontsize": 8, "handletextpad": 0.2}
    figure.legend(handles=class_handles(classes), loc="outside lower center", ncols=ncols, **style)
    return figure


def _draw_panel(axes: Axes, panel: Panel) -> None:
    set_up_axes(axes, f"{panel.title}: test accuracy {panel.accuracy}")
    axes.imshow(region_colors(panel.probabilities), origin="lower", extent=(0, 1, 0, 1), interpolation="nearest")
    train, test, wrong = panel.data.splits["train"], panel.data.splits["test"], panel.wrong
    draw_points(axes, train.images.pixels, train.labels, panel.probabilities.shape[2])
    x, y = coordinates(test.images.pixels[wrong]).T
    colors = class_colors(panel.probabilities.shape[2])[test.labels[wrong].numpy()]
    axes.scatter(x, y, s=28, c=colors, marker="X", edgecolors="black", linewidths=0.5)
