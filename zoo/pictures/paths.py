"""Trajectories of navigation agents through houses from above, with views and instructions."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from zoo.pictures.figure import COLORS, Picture
from zoo.pictures.predictions import load_trained, open_test_data
from zoo.registry.registry import Registry
from zoo.tasks.navigation import Episode
from zoo.tasks.samples import evenly_spread
from zoo.training.run_folder import RunFolder

ROWS = 3  # of a successful and a failed episode each, if there are any
VIEWS = (4, 2)  # per episode: rows and columns
EXPERT, AGENT = "#404040", COLORS[1]  # as the data draws them
LETTERS = 62  # per line above an episode


def path(
    registry: Registry, runs: list[RunFolder], checkpoint: str = "best", data: str = "", settings: Sequence[str] = ()
) -> Picture:
    """Draw successful and failed test episodes of an agent in unseen houses."""
    folder = runs[0]
    task, run = load_trained(registry, folder, checkpoint)
    module = open_test_data(registry, run, task.spec, data, settings)
    succeeded, failed = task.to("cuda" if torch.cuda.is_available() else "cpu").walk_unseen(module)
    columns = [_spread(part, ROWS) for part in (succeeded, failed)]
    if not all(columns):  # all succeed, or all fail
        chosen = _spread([*succeeded, *failed], 2 * ROWS)
        columns = [chosen[:ROWS], chosen[ROWS:]]
    of = len(succeeded) + len(failed)
    return Picture(
        draw_walks(module, columns, f"{folder.path.name}: {len(succeeded)} of {of} test episodes in unseen houses successful"),
        "dashed is a shortest path, orange the agent's trajectory: look where they diverge, and whether the instruction or the "
        "view explains it; with --set data.instructions=shuffled it gets the instruction of another episode",
        f"zoo test {folder.name} --set data.instructions=shuffled",
    )


def _spread(episodes: Sequence[Episode], count: int) -> list[Episode]:
    """Evenly spaced episodes."""
    return [episodes[index] for index in evenly_spread(len(episodes), count).tolist()]


# ---------------------------------------------------------------------------------------------- drawing


def draw_walks(data: Any, columns: Sequence[Sequence[Episode]], heading: str) -> Figure:
    """Draw columns of episodes, each with its floor plan and views."""
    rows = max(map(len, columns))
    figure = Figure((5 * len(columns), 3.5 * rows + 0.8), layout="constrained")
    figure.suptitle(heading, fontsize=11)
    panels = figure.subfigures(rows, len(columns), squeeze=False)
    for column, episodes in enumerate(columns):
        for row, episode in enumerate(episodes):
            _draw_walk(data, panels[row, column], episode)
    lines = [
        Line2D([], [], color=EXPERT, linestyle="--", label="shortest path"),
        Line2D([], [], color=EXPERT, linestyle="", marker="o", markersize=9, markerfacecolor="none", label="goal"),
        Line2D([], [], color=AGENT, label="agent"),
        Line2D([], [], color=AGENT, marker="o", linestyle="", label="start"),
        Line2D([], [], color=AGENT, marker="X", linestyle="", label="end"),
    ]
    figure.legend(handles=lines, loc="outside lower center", ncols=len(lines))
    return figure


def _draw_walk(data: Any, panel: Any, episode: Episode) -> None:
    panel.suptitle(f"{textwrap.fill(episode.instruction or '(no instruction)', LETTERS)}\n{episode.outcome}", fontsize=8)
    grid = panel.add_gridspec(VIEWS[0], 2 * VIEWS[1], width_ratios=[1.3] * VIEWS[1] + [1] * VIEWS[1])
    house = panel.add_subplot(grid[:, : VIEWS[1]] if len(episode.views) else grid[:, :])
    house.imshow(data.draw_walk("test", episode.index, episode.poses).permute(1, 2, 0))
    house.axis("off")
    for index, view in enumerate(episode.views):
        axes = panel.add_subplot(grid[index // VIEWS[1], VIEWS[1] + index % VIEWS[1]])
        axes.imshow(view.permute(1, 2, 0), interpolation="nearest")
        axes.axis("off")
