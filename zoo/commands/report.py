"""``zoo report``: what happened in a run, as a page."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from zoo.commands.shell import open_registry, zoo_command
from zoo.core.errors import UserError
from zoo.core.files import require_writable


def report(
    context: typer.Context,
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Runs, by name or path; several are compared.")],
    output: Annotated[
        str,
        typer.Option(
            "--output", "-o", metavar="FILE", help="The page; default report.html in the run's folder, of several here."
        ),
    ] = "",
    no_samples: Annotated[
        bool, typer.Option("--no-samples", help="Do not run the network: no predictions and no confusion matrix.")
    ] = False,
) -> None:
    """Write a page of HTML about a run: figures, curves, what went on in each layer, what that means, and all settings.

    The page is one file, which opens from disk without a network. What a run lacks is said in it.

    [bold]zoo report resnet20-digits[/bold]\n
    [bold]zoo report first second -o compared.html[/bold]   two runs side by side\n
    [bold]zoo report resnet20-digits --no-samples[/bold]   without running the network
    """
    from zoo.training.run_folder import TRACES, RunFolder

    registry = open_registry(context)
    folders = [RunFolder.find(name, TRACES) for name in runs]
    if len({folder.path.resolve() for folder in folders}) < len(folders):
        raise UserError("a run is named twice: name each once")
    path = Path(output) if output else folders[0].path / "report.html" if len(folders) == 1 else Path("report.html")
    if path.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--output {path}: a report is a page of HTML, so its name must end in .html")
    require_writable("--output", path)
    from zoo.report.page import write_report

    again = zoo_command(context)
    subjects = write_report(registry, folders, path, with_samples=not no_samples, command=again)
    print(f"{path}: open it in a browser")
    with_curves = [subject.folder.name for subject in subjects if subject.history.metrics and subject.run]
    understood = [shlex.quote(str(subject.folder.run_file)) for subject in subjects if subject.run]
    commands = [f"{again} picture curves {' '.join(with_curves)}"] if with_curves else []
    commands += [f"{again} train --config {understood[0]} --name NEW"] if understood else []
    print("next: " + "    ".join(commands or [f"{again} list"]))
