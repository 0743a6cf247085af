"""Paths of the zoo's optimizers on two surfaces: a narrow valley and a saddle point."""

from __future__ import annotations

from collections.abc import Callable

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from zoo.config.recipe import Recipe
from zoo.optim.optimizers import build_optimizer
from zoo.pictures.figure import COLORS, Picture
from zoo.registry.registry import Registry
from zoo.training.run_folder import RunFolder

STEPS = 60
RECIPES = {
    "SGD": Recipe(optimizer="sgd", optimizer_args={"momentum": 0.0}, lr=0.09),
    "SGD, momentum 0.9": Recipe(optimizer="sgd", optimizer_args={"momentum": 0.9}, lr=0.02),
    "RMSprop": Recipe(optimizer="rmsprop", optimizer_args={"momentum": 0.0}, lr=0.05),
    "Adam": Recipe(optimizer="adam", lr=0.15),
    "AdamW, weight decay 0.3": Recipe(optimizer="adamw", lr=0.15, weight_decay=0.3),
}

Surface = Callable[[Tensor, Tensor], Tensor]


def valley(x: Tensor, y: Tensor) -> Tensor:
    """A quadratic with its minimum of 0 at (1, 0.5), twenty times as curved in y as in x."""
    return (x - 1) ** 2 / 2 + 20 * (y - 0.5) ** 2 / 2


def saddle(x: Tensor, y: Tensor) -> Tensor:
    """A saddle point at (0, 0) between two minima of 0, at (0, -1) and (0, 1)."""
    return x**2 / 2 + (y**2 - 1) ** 2 / 4


# the start, and the limits of x and y
SURFACES: dict[str, tuple[Surface, tuple[float, float], tuple[float, float], tuple[float, float]]] = {
    "narrow valley": (valley, (-2.0, 1.0), (-2.4, 2.4), (-0.7, 1.5)),
    "saddle point": (saddle, (-1.5, 0.01), (-1.8, 1.2), (-1.3, 1.5)),
}


def optimizer_paths(registry: Registry, runs: list[RunFolder]) -> Picture:
    """Draw the path of each optimizer above, and the loss along it below."""
    figure = Figure((8.8, 6.4), layout="constrained")
    grid = figure.subplots(2, len(SURFACES), height_ratios=(3, 2), squeeze=False)
    for (above, below), (title, (surface, start, x_limits, y_limits)) in zip(grid.T, SURFACES.items(), strict=True):
        _draw_surface(above, surface, x_limits, y_limits)
        for color, (name, recipe) in zip(COLORS, RECIPES.items(), strict=False):
            path, losses = descend(surface, start, recipe)
            label = f"{name}, lr {recipe.lr:g}"
            above.plot(*path.T.numpy(), color=color, marker=".", markersize=3, linewidth=1)
            below.plot(losses.numpy(), color=color, label=label)
        above.plot(*start, "o", color="black", markersize=6)
        above.set(title=title, xlim=x_limits, ylim=y_limits, xlabel="x", ylabel="y")
        below.set(yscale="log", ylim=(1e-6, 20), xlabel="step")
        below.grid(alpha=0.25)
    grid[1, 0].set_ylabel("loss (logarithmic)")
    figure.legend(*grid[1, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return Picture(
        figure,
        "all paths start at the black point. In the valley, SGD jumps from side to side and creeps along the bottom; momentum "
        "averages the jumps away. RMSprop and Adam divide each direction by the size of its own gradients: both move at "
        "the same pace, and the saddle is left at once. AdamW stops beside the minimum, since its decay pulls towards (0, 0)",
        "zoo train mlp --set recipe.optimizer=sgd --set recipe.lr=0.05",
    )


def descend(surface: Surface, start: tuple[float, float], recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Minimize a surface with a recipe's optimizer: points, [STEPS + 1, 2], and their losses, [STEPS + 1]."""
    point = torch.nn.Parameter(torch.tensor(start, dtype=torch.float64))
    optimizer = build_optimizer([{"params": [point], "weight_decay": recipe.weight_decay}], recipe, recipe.lr)
    points, losses = [], []
    for _ in range(STEPS + 1):
        loss = surface(*point)
        points.append(point.detach().clone())
        losses.append(loss.detach())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return torch.stack(points), torch.stack(losses)


def _draw_surface(axes: Axes, surface: Surface, x_limits: tuple[float, float], y_limits: tuple[float, float]) -> None:
    y, x = torch.meshgrid(torch.linspace(*y_limits, 200), torch.linspace(*x_limits, 200), indexing="ij")
    heights = surface(x, y).sqrt()  # contours of the root lie evenly
    axes.contour(x, y, heights, levels=8, colors="0.75", linewidths=0.6)
