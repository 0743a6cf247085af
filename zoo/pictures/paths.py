"""Paths through houses, from above: where an agent went beside where an expert goes, what it saw, and what it was told."""

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

LOOKED_THROUGH = 256  # test episodes of which those to draw are chosen
ROWS = 3  # of episodes, one that succeeds and one that fails in each as far as there are such
VIEWS = (4, 2)  # of an episode: rows and columns
EXPERT, AGENT = "#404040", COLORS[1]
LETTERS = 62  # in a line above an episode
PREVIEWED = 6  # houses
BESIDE, ARROW = 4, 21  # pixels of a plan: between the two ways, and of an arrow


@dataclass(frozen=True)
class Episode:
    """One walk to be drawn.

    Attributes:
        plan: the house from above, colors [side, side, 3].
        told: the instruction.
        expert, agent: places on the plan, [steps, 2], each with the direction looked in, [steps, 2].
        views: what was seen on the way, [n, H, W, 3].
        outcome: how it went, in words.
    """

    plan: np.ndarray
    told: str
    expert: tuple[np.ndarray, np.ndarray]
    agent: tuple[np.ndarray, np.ndarray] | None = None
    views: np.ndarray | None = None
    outcome: str = ""


def path(
    registry: Registry, runs: list[RunFolder], checkpoint: str = "best", data: str = "", settings: Sequence[str] = ()
) -> Picture:
    """Where an agent goes when it is told where to, in houses it has never seen: episodes that succeed and episodes that fail."""
    folder = runs[0]
    task, run = load_trained(registry, folder, checkpoint)
    module = open_test_data(registry, run, task.spec, data, settings)
    succeeded, failed = walk_test_episodes(task, module)
    columns = [_spread(part, ROWS) for part in (succeeded, failed)]
    if not all(columns):  # all went well, or nothing did
        chosen = _spread([*succeeded, *failed], 2 * ROWS)
        columns = [chosen[:ROWS], chosen[ROWS:]]
    of = len(succeeded) + len(failed)
    return Picture(
        draw_walks(columns, f"{folder.path.name}: {len(succeeded)} of {of} test episodes in unseen houses succeed"),
        "dashed is a shortest way, orange the agent's own: look where the two part, and whether the words or the view misled it; "
        "with --set data.instructions=shuffled it is told another way and ends elsewhere",
        f"zoo test {folder.name} --set data.instructions=shuffled",
    )


