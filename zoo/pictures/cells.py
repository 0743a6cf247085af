"""Text colored by the activation of single units of a recurrent network (Karpathy et al. 2015, arXiv 1506.02078).

Interpretable units, which count the characters of a line or stay on inside quotation marks, are found by their correlation with
features of the text.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from torch import nn

from zoo.config.run import Run
from zoo.core.errors import UserError
from zoo.layers.cells import ReadableLSTM, ReadableRNN
from zoo.pictures.figure import DIVERGING, Picture
from zoo.pictures.predictions import load_trained
from zoo.registry.registry import Registry
from zoo.tasks.task import Task
from zoo.text.files import read_text
from zoo.training.building import build_test_data
from zoo.training.run_folder import RunFolder

MEASURED = 4000  # characters that correlations are computed on
SHOWN = 900  # characters that are drawn
COLUMNS = 90
MIN_CORRELATION = 0.3
MAX_UNITS = 8
WRAPPED = "↪"


def cells(registry: Registry, runs: list[RunFolder], checkpoint: str = "best", text: str = "", units: str = "") -> Picture:
    """Draw a text colored by given units, or by those that correlate best with line position, quotation and indentation."""
    folder = runs[0]
    task, run = load_trained(registry, folder, checkpoint)
    if not isinstance(getattr(task, "recurrent", None), nn.RNNBase):
        raise UserError(f"{folder.name} is not a recurrent network ({run.model['name']}): `zoo list recurrent` lists them")
    content = _content(registry, task, run, text)
    activations = cell_activations(task, content)
    name = partial(unit_name, network=task.recurrent, count=activations.shape[1])
    heading = f"{folder.path.name}: activation of single units"
    if units:
        chosen = {name(unit): unit for unit in _named(units, activations.shape[1])}
    else:
        features = text_features(content)
        followers = most_selective(activations, features)
        chosen = {f"{name(unit)}: {feature} (correlation {r:+.2f})": unit for feature, (unit, r) in followers.items()}
        if missing := [feature for feature in features if feature not in followers]:
            heading += f"\nno unit correlates with: {', '.join(missing)}"
    if not chosen:
        raise UserError(f"no unit of {folder.name} correlates with the text: train longer, or choose units with --units 0,1,2")
    drawn = {title: activations[:SHOWN, unit] for title, unit in chosen.items()}
    measure = f"{'tanh(c)' if isinstance(task.recurrent, nn.LSTM) else 'h'} after each character"
    return Picture(
        draw_text(content[:SHOWN], drawn, heading, measure),
        "red is an activation near 1, blue near -1: look for units that change along a line (they count), switch at quotation "
        "marks, or stay on through an indented block; most units are not interpretable",
        f"zoo sample {folder.name}",
    )


def _content(registry: Registry, task: Task, run: Run, text: str) -> str:
    """The beginning of the given file, or of the run's test text."""
    if not text:
        data = build_test_data(registry, run, task.spec)
        return task.spec.decode(data.splits["test"][:MEASURED].tolist())
    content = read_text(Path(text), f"--text {text}")
    if len(content) < 2:
        raise UserError(f"--text {text}: is too short")
    return content[:MEASURED]


def cell_activations(task: Task, text: str) -> np.ndarray:
    """tanh(c) of an LSTM or h of other networks after each character, in [-1, 1], [T, units].

    Units are ordered by layer; a GRU has those of its last layer only.
    """
    tokens = torch.tensor([task.spec.encode(text, "the text")])
    network = task.recurrent
    sizes = (network.input_size, network.hidden_size, network.num_layers)
    with torch.inference_mode():
        inputs = task.embed(tokens)
        match network:
            case nn.LSTM():
                readable = ReadableLSTM(*sizes)
                readable.load_state_dict(network.state_dict())
                values = readable.forward_with_activations(inputs)[2]["c"].tanh()
            case nn.RNN():
                readable = ReadableRNN(*sizes, network.nonlinearity)
                readable.load_state_dict(network.state_dict())
                values = readable.forward_with_activations(inputs)[2]["h"]
            case _:
                values = network(inputs)[0][None]
    return values[:, 0].transpose(0, 1).flatten(1).numpy()  # [layers, 1, T, hidden] as [T, layers * hidden]


def text_features(text: str) -> dict[str, np.ndarray]:
    """Features of each character, [T] each: position in its line, inside quotation marks, indentation."""
    place, quoted, indentation = 0, False, 0
    in_indentation = True
    rows = []
    for character in text:
        if character == '"':
            quoted = not quoted
        if in_indentation and character == " ":
            indentation += 1
        elif character != "\n":
            in_indentation = False
        rows.append((place, quoted, indentation))
        place += 1
        if character == "\n":
            place, indentation, in_indentation = 0, 0, True
    columns = np.array(rows, dtype=float).T
    return dict(zip(("position in the line", "inside quotation marks", "indentation"), columns, strict=True))


