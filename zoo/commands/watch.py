"""``zoo watch``: progress of a run that another process trains."""

from __future__ import annotations

import sys
from contextlib import suppress
from time import sleep, time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.commands.shell import Json, RunName, print_json

if TYPE_CHECKING:
    from zoo.training.watching import State, Watched

EVERY_SECONDS = 1.0
BAR_WIDTH = 60


def watch(
    run: RunName,
    once: Annotated[
        bool, typer.Option("--once", help="Print the state once and exit; the default when the output is not a terminal.")
    ] = False,
    json: Json = False,
) -> None:
    """Follow the progress, speed and metrics of a run that another process trains.

    [bold]zoo watch resnet20-digits[/bold]   until the run ends; Ctrl-C stops watching, not the run\n
    [bold]zoo watch resnet20-digits --once[/bold]
    """
    from zoo.training.run_folder import TRACES, RunFolder
    from zoo.training.watching import Watched

    watched = Watched(RunFolder.find(run, TRACES))
    if json:
        print_json(watched.state(time()).to_dict())
    elif once or not sys.stdout.isatty():
        print("\n".join(watched.state(time()).lines()))
    else:
        with suppress(KeyboardInterrupt):  # the way to stop watching
            _follow(watched)


def _follow(watched: Watched) -> None:
    from rich.console import Console
    from rich.live import Live

    state = watched.state(time())
    with Live(_drawn(state), console=Console(), auto_refresh=False) as live:
        while not (state.is_finished or state.broke):
            sleep(EVERY_SECONDS)
            state = watched.state(time())
            live.update(_drawn(state), refresh=True)


def _drawn(state: State) -> Any:
    from rich.console import Group
    from rich.text import Text

    first, *others = state.lines()
    styles = {"warning:": "yellow", "error:": "red", "silent": "yellow"}
    lines = [Text(line, style=styles.get(line.partition(" ")[0], "")) for line in others]
    done = round((state.share or 0.0) * BAR_WIDTH)
    bar = Text.assemble(("━" * done, "green"), ("━" * (BAR_WIDTH - done), "bright_black"))
    return Group(Text(first, style="bold"), bar, *lines)
