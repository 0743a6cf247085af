"""``zoo report``: an HTML report of runs."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from zoo.commands.shell import echo, echo_parts, open_registry, zoo_command
from zoo.core.errors import UserError
from zoo.core.files import require_writable


def report(
    context: typer.Context,
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN...", help="Runs by name or path, or a pattern such as 'mlp-*'; several are compared."),
    ],
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Output file; default report.html, in the run folder, or here for several runs.",
        ),
    ] = "",
    no_samples: Annotated[
        bool, typer.Option("--no-samples", help="Leave out predictions, which need the checkpoint and the data.")
    ] = False,
) -> None:
    """Write an HTML report: metrics, findings, learning curves, predictions, activations and gradients of each layer, settings.

    The page is a single file that opens offline.

    [bold]zoo report resnet20-digits[/bold]\n
    [bold]zoo report first second -o compared.html[/bold]   compare two runs\n
    [bold]zoo report 'mlp-*'[/bold]   compare all whose names match\n
    [bold]zoo report resnet20-digits --no-samples[/bold]   without predictions
    """
    from zoo.training.run_folder import RUN_FILES, RunFolder, expand_pattern

    registry = open_registry(context)
    folders = [RunFolder.find(name, RUN_FILES) for text in runs for name in expand_pattern(text)]
    if len({folder.path.resolve() for folder in folders}) < len(folders):
        raise UserError("a run is given twice")
    path = Path(output) if output else folders[0].path / "report.html" if len(folders) == 1 else Path("report.html")
    if path.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--output {path}: reports are HTML files, so the name must end in .html")
    require_writable("--output", path)
    from zoo.report.page import write_report

    again = zoo_command(context)
    subjects = write_report(registry, folders, path, with_samples=not no_samples, command=again)
    echo(f"{path}: open it in a browser")
    with_curves = [subject.folder.name for subject in subjects if subject.history.metrics and subject.run]
    understood = [shlex.quote(str(subject.folder.run_file)) for subject in subjects if subject.run]
    commands = [f"{again} picture curves {' '.join(with_curves)}"] if with_curves else []
    commands += [f"{again} train --config {understood[0]} --name NEW"] if understood else []
    echo_parts("next:", commands or [f"{again} list"], gap="    ")
