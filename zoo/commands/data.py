"""``zoo data``: list, describe, download and preview data sets."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from zoo.commands.list import print_entry, print_list
from zoo.commands.shell import Json, SetData, echo, open_registry, print_json, print_wrapped, terminal_width
from zoo.core.errors import UserError, near_path
from zoo.core.files import expanded
from zoo.core.printing import LAYOUT, columns_of, printable, shell_word
from zoo.registry.entry import REQUIRED, Entry


def list_data(
    context: typer.Context,
    pattern: Annotated[str, typer.Argument(metavar="PATTERN", help="Part of a name or tag, or a pattern such as 'cifar*'.")] = "",
    task: Annotated[str, typer.Option(metavar="TASK", help="Only data sets for this task, such as captioning.")] = "",
    json: Json = False,
) -> None:
    """List the data sets."""
    first = "" if pattern or task else "your own images: zoo train resnet20 --data FOLDER/\n"
    print_list(open_registry(context), "data", pattern, task, json, f"{first}next: zoo data show NAME    zoo data preview NAME")


def _find_data(context: typer.Context, name: str, settings: list[str]) -> tuple[Entry, list[str]]:
    """The data set of that name, or of images in the folder or table of that path, and its settings."""
    registry = open_registry(context)
    if name in registry.data:
        return registry.data_set(name), settings
    from zoo.config.resolution import data_section

    section = data_section(registry, name)
    return registry.data_set(section["name"]), [*(f"data.{key}={section[key]}" for key in section if key != "name"), *settings]


def _open_data(entry: Entry, settings: list[str]) -> Any:
    """The data set with validated options, not yet downloaded."""
    options = _data_options(entry, settings)
    from zoo.config.recipe import Recipe

    recipe = Recipe()
    return entry.load()(recipe.batch_size, recipe.seed, **options)


def _read_data(entry: Entry, settings: list[str]) -> Any:
    """The data set, read and split."""
    data = _open_data(entry, settings)
    data.prepare_data()
    data.setup()
    return data


def _data_options(entry: Entry, settings: list[str]) -> dict[str, Any]:
    """All options of a data set, validated; a root that the user gives must exist."""
    from zoo.config.options import check_options
    from zoo.config.settings import parse_setting

    given = {key: value for text in settings for key, value in parse_setting(text, ("data",))["data"].items()}
    options = check_options(entry, given)
    where = _required(entry)
    if where and "local-files" in entry.tags and not (path := expanded(options[where])).exists():
        raise UserError(f"data.{where}={options[where]}: there is no such file or folder{near_path(path)}")
    return options


def _required(entry: Entry) -> str:
    """The option that says where the files are, if the data set has them nowhere by itself."""
    return next((option.name for option in entry.options if option.default == REQUIRED), "")


def show_data(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="DATA", help="Data set, such as digits, or a folder or table of images.")],
    settings: SetData = [],  # noqa: B006
    measure: Annotated[
        bool, typer.Option("--measure", help="Also load the data: split sizes, statistics, unreadable files.")
    ] = False,
    json: Json = False,
) -> None:
    """Describe a data set and its options: [bold]zoo data show photos/ --measure[/bold]."""
    entry, settings = _find_data(context, name, settings)
    if settings:
        _data_options(entry, settings)
    facts = _read_data(entry, settings).summarize() if measure else {}
    if json:
        print_json({**entry.to_dict(), **facts})
        return
    print_entry(entry, "data")
    if facts:
        echo("")
    for key, value in facts.items():
        echo(f"{key:<12} {value}")
    where = _required(entry)
    place = [f"data.{where}={'FOLDER' if where == 'root' else 'PATH'}"] if where else []
    place = [] if any(text.startswith(f"data.{where}=") for text in settings) else place
    root = "".join(f" --set {shell_word(text)}" for text in (*place, *settings))
    echo("", f"next    zoo data preview {entry.name}{root}    zoo train NAME --data {entry.name}{root}")


def fetch_data(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="DATA", help="Data set, such as cifar10.")],
    settings: SetData = [],  # noqa: B006
) -> None:
    """Download a data set and verify its checksum: [bold]zoo data fetch cifar10[/bold]."""
    entry, settings = _find_data(context, name, settings)
    _open_data(entry, settings).prepare_data()
    name = shlex.quote(name)
    echo(f"{name} is ready. next: zoo data preview {name}")


def preview_data(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="DATA", help="Data set, such as digits, or a folder or table of images.")],
    settings: SetData = [],  # noqa: B006
    output: Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="Output file; default NAME.png.")] = "",
) -> None:
    """Draw samples with augmented versions below: [bold]zoo data preview digits --set data.augment=strong[/bold].

    Text and number sequences are printed instead.
    """
    entry, settings = _find_data(context, name, settings)
    name, data = entry.name, _read_data(entry, settings)
    preview = data.preview()
    if preview.images is not None:
        from zoo.pictures.preview import write_preview

        path = write_preview(data, preview, name, Path(output or f"{name}.png"))
        echo(f"{path}: {preview.shows}")
        for line in preview.lines:
            print_wrapped(line, indent=3)
        return
    if output:
        raise UserError(f"--output {output}: {name} is printed, not drawn")
    for line in "\n".join(preview.lines).split("\n"):
        if sys.stdout.isatty() and columns_of(line) > terminal_width():
            print_wrapped(line)
        else:
            print(printable(line, kept=LAYOUT))


def advise_data(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="DATA", help="Classification data set, or a folder or table of images.")],
    settings: SetData = [],  # noqa: B006
    json: Json = False,
) -> None:
    """Find problems in a data set and suggest how to fine-tune: [bold]zoo data advise photos/[/bold].

    Checks the class balance, duplicates across classes and splits, image sizes, and unreadable files.
    """
    registry = open_registry(context)
    entry, settings = _find_data(context, name, settings)
    name = entry.name
    if entry.task != "classification" or "points" in entry.tags:
        fitting = ", ".join(n for n, e in registry.data.items() if e.task == "classification" and "points" not in e.tags)
        raise UserError(f"{name} is not an image classification data set: choose from {fitting}")
    data = _read_data(entry, settings)
    from zoo.analysis.advice import advise, report

    advice = advise(data, name, settings)
    if json:
        print_json(advice)
        return
    for line in report(advice):
        echo(line)
    echo(f"next: {advice.suggestion.command}")
