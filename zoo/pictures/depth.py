"""Plain and residual networks of 20 and 56 layers compared (He et al. 2015, figure 6)."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from zoo.core.errors import UserError
from zoo.pictures.curves import curve, draw_legend, draw_line, read_records
from zoo.pictures.figure import COLORS, Picture
from zoo.registry.registry import Registry
from zoo.training.run_folder import RunFolder

PANELS = {"plain networks": {20: "plain20", 56: "plain56"}, "residual networks": {20: "resnet20", 56: "resnet56"}}
MODELS = [name for names in PANELS.values() for name in names.values()]
DEPTH_COLORS = {20: COLORS[0], 56: COLORS[1]}


def depth(registry: Registry, runs: list[RunFolder]) -> Picture:
    """Draw the training and validation error of four runs, one of each model."""
    by_model = assign(runs)
    last = {model: curve(read_records(folder), "train/error", folder.name)[1][-1] for model, folder in by_model.items()}
    return Picture(
        draw_depth(by_model),
        "compare the thin lines, the training errors: if more layers increase them, the network is not overfitting but harder to "
        f"optimize; with 20 and 56 layers they end at {last['plain20']:.1%} and {last['plain56']:.1%} without residual "
        f"connections, at {last['resnet20']:.1%} and {last['resnet56']:.1%} with them",
        f"zoo picture curves {' '.join(by_model[model].name for model in MODELS)} --metric train/error",
    )


def assign(runs: list[RunFolder]) -> dict[str, RunFolder]:
    """Map each model to its run.

    Raises:
        UserError: a model is missing, given twice or not one of the four, or the data differs.
    """
    by_model: dict[str, RunFolder] = {}
    data: dict[str, str] = {}
    for folder in runs:
        run = folder.read_run()
        model = run.model["name"]
        if model not in MODELS:
            raise UserError(f"depth compares {', '.join(MODELS)}, not {folder.name} ({model})")
        if model in by_model:
            raise UserError(f"depth takes one run of each model, and {by_model[model].name} and {folder.name} are both {model}")
        by_model[model] = folder
        data[run.data["name"]] = folder.name
    if len(data) > 1:
        named = ", ".join(f"{folder} on {name}" for name, folder in data.items())
        raise UserError(f"runs on different data cannot be compared: {named}")
    for model in MODELS:
        if model not in by_model:
            given = f" --data {next(iter(data))}" if data else ""
            raise UserError(f"depth needs a run of {model} too: zoo train {model}{given}")
    return by_model


def draw_depth(by_model: dict[str, RunFolder]) -> Figure:
    """Draw two panels with shared axes: training error thin, validation error bold."""
    figure = Figure((9.4, 4.4), layout="constrained")
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    highest = 0.0
    for axes, (title, models) in zip(panels, PANELS.items(), strict=True):
        for layers, model in models.items():
            folder = by_model[model]
            records = read_records(folder)
            for metric in ("train/error", "val/error"):
                epochs, errors = curve(records, metric, folder.name)
                draw_line(axes, epochs, errors, metric, {"color": DEPTH_COLORS[layers]})
                # the first steps are near chance and would compress the rest
                highest = max(highest, errors[epochs > 0.1 * epochs[-1]].max())
        axes.set(title=title, xlabel="epochs")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
    panels[0].set(ylabel="error", ylim=(0, 1.05 * highest))
    panels[0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    draw_legend(figure, {f"{layers} layers": {"color": color} for layers, color in DEPTH_COLORS.items()}, ("train", "val"))
    return figure
