"""A text coloured by single cells of a recurrent network (Karpathy et al. 2015, arXiv 1506.02078).

Some cells can be read: they count the characters of a line, or stay on inside of quotation marks. Which ones is found by how they
go together with what is known of the text.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from zoo.errors import UserError
from zoo.layers.cells import ReadableLSTM, ReadableRNN
from zoo.pictures.figure import DIVERGING, Picture
from zoo.pictures.predictions import load_trained
from zoo.registry import Registry
from zoo.tasks.task import Task
from zoo.training.engine import build_test_data
from zoo.training.run_folder import RunFolder

MEASURED = 4000  # characters on which cells are judged
SHOWN = 900  # of them are drawn
COLUMNS = 90
LEAST_CORRELATION = 0.3  # below, a cell cannot be said to follow anything
MOST_UNITS = 8


def cells(registry: Registry, runs: list[RunFolder], checkpoint: str = "best", text: str = "", units: str = "") -> Picture:
    """A text coloured by chosen cells, or by those that best follow line length, quotation and indentation."""
    folder = runs[0]
    task, run = load_trained(registry, folder, checkpoint)
    if not isinstance(getattr(task, "recurrent", None), nn.RNNBase):
        raise UserError(
            f"{folder.name} has no recurrent cells ({run.model['name']}): `zoo list recurrent` shows the models that have"
        )
    if text:
        content = _read(Path(text))[:MEASURED]
    else:
        data = build_test_data(registry, run, task.spec)
        content = task.spec.decode(data.splits["test"][:MEASURED].tolist())
    activations = cell_activations(task, content)
    chosen = _named(units, activations.shape[1]) if units else most_selective(activations, text_features(content))
    if not chosen:
        raise UserError(f"no cell of {folder.name} follows the text: train it longer, or choose with --units 0,1,2")
    figure = draw_text(content[:SHOWN], {title: activations[:SHOWN, unit] for title, unit in chosen.items()}, folder.path.name)
    return Picture(
        figure,
        "red is a cell near 1, blue near -1: look for cells that fade along a line (they count), switch at quotation marks, or "
        "stay through an indented block; most cells follow nothing that has a name",
        f"zoo sample {folder.name}",
    )


def cell_activations(task: Task, text: str) -> np.ndarray:
    """tanh(c) of an LSTM's cells, h of other networks, in [-1, 1], after each character, [T, units].

    Units are those of the first layer, then of the second, and so on; of a GRU those of the last layer alone.
    """
    tokens = torch.tensor([task.spec.encode(text, "the text")])
    network = task.recurrent
    sizes = (network.input_size, network.hidden_size, network.num_layers)
    with torch.inference_mode():
        inputs = task.embedded(tokens)
        match network:
            case nn.LSTM():
                readable = ReadableLSTM(*sizes)
                readable.load_state_dict(network.state_dict())
                values = readable.look_inside(inputs)[2]["c"].tanh()
            case nn.RNN():
                readable = ReadableRNN(*sizes, network.nonlinearity)
                readable.load_state_dict(network.state_dict())
                values = readable.look_inside(inputs)[2]["h"]
            case _:
                values = network(inputs)[0][None]
    return _units_last(values).numpy()


def _units_last(values: Tensor) -> Tensor:
    """[layers, 1, T, hidden] as [T, layers * hidden]."""
    return values[:, 0].transpose(0, 1).flatten(1)


def text_features(text: str) -> dict[str, np.ndarray]:
    """What is known of each character: how far it stands in its line, whether inside quotation marks, how deep it is indented."""
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
    return dict(zip(("place in the line", "inside quotation marks", "indentation"), columns, strict=True))


def most_selective(activations: np.ndarray, features: dict[str, np.ndarray]) -> dict[str, int]:
    """For each feature the unit that follows it best, by correlation, under a title that says so; none that hardly follows it."""
    found: dict[str, int] = {}
    centred = activations - activations.mean(0)
    deviations = np.sqrt((centred**2).mean(0))
    for name, values in features.items():
        feature = values - values.mean()
        if not feature.any():
            continue
        covariances = feature @ centred / len(feature)
        correlations = np.divide(covariances, deviations * feature.std(), out=np.zeros_like(covariances), where=deviations > 0)
        unit = int(np.abs(correlations).argmax())
        if abs(correlations[unit]) >= LEAST_CORRELATION:
            found[f"unit {unit}: {name} (correlation {correlations[unit]:+.2f})"] = unit
    return found


def _named(units: str, count: int) -> dict[str, int]:
    parts = [part.strip() for part in units.split(",") if part.strip()]
    for part in parts:
        if not part.isdecimal() or int(part) >= count:
            raise UserError(f"--units {units}: {part} is not a unit; there are 0 to {count - 1}")
    if not 0 < len(parts) <= MOST_UNITS:
        raise UserError(f"--units {units}: name 1 to {MOST_UNITS} units, as in --units 3,17")
    return {f"unit {int(part)}": int(part) for part in parts}


def _read(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError(f"--text {path}: is not UTF-8 text") from None
    except OSError as error:
        raise UserError(f"--text {path}: {(error.strerror or 'cannot be read').lower()}") from None
    if len(text) < 2:
        raise UserError(f"--text {path}: is too short to be coloured")
    return text


def draw_text(text: str, cells: dict[str, np.ndarray], heading: str) -> Figure:
    """The text once for each cell (title -> activation of each character in [-1, 1]), coloured by it."""
    places = _layout(text)
    rows, columns = (max(ends) + 1 for ends in zip(*places, strict=True))
    figure = Figure((max(0.115 * columns, 5) + 0.3, len(cells) * (rows * 0.16 + 0.45) + 0.5), layout="constrained")
    figure.suptitle(f"{heading}: what single cells do", fontsize=10)
    for axes, (title, values) in zip(figure.subplots(len(cells), 1, squeeze=False)[:, 0], cells.items(), strict=True):
        _draw_one(axes, text, places, (rows, columns), values, title)
    return figure


def _layout(text: str) -> list[tuple[int, int]]:
    """The row and the column of each character: a new row behind each line's end, and where a line is too long."""
    row = column = 0
    places = []
    for character in text:
        if column == COLUMNS:
            row, column = row + 1, 0
        places.append((row, column))
        row, column = (row + 1, 0) if character == "\n" else (row, column + 1)
    return places


def _draw_one(
    axes: Axes, text: str, places: list[tuple[int, int]], shape: tuple[int, int], values: np.ndarray, title: str
) -> None:
    colours = np.full(shape, np.nan)
    for (row, column), value in zip(places, values, strict=True):
        colours[row, column] = value
    axes.imshow(colours, cmap=DIVERGING, vmin=-1, vmax=1, aspect="auto", interpolation="nearest")
    for (row, column), character, value in zip(places, text, values, strict=True):
        if not character.isspace():
            colour = "white" if abs(value) > 0.75 else "black"
            axes.text(column, row, character, ha="center", va="center", fontsize=6.5, family="monospace", color=colour)
    axes.set_title(title, loc="left", fontsize=9)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
