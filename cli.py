"""The ``zoo`` command: the table of its commands, each of which lives in ``zoo/commands`` and is imported when it is called."""

from __future__ import annotations

from typing import Annotated

import typer

from zoo.commands.shell import CommandGroup

PANELS = {
    "Choose": {"list": "list.list_models", "show": "list.show"},
    "Train": {
        "train": "train.train",
        "finetune": "finetune.finetune",
        "tune": "tune.tune",
        "search": "search.search",
        "diagnose": "diagnose.diagnose",
        "watch": "watch.watch",
        "runs": "runs.runs",
    },
    "Use": {
        "test": "train.test",
        "predict": "predict.predict",
        "embed": "embed.embed",
        "probe": "embed.probe",
        "sample": "predict.sample",
        "chat": "predict.chat",
        "export": "export.export",
        "serve": "export.serve",
    },
    "Understand": {"picture": "picture.picture", "report": "report.report", "autopsy": "autopsy.autopsy"},
    "Check": {"check": "check.check", "doctor": "check.doctor"},
}
DATA_PANELS = {
    "Commands": {
        "list": "data.list_data",
        "show": "data.show_data",
        "fetch": "data.fetch_data",
        "preview": "data.preview_data",
        "advise": "data.advise_data",
    }
}


class ZooGroup(CommandGroup):
    panels = PANELS


class DataGroup(CommandGroup):
    panels = DATA_PANELS


app = typer.Typer(
    cls=ZooGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train, fine-tune and inspect classic networks.\n\n"
    "[bold]zoo list[/bold] lists the models; [bold]zoo train resnet20[/bold] trains one on data that comes with the zoo.",
)
data_app = typer.Typer(cls=DataGroup, no_args_is_help=True, help="List, describe, download and preview data sets.")
app.add_typer(data_app, name="data", rich_help_panel="Choose")


def _print_version(asked: bool) -> None:
    if asked:
        from zoo.core import __version__

        print(f"bestiary {__version__}")
        raise typer.Exit


@app.callback()
def main(
    context: typer.Context,
    plugin: Annotated[
        list[str],
        typer.Option(metavar="FILE", help="Python file of a plugin: models, data sets, losses, ..."),
    ] = [],  # noqa: B006
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    context.obj = plugin
