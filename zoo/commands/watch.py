"""``zoo watch``: progress of a run that another process trains."""

from __future__ import annotations

import sys
from contextlib import suppress
from time import sleep, time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.commands.shell import Json, echo, print_json
from zoo.core.errors import UserError
from zoo.core.printing import printable
from zoo.core.ranks import rank_zero_print

if TYPE_CHECKING:
    from zoo.training.watching import RunStatus, RunWatcher

EVERY_SECONDS = 1.0
BAR_WIDTH = 60


def watch(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A run, by name or path; by default the one that is being trained.")
    ] = "",
    once: Annotated[
        bool, typer.Option("--once", help="Print the state once and exit; the default when the output is not a terminal.")
    ] = False,
    json: Json = False,
) -> None:
    """Follow the progress, speed and metrics of a run that another process trains.

    [bold]zoo watch[/bold]   the run that is being trained\n
    [bold]zoo watch resnet20-digits[/bold]   until the run ends; Ctrl-C stops watching, not the run\n
    [bold]zoo watch resnet20-digits --once[/bold]
    """
    from zoo.training.run_folder import RUN_FILES, RunFolder
    from zoo.training.watching import RunWatcher

    watcher = RunWatcher(RunFolder.find(run or _running(), RUN_FILES))
    if json:
        print_json(watcher.status(time()).to_dict())
    elif once or not sys.stdout.isatty():
        echo(*watcher.status(time()).lines())
    else:
        with suppress(KeyboardInterrupt):  # the way to stop watching
            _follow(watcher)


def _running() -> str:
    """The run that is being trained, the latest of several.

    Raises:
        UserError: there is none.
    """
    from zoo.api.runs import list_runs

    running = list_runs(state="running")
    if not running:
        latest = list_runs()
        advice = f"; the latest is {latest[0].name}: zoo watch {latest[0].name}" if latest else ""
        raise UserError(f"no run is being trained{advice}")
    if len(running) > 1:
        rank_zero_print(f"{len(running)} runs are being trained; this is {running[0].name} (zoo runs --state running lists all)")
    return str(running[0].path)


def _follow(watcher: RunWatcher) -> None:
    from rich.console import Console
    from rich.live import Live

    status = watcher.status(time())
    with Live(_rendered(status), console=Console(), auto_refresh=False) as live:
        while not (status.is_finished or status.is_non_finite):
            sleep(EVERY_SECONDS)
            status = watcher.status(time())
            live.update(_rendered(status), refresh=True)


def _rendered(status: RunStatus) -> Any:
    from rich.console import Group
    from rich.text import Text

    first, *others = map(printable, status.lines())
    styles = {"warning:": "yellow", "error:": "red", "idle": "yellow"}
    lines = [Text(line, style=styles.get(line.partition(" ")[0], "")) for line in others]
    done = round((status.progress or 0.0) * BAR_WIDTH)
    bar = Text.assemble(("━" * done, "green"), ("━" * (BAR_WIDTH - done), "bright_black"))
    return Group(Text(first, style="bold"), bar, *lines)
