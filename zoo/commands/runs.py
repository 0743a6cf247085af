"""``zoo runs``: one's runs at a glance."""

from __future__ import annotations

import os
import shlex
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.commands.shell import Json, echo, print_json, print_table, setting, terminal_width, zoo_command
from zoo.commands.train import RunsDir
from zoo.core.clock import format_duration
from zoo.core.errors import UserError, some
from zoo.core.printing import printable

if TYPE_CHECKING:
    from zoo.training.run_summary import RunSummary

NUMBERS = ("best", "test", "epoch", "time")
# columns that a narrow terminal does without, the first of these first
DISPENSABLE = ("time", "epoch", "updated", "findings", "data", "settings", "test", "model")


def runs(
    context: typer.Context,
    pattern: Annotated[
        str, typer.Argument(metavar="PATTERN", help="Part of the name of a run, model or data set, or a pattern such as 'mlp-*'.")
    ] = "",
    state: Annotated[
        str, typer.Option(metavar="STATE", help="Only runs that are running, finished, resumable, non-finite or broken.")
    ] = "",
    where: Annotated[
        list[str], typer.Option("--where", metavar="KEY=VALUE", help="Only runs with this setting, as in recipe.lr=0.1.")
    ] = [],  # noqa: B006
    sort: Annotated[str, typer.Option(metavar="BY", help="updated, name, metric (the best first) or duration.")] = "updated",
    names: Annotated[bool, typer.Option("--names", help="Print names only, for other commands.")] = False,
    runs_dir: RunsDir = "",
    json: Json = False,
) -> None:
    """List your runs: state, best and test metric, findings, and the settings in which they differ.

    [bold]zoo runs[/bold]   the latest first\n
    [bold]zoo runs resnet20 --sort metric[/bold]   compare the runs of a model\n
    [bold]zoo runs --state resumable[/bold]\n
    [bold]zoo report $(zoo runs mlp --names)[/bold]   compare them in a page
    """
    from zoo.api.runs import list_runs
    from zoo.config.settings import parse_settings
    from zoo.training.run_folder import runs_folder, runs_in

    try:
        layers = parse_settings(where)
    except UserError as error:
        raise UserError(str(error).replace("--set", "--where", 1)) from None
    wanted = {f"{section}.{key}": value for layer in layers for section, values in layer.items() for key, value in values.items()}
    with runs_in(runs_dir):
        found = list_runs(pattern, state=state, where=wanted, sort=sort)
        folder = runs_folder()
    if json:
        print_json([run.to_dict() for run in found])
    elif names:
        echo(*(run.name for run in found))
    elif not found:
        raise UserError(_nothing(context, folder, runs_dir, pattern, state, where))
    else:
        _print(found)
        echo("", f"next: {_next(context, found, runs_dir)}")


def _nothing(context: typer.Context, folder: Any, runs_dir: str, pattern: str, state: str, where: list[str]) -> str:
    again, there = zoo_command(context), f" --runs-dir {shlex.quote(runs_dir)}" if runs_dir else ""
    asked = [*([pattern] if pattern else []), *([f"--state {state}"] if state else []), *(f"--where {each}" for each in where)]
    if asked:
        return f"no run in {folder}/ matches {' '.join(asked)}: `{again} runs{there}` lists all"
    return f"there is no run in {folder}/ yet: `{again} train mlp{there}` makes one in a minute"


def _print(found: list[RunSummary]) -> None:
    """Print a table that fits the terminal; whole in a pipe."""
    now = time.time()
    rows = [_row(run, now) for run in found]
    columns = [title for title in rows[0] if any(row[title] for row in rows)]
    if sys.stdout.isatty():
        columns = _fitting(rows, columns, terminal_width())
    print_table([tuple(row[title] for title in columns) for row in rows], tuple(columns), NUMBERS)


def _row(run: RunSummary, now: float) -> dict[str, str]:
    metric = run.metric.removeprefix("val/")
    findings = f"{len(run.findings)}: {some(run.findings, 2)}" if run.findings else ""
    return {
        "run": run.name,
        "model": run.model,
        "data": run.data,
        "state": run.state,
        "metric": metric if run.best is not None else "",
        "best": "" if run.best is None else f"{run.best:.4g}",
        "test": "" if run.test is None else f"{run.test:.4g}",
        "epoch": f"{run.epoch}/{run.epochs or '?'}" if run.state != "broken" else "",
        "time": "" if run.seconds is None else format_duration(run.seconds),
        "updated": "" if run.updated is None else _ago(now - run.updated),
        "findings": findings,
        "settings": run.problem or " ".join(setting(key, value) for key, value in run.varied.items()),
    }


def _fitting(rows: list[dict[str, str]], columns: list[str], width: int) -> list[str]:
    """The columns that fit."""
    widths = {title: max(len(title), *(len(printable(row[title])) for row in rows)) for title in columns}
    for dropped in DISPENSABLE:
        excess = sum(widths[title] + 2 for title in columns) - 2 - width
        if excess <= 0:
            break
        if dropped in columns:
            columns = [title for title in columns if title != dropped]
    return columns


def _ago(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit} ago"
    return "now" if seconds < 10 else f"{seconds:.0f} s ago"


def _next(context: typer.Context, found: list[RunSummary], runs_dir: str) -> str:
    """A command for the first run of each state in which there is something to do."""
    again = zoo_command(context)
    names = {run.state: shlex.quote(os.path.join(runs_dir, run.name)) for run in reversed(found)}
    commands = {"running": "watch", "resumable": "train --resume", "non-finite": "autopsy", "finished": "report"}
    return "    ".join(f"{again} {command} {names[state]}" for state, command in commands.items() if state in names) or (
        f"{again} train mlp"
    )
