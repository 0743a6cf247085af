"""Where an agent goes when it is told where to: its ways through unseen houses, from above."""

from __future__ import annotations

from matplotlib.figure import Figure

from zoo.pictures.figure import png_bytes, style
from zoo.pictures.paths import EXPERT, Episode, draw_plan, walk_test_episodes
from zoo.report.samples.samples import Samples, Scene, Trained, Turn, as_address, evenly_spread, require_some

SHOWN = 6  # half of them episodes that fail, as far as there are such
SIDE = 2.0  # inches
GOAL = 13  # points across the ring


def ask_navigator(trained: Trained) -> Samples:
    """Test episodes in unseen houses, some that succeed and some that fail."""
    succeeded, failed = walk_test_episodes(trained.task, trained.open_data())
    total = len(succeeded) + len(failed)
    require_some([*succeeded, *failed], "test episodes in unseen houses")
    few = min(len(failed), max(SHOWN // 2, SHOWN - len(succeeded)))
    scenes = [
        _scene(part[place], part is succeeded)
        for part, most in ((succeeded, SHOWN - few), (failed, few))
        for place in evenly_spread(len(part), most).tolist()
    ]
    about = (
        f"{len(succeeded):,} of {total:,} test episodes in unseen houses succeed. Dashed is a shortest way to the goal, which "
        "the ring is around, orange the agent's own, from the dot to the cross; arrows are where it looks."
    )
    return Samples(about, scenes=scenes)


def _scene(episode: Episode, is_right: bool) -> Scene:
    alt = f"A house from above, with a shortest way to the goal and the agent's own: {episode.outcome}"
    turn = Turn(episode.instruction or "(no instruction)", episode.outcome, is_right)
    return Scene(as_address(_plan(episode), "png"), alt, turns=(turn,))


def _plan(episode: Episode) -> bytes:
    """The house from above with both ways, as PNG without a margin."""
    with style():
        figure = Figure((SIDE, SIDE))
        axes = figure.add_axes((0, 0, 1, 1))
        draw_plan(axes, episode)
        goal = episode.expert[0][-1]
        axes.plot(*goal, color=EXPERT, marker="o", fillstyle="none", markersize=GOAL)
        return png_bytes(figure)
