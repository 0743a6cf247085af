"""The ``zoo`` command: the list of its commands, each of which lives in ``zoo/commands``.

Only Typer is imported to begin with; torch comes in when something is built, so that names are answered at once.
"""

from __future__ import annotations

from typing import Annotated

import typer

from zoo.commands import (
    asking,
    autopsy,
    checking,
    data,
    diagnosing,
    drawing,
    finetuning,
    listing,
    reporting,
    searching,
    shipping,
    training,
    tuning,
    watching,
)
from zoo.commands.shell import OneLineErrors, TextCommand

app = typer.Typer(
    cls=OneLineErrors,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="A zoo of classic networks: list them, train them on your data, and see what they learned.\n\n"
    "[bold]zoo list[/bold] shows what there is; [bold]zoo train resnet20[/bold] trains one, without any network access.",
)
data_app = typer.Typer(cls=OneLineErrors, no_args_is_help=True, help="Data sets: list, show, fetch, look at them.")


def _print_version(asked: bool) -> None:
    if asked:
        from zoo import __version__

        print(f"bestiary {__version__}")
        raise typer.Exit


@app.callback()
def main(
    context: typer.Context,
    plugin: Annotated[list[str], typer.Option(metavar="FILE", help="A Python file that registers models or data.")] = [],  # noqa: B006
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    context.obj = plugin


COMMANDS = {
    "list": listing.list_models,
    "show": listing.show,
    "train": training.train,
    "finetune": finetuning.finetune,
    "watch": watching.watch,
    "test": training.test,
    "predict": asking.predict,
    "sample": asking.sample,
    "chat": asking.chat,
    "picture": drawing.picture,
    "report": reporting.report,
    "export": shipping.export,
    "serve": shipping.serve,
    "search": searching.search,
    "tune": tuning.tune,
    "diagnose": diagnosing.diagnose,
    "check": checking.check,
    "autopsy": autopsy.autopsy,
    "doctor": checking.doctor,
}
DATA_COMMANDS = {
    "list": data.list_data,
    "show": data.show_data,
    "fetch": data.fetch_data,
    "preview": data.preview_data,
    "advise": data.advise_data,
}

for name, command in COMMANDS.items():
    app.command(name, cls=TextCommand)(command)
for name, command in DATA_COMMANDS.items():
    data_app.command(name, cls=TextCommand)(command)
app.add_typer(data_app, name="data")