def walk_test_episodes(task: NavigationAgent, data: Any) -> tuple[list[Episode], list[Episode]]:
    """The first test episodes in unseen houses, as the agent walks them: those that succeed, and those that fail."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    task.to(device)
    found: tuple[list[Episode], list[Episode]] = ([], [])
    first = 0
    loader = data.test_dataloader()
    for batch in islice(loader, -(-LOOKED_THROUGH // loader.batch_size)):
        batch = {name: value.to(device) for name, value in batch.items()}
        with torch.inference_mode():
            walk = task.walk(batch)
            figures = {name: values.tolist() for name, values in episode_metrics(batch, walk).items()}
        shortest = batch["steps"].gather(1, batch["start"][:, None])[:, 0].tolist()
        for row in (~batch["seen"]).nonzero()[:, 0].tolist():
            success, length, error = (figures[name][row] for name in ("success", "length", "error"))
            poses = walk.poses[row, : int(length) + 1]
            steps = f"{int(length)} steps, the shortest way has {shortest[row]}"
            if not success:
                steps += f"; {'stops' if walk.stopped[row] else 'is still walking'} {int(error)} from the goal"
            shown = torch.linspace(0, len(poses) - 1, min(len(poses), VIEWS[0] * VIEWS[1])).round().long()
            views = batch["views"][row, poses[shown.to(device)]].permute(0, 2, 3, 1).cpu().numpy()
            ahead = batch["path"][row][batch["actions"][row] != IGNORE]
            expert, agent = (_places(data, part.cpu()) for part in (ahead, poses))
            plan = data.plan("test", first + row).permute(1, 2, 0).numpy()
            found[not success].append(Episode(plan, data.instruction("test", first + row), expert, agent, views, steps))
        first += len(batch["seen"])
    return found


def _places(data: Any, poses: Tensor) -> tuple[np.ndarray, np.ndarray]:
    places, looks = data.places(poses)
    return places.numpy(), looks.numpy()


def _spread(episodes: Sequence[Episode], count: int) -> list[Episode]:
    """So many from all over."""
    return [episodes[int(index)] for index in np.linspace(0, len(episodes) - 1, min(count, len(episodes))).round()]


# ---------------------------------------------------------------------------------------------- drawing


def draw_walks(columns: Sequence[Sequence[Episode]], heading: str) -> Figure:
    """Episodes in columns, each from above with the first to the last view beside it."""
    rows = max(map(len, columns))
    figure = Figure((5 * len(columns), 3.5 * rows + 0.8), layout="constrained")
    figure.suptitle(heading, fontsize=11)
    panels = figure.subfigures(rows, len(columns), squeeze=False)
    for column, episodes in enumerate(columns):
        for row, episode in enumerate(episodes):
            _draw_walk(panels[row, column], episode)
    lines = [
        Line2D([], [], color=EXPERT, linestyle="--", label="shortest way"),
        Line2D([], [], color=AGENT, label="the agent's"),
        Line2D([], [], color=AGENT, marker="o", linestyle="", label="start"),
        Line2D([], [], color=AGENT, marker="X", linestyle="", label="end"),
    ]
    figure.legend(handles=lines, loc="outside lower center", ncols=len(lines))
    return figure


def _draw_walk(panel: Any, episode: Episode) -> None:
    panel.suptitle(f"{textwrap.fill(episode.told or '(told nothing)', LETTERS)}\n{episode.outcome}", fontsize=8)
    grid = panel.add_gridspec(VIEWS[0], 2 * VIEWS[1], width_ratios=[1.3] * VIEWS[1] + [1] * VIEWS[1])
    house = panel.add_subplot(grid[:, : VIEWS[1]])
    draw_plan(house, episode)
    for index, view in enumerate(episode.views):
        axes = panel.add_subplot(grid[index // VIEWS[1], VIEWS[1] + index % VIEWS[1]])
        axes.imshow(view, interpolation="nearest")
        axes.axis("off")


def draw_plan(axes: Axes, episode: Episode) -> None:
    """The house from above, with the expert's way and, if there is one, the agent's."""
    axes.imshow(episode.plan, interpolation="nearest")
    axes.axis("off")
    places, looks = episode.expert
    axes.plot(*places.T, color=EXPERT, linestyle="--", linewidth=1.4)
    if episode.agent is None:
        _arrow(axes, places[0], looks[0], EXPERT)
        axes.plot(*places[-1], color=EXPERT, marker="X", markersize=6)
        return
    own, directions = episode.agent
    # beside the expert's, which it may cover
    axes.plot(*(own + BESIDE).T, color=AGENT, linewidth=1.6)
    axes.plot(*own[0], color=AGENT, marker="o", markersize=6)
    axes.plot(*(own[-1] + BESIDE), color=AGENT, marker="X", markersize=7)
    _arrow(axes, own[0], directions[0], AGENT)
    _arrow(axes, own[-1] + BESIDE, directions[-1], AGENT)


def _arrow(axes: Axes, place: np.ndarray, look: np.ndarray, color: str) -> None:
    axes.annotate("", place + ARROW * look, place, arrowprops={"arrowstyle": "->", "color": color, "linewidth": 1.4})


def write_maps(data: Any, name: str, path: Path) -> Path:
    """Draw some houses for training from above, each with an instruction and the way that it tells, and write a PNG.

    Args:
        data: a DataModule for navigation; it is prepared here.
        name: for the heading.

    Returns:
        The path that was written.

    Raises:
        UserError: it cannot be written.
    """
    check_output(path)
    data.prepare_data()
    data.setup()
    split = data.splits["train"]
    with style():
        figure = Figure((10, 7.6), layout="constrained")
        figure.suptitle(f"{name}: houses from above, and shortest ways to where one is told to go", fontsize=11)
        chosen = _spread(range(len(split)), PREVIEWED)
        for axes, index in zip(figure.subplots(2, -(-len(chosen) // 2), squeeze=False).flat, chosen, strict=False):
            poses = split.path[index][split.actions[index] != IGNORE]
            plan, told = data.plan("train", index).permute(1, 2, 0).numpy(), data.instruction("train", index)
            draw_plan(axes, Episode(plan, told, _places(data, poses)))
            axes.set_title(textwrap.fill(told or "(told nothing)", 46), fontsize=8)
        write_png(figure, path)
    return path