def most_selective(activations: np.ndarray, features: dict[str, np.ndarray]) -> dict[str, tuple[int, float]]:
    """For each feature the unit with the highest absolute correlation and that correlation; none below ``MIN_CORRELATION``."""
    found: dict[str, tuple[int, float]] = {}
    centered = activations - activations.mean(0)
    deviations = np.sqrt((centered**2).mean(0))
    for name, values in features.items():
        feature = values - values.mean()
        if not feature.any():
            continue
        covariances = feature @ centered / len(feature)
        correlations = np.divide(covariances, deviations * feature.std(), out=np.zeros_like(covariances), where=deviations > 0)
        unit = int(np.abs(correlations).argmax())
        if abs(correlations[unit]) >= MIN_CORRELATION:
            found[name] = unit, float(correlations[unit])
    return found


def unit_name(unit: int, network: nn.RNNBase, count: int) -> str:
    """Name a unit by its layer, from 1, and its index in the layer, and with several layers by its value for ``--units``.

    Args:
        unit: its index among the ``count`` units of ``cell_activations``.
    """
    layer, place = divmod(unit, network.hidden_size)
    first = network.num_layers - count // network.hidden_size  # a GRU has units of its last layer only
    number = f" (--units {unit})" if count > network.hidden_size else ""
    return f"layer {first + layer + 1}, unit {place}{number}"


def _named(units: str, count: int) -> list[int]:
    parts = [part.strip() for part in units.split(",") if part.strip()]
    for part in parts:
        if not part.isdecimal() or int(part) >= count:
            raise UserError(f"--units {units}: {part} is not a unit; there are 0 to {count - 1}")
    chosen = [int(part) for part in parts]
    if not 0 < len(chosen) <= MAX_UNITS:
        raise UserError(f"--units {units}: give 1 to {MAX_UNITS} units, as in --units 3,17")
    if twice := [unit for unit in chosen if chosen.count(unit) > 1]:
        raise UserError(f"--units {units}: {twice[0]} is given twice")
    return chosen


def draw_text(text: str, cells: dict[str, np.ndarray], heading: str, measure: str) -> Figure:
    """Draw the text once per unit (title -> activation at each character in [-1, 1]), colored by the activation.

    Args:
        measure: label of the color bar.
    """
    places = _layout(text)
    rows, columns = (max(ends) + 1 for ends in zip(*((row, column) for row, column, _ in places), strict=True))
    figure = Figure((max(0.115 * columns, 5) + 0.5, len(cells) * (rows * 0.16 + 0.45) + 1.2), layout="constrained")
    figure.suptitle(heading, fontsize=10)
    panels = figure.subplots(len(cells), 1, squeeze=False)[:, 0]
    for axes, (title, values) in zip(panels, cells.items(), strict=True):
        _draw_one(axes, text, places, (rows, columns), values, title)
    bar = figure.colorbar(
        ScalarMappable(Normalize(-1, 1), DIVERGING), ax=panels, orientation="horizontal", fraction=0.3 / figure.get_figheight(),
        pad=0.02, shrink=0.5, aspect=40, ticks=[-1, -0.5, 0, 0.5, 1],
    )  # fmt: skip
    marks = f"; {WRAPPED} marks a wrapped line" if any(wrapped for *_, wrapped in places) else ""
    bar.set_label(measure + marks, fontsize=8)
    return figure


def _layout(text: str) -> list[tuple[int, int, bool]]:
    """Row and column of each character, and whether a wrapped line continues there."""
    row = column = 0
    places = []
    for character in text:
        wrapped = column == COLUMNS
        if wrapped:
            row, column = row + 1, 0
        places.append((row, column, wrapped))
        row, column = (row + 1, 0) if character == "\n" else (row, column + 1)
    return places


def _draw_one(
    axes: Axes, text: str, places: list[tuple[int, int, bool]], shape: tuple[int, int], values: np.ndarray, title: str
) -> None:
    colors = np.full(shape, np.nan)
    for (row, column, _), value in zip(places, values, strict=True):
        colors[row, column] = value
    axes.imshow(colors, cmap=DIVERGING, vmin=-1, vmax=1, aspect="auto", interpolation="nearest")
    for (row, column, wrapped), character, value in zip(places, text, values, strict=True):
        if not character.isspace():
            color = "white" if abs(value) > 0.75 else "black"
            axes.text(column, row, character, ha="center", va="center", fontsize=6.5, family="monospace", color=color)
        if wrapped:
            axes.text(-0.8, row, WRAPPED, ha="right", va="center", fontsize=6.5, color="gray")
    axes.set_title(title, loc="left", fontsize=9)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
