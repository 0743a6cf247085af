"""Trajectories of navigation agents through houses from above, with views and instructions."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from zoo.pictures.figure import COLORS, Picture, check_output, style, write_png
from zoo.pictures.predictions import load_trained, open_test_data
from zoo.registry.registry import Registry
from zoo.spec import IGNORE
from zoo.tasks.navigation import NavigationAgent, episode_metrics
from zoo.training.run_folder import RunFolder

EVALUATED = 256  # test episodes, a selection of which is drawn
ROWS = 3  # of a successful and a failed episode each, if there are any
VIEWS = (4, 2)  # per episode: rows and columns
EXPERT, AGENT = "#404040", COLORS[1]
LETTERS = 62  # per line above an episode
PREVIEWED = 6  # houses
OFFSET, ARROW = 4, 21  # pixels of a floor plan: between the two trajectories, and length of an arrow


@dataclass(frozen=True)
class Episode:
    """An episode to draw.

    Attributes:
        plan: floor plan, RGB [side, side, 3].
        expert, agent: positions on the plan and headings, [steps, 2] each.
        views: along the trajectory, [n, H, W, 3].
        outcome: description of the result.
    """

    plan: np.ndarray
    instruction: str
    expert: tuple[np.ndarray, np.ndarray]
    agent: tuple[np.ndarray, np.ndarray] | None = None
    views: np.ndarray | None = None
    outcome: str = ""


def path(
    registry: Registry, runs: list[RunFolder], checkpoint: str = "best", data: str = "", settings: Sequence[str] = ()
) -> Picture:
    """Draw successful and failed test episodes of an agent in unseen houses."""
    folder = runs[0]
    task, run = load_trained(registry, folder, checkpoint)
    module = open_test_data(registry, run, task.spec, data, settings)
    succeeded, failed = walk_test_episodes(task, module)
    columns = [_spread(part, ROWS) for part in (succeeded, failed)]
    if not all(columns):  # all succeed, or all fail
        chosen = _spread([*succeeded, *failed], 2 * ROWS)
        columns = [chosen[:ROWS], chosen[ROWS:]]
    of = len(succeeded) + len(failed)
    return Picture(
        draw_walks(columns, f"{folder.path.name}: {len(succeeded)} of {of} test episodes in unseen houses successful"),
        "dashed is a shortest path, orange the agent's trajectory: look where they diverge, and whether the instruction or the "
        "view explains it; with --set data.instructions=shuffled it gets the instruction of another episode",
        f"zoo test {folder.name} --set data.instructions=shuffled",
    )


def walk_test_episodes(task: NavigationAgent, data: Any) -> tuple[list[Episode], list[Episode]]:
    """Run the agent on the first test episodes in unseen houses: successful and failed ones."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    task.to(device)
    found: tuple[list[Episode], list[Episode]] = ([], [])
    first = 0
    loader = data.test_dataloader()
    for batch in islice(loader, -(-EVALUATED // loader.batch_size)):
        batch = {name: value.to(device) for name, value in batch.items()}
        with torch.inference_mode():
            walk = task.walk(batch)
            metrics = {name: values.tolist() for name, values in episode_metrics(batch, walk).items()}
        shortest = batch["steps"].gather(1, batch["start"][:, None])[:, 0].tolist()
        for row in (~batch["seen"]).nonzero()[:, 0].tolist():
            success, length, error = (metrics[name][row] for name in ("success", "length", "error"))
            poses = walk.poses[row, : int(length) + 1]
            outcome = f"{int(length)} steps, shortest path {shortest[row]}"
            if not success:
                outcome += f"; {'stopped' if walk.stopped[row] else 'out of steps'} {int(error)} from the goal"
            shown = torch.linspace(0, len(poses) - 1, min(len(poses), VIEWS[0] * VIEWS[1])).round().long()
            views = batch["views"][row, poses[shown.to(device)]].permute(0, 2, 3, 1).cpu().numpy()
            ahead = batch["path"][row][batch["actions"][row] != IGNORE]
            expert, agent = (_places(data, part.cpu()) for part in (ahead, poses))
            plan = data.plan("test", first + row).permute(1, 2, 0).numpy()
            found[not success].append(Episode(plan, data.instruction("test", first + row), expert, agent, views, outcome))
        first += len(batch["seen"])
    return found


def _places(data: Any, poses: Tensor) -> tuple[np.ndarray, np.ndarray]:
    places, looks = data.places(poses)
    return places.numpy(), looks.numpy()


def _spread(episodes: Sequence[Episode], count: int) -> list[Episode]:
    """Evenly spaced episodes."""
    return [episodes[int(index)] for index in np.linspace(0, len(episodes) - 1, min(count, len(episodes))).round()]


# ---------------------------------------------------------------------------------------------- drawing


def draw_walks(columns: Sequence[Sequence[Episode]], heading: str) -> Figure:
    """Draw columns of episodes, each with its floor plan and views."""
    rows = max(map(len, columns))
    figure = Figure((5 * len(columns), 3.5 * rows + 0.8), layout="constrained")
    figure.suptitle(heading, fontsize=11)
    panels = figure.subfigures(rows, len(columns), squeeze=False)
    for column, episodes in enumerate(columns):
        for row, episode in enumerate(episodes):
            _draw_walk(panels[row, column], episode)
    lines = [
        Line2D([], [], color=EXPERT, linestyle="--", label="shortest path"),
        Line2D([], [], color=AGENT, label="agent"),
        Line2D([], [], color=AGENT, marker="o", linestyle="", label="start"),
        Line2D([], [], color=AGENT, marker="X", linestyle="", label="end"),
    ]
    figure.legend(handles=lines, loc="outside lower center", ncols=len(lines))
    return figure


def _draw_walk(panel: Any, episode: Episode) -> None:
    panel.suptitle(f"{textwrap.fill(episode.instruction or '(no instruction)', LETTERS)}\n{episode.outcome}", fontsize=8)
    grid = panel.add_gridspec(VIEWS[0], 2 * VIEWS[1], width_ratios=[1.3] * VIEWS[1] + [1] * VIEWS[1])
    house = panel.add_subplot(grid[:, : VIEWS[1]])
    draw_plan(house, episode)
    for index, view in enumerate(episode.views):
        axes = panel.add_subplot(grid[index // VIEWS[1], VIEWS[1] + index % VIEWS[1]])
        axes.imshow(view, interpolation="nearest")
        axes.axis("off")


def draw_plan(axes: Axes, episode: Episode) -> None:
    """Draw the floor plan with the expert's path and, if there is one, the agent's trajectory."""
    axes.imshow(episode.plan, interpolation="nearest")
    axes.axis("off")
    places, looks = episode.expert
    axes.plot(*places.T, color=EXPERT, linestyle="--", linewidth=1.4)
    if episode.agent is None:
        _arrow(axes, places[0], looks[0], EXPERT)
        axes.plot(*places[-1], color=EXPERT, marker="X", markersize=6)
        return
    own, directions = episode.agent
    # offset, so that it does not hide the expert's path
    axes.plot(*(own + OFFSET).T, color=AGENT, linewidth=1.6)
    axes.plot(*own[0], color=AGENT, marker="o", markersize=6)
    axes.plot(*(own[-1] + OFFSET), color=AGENT, marker="X", markersize=7)
    _arrow(axes, own[0], directions[0], AGENT)
    _arrow(axes, own[-1] + OFFSET, directions[-1], AGENT)


def _arrow(axes: Axes, place: np.ndarray, look: np.ndarray, color: str) -> None:
    axes.annotate("", place + ARROW * look, place, arrowprops={"arrowstyle": "->", "color": color, "linewidth": 1.4})


def write_maps(data: Any, name: str, path: Path) -> Path:
    """Draw floor plans of training houses, each with an instruction and its path, and write a PNG.

    Args:
        data: data module for navigation; prepared here.
        name: for the heading.

    Raises:
        UserError: the file cannot be written.
    """
    check_output(path)
    data.prepare_data()
    data.setup()
    split = data.splits["train"]
    with style():
        figure = Figure((10, 7.6), layout="constrained")
        figure.suptitle(f"{name}: training houses with instructions and shortest paths", fontsize=11)
        chosen = _spread(range(len(split)), PREVIEWED)
        for axes, index in zip(figure.subplots(2, -(-len(chosen) // 2), squeeze=False).flat, chosen, strict=False):
            poses = split.path[index][split.actions[index] != IGNORE]
            plan, instruction = data.plan("train", index).permute(1, 2, 0).numpy(), data.instruction("train", index)
            draw_plan(axes, Episode(plan, instruction, _places(data, poses)))
            axes.set_title(textwrap.fill(instruction or "(no instruction)", 46), fontsize=8)
        write_png(figure, path)
    return path
