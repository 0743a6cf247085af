"""Shared parts of all commands: lazy imports, text options, one-line errors, tables and JSON."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import sys
from collections.abc import Iterable
from dataclasses import asdict
from functools import partial
from importlib import import_module
from typing import Annotated, Any, ClassVar

import typer
import typer.main
from typer.core import TyperCommand, TyperGroup

from zoo.commands.status import TorchImport, status
from zoo.core.errors import Failure, UserError, one_line
from zoo.core.printing import columns_of, json_text, make_output_readable, padded, printable
from zoo.core.ranks import error_print, rank_zero_print
from zoo.core.signals import stop
from zoo.registry.registry import Registry, scan

REFUSED = {  # by the system, for reasons that are not ours: names, places, rights, space
    errno.EACCES, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EISDIR, errno.ELOOP, errno.EMFILE, errno.ENAMETOOLONG, errno.ENFILE,
    errno.ENOSPC, errno.ENOTDIR, errno.EPERM, errno.EROFS,
}  # fmt: skip

WIDE = "\ufdd0"  # is no character
GAP = "  "  # between columns
LEAST_WRAPPED = 20  # columns of a terminal for a text in a table; in fewer it is truncated


class TextParameters:
    """Parameters that are text and flags, without Typer's conversion.

    Typer converts every value, even text, with pydantic, whose import takes longer than everything else in listing
    names. Numbers are checked with the recipe, where their bounds are known.
    """

    def get_params(self, context: Any) -> list[Any]:
        parameters = super().get_params(context)
        for parameter in parameters:
            parameter.process_value = partial(_process_text, parameter)
        return parameters

    def parse_args(self, context: Any, arguments: list[str]) -> list[str]:
        try:
            parsed: list[str] = super().parse_args(context, arguments)
        except typer.TyperException as error:  # of an option without its argument it does not say in which command
            error.ctx = getattr(error, "ctx", None) or context
            raise
        return parsed


def _process_text(parameter: Any, context: Any, value: Any) -> Any:
    several = parameter.multiple or parameter.nargs == -1
    if parameter.required and not (value or value == ""):
        return type(parameter).process_value(parameter, context, value)  # raises MissingParameter
    is_written = context.get_parameter_source(parameter.name).name == "COMMANDLINE"
    # free text may be empty; elsewhere an empty variable of a script would mean the default
    if value == "" and is_written and parameter.param_type_name == "option" and parameter.metavar != "TEXT":
        raise UserError(f"{parameter.opts[0]} is empty: give it a value{'' if parameter.required else ' or omit it'}")
    value = () if value is None and several else value
    return parameter.callback(context, parameter, value) if parameter.callback else value


class TextCommand(TextParameters, TyperCommand):
    """A command of text and flags."""

    def parse_args(self, context: Any, arguments: list[str]) -> list[str]:
        if any("--set" in parameter.opts for parameter in self.params):
            arguments = _options_as_settings(arguments)
        try:
            return super().parse_args(context, arguments)
        except typer.TyperException as error:
            self._hint_at_setting(error)
            raise

    def _hint_at_setting(self, error: typer.TyperException) -> None:
        """Name the flag or the setting that an unknown option, or a word such as ``epochs=3``, stands for.

        Raises:
            UserError: there is one.
        """
        flags = {flag: parameter for parameter in self.params for flag in parameter.opts}
        extra = re.search(r"extra argument.*\(([\w.-]+)(=[^\s)]*)", error.format_message())
        name, value = (extra[1], extra[2]) if extra else (getattr(error, "option_name", ""), "=VALUE")
        if not name or "--set" not in flags or flags["--set"].help != SETTINGS:  # settings of a recipe do not apply
            return
        from zoo.config.settings import full_key

        if key := full_key(name.lstrip("-")):
            flag = f"--{key.partition('.')[2].replace('_', '-')}"
            right = f"{flag} {value[1:]}" if flag in flags else f"--set {key}{value}"
            raise UserError(f"no {'argument' if extra else 'option'} {name}{value if extra else ''}: write {right}")


def _options_as_settings(arguments: list[str]) -> list[str]:
    """Put ``--set`` before settings that are written as options, as ``wandb agent`` does.

    They are ``--recipe.lr=0.1``, ``--recipe.lr 0.1``, and ``--recipe={'lr': 0.1}`` for nested keys.
    """
    written: list[str] = []
    words = list(arguments)
    while words and words[0] != "--":
        word = words.pop(0)
        name, equals, _ = word.partition("=")
        if re.fullmatch(r"--\w+=\{.*", word, re.DOTALL) or re.fullmatch(r"--\w+\.[\w.]+", name):
            value = "" if equals or not words or words[0].startswith("--") else f"={words.pop(0)}"
            written += ["--set", word[2:] + value]
        else:
            written.append(word)
    return [*written, *words]


class CommandGroup(TextParameters, TyperGroup):
    """Commands that are imported when they are called or listed, and whose errors are one line on standard error.

    Exit codes: 2 for the user's mistakes, 1 for other failures, 130 when interrupted.

    Attributes:
        panels: heading in the help -> command -> its module in ``zoo.commands`` and function, as in ``train.test``.
    """

    panels: ClassVar[dict[str, dict[str, str]]]

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.places = {name: (panel, place) for panel, places in self.panels.items() for name, place in places.items()}
        self.commands = {**dict.fromkeys(self.places), **self.commands}

    def get_command(self, context: Any, name: str) -> Any:
        if name in self.places and self.commands[name] is None:
            panel, place = self.places[name]
            module, function = place.split(".")
            app = typer.Typer(add_completion=False, rich_markup_mode="rich")
            app.command(name, cls=TextCommand, rich_help_panel=panel)(getattr(import_module(f"zoo.commands.{module}"), function))
            self.commands[name] = typer.main.get_command(app)
        return super().get_command(context, name)

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        extra.setdefault("prog_name", "zoo")
        if not standalone_mode:
            return super().main(*args, standalone_mode=False, **extra)
        make_output_readable()
        try:
            os.getcwd()
        except OSError as error:  # without it the libraries of torch end the process themselves
            _fail(f"the current folder: {(error.strerror or '').lower()}")
        if "torch" not in sys.modules:
            sys.meta_path.insert(0, TorchImport())
        try:
            with stop.owned(is_command=True):
                code = super().main(*args, standalone_mode=False, **extra) or 0
                if code == 130:  # what Typer makes of a KeyboardInterrupt, without a word
                    raise KeyboardInterrupt
                sys.exit(code)
        except UserError as error:
            _fail(str(error))
        except Failure as error:
            _fail(str(error), code=1)
        except typer.TyperException as error:
            if not error.format_message():  # no arguments: the help was printed
                sys.exit(2)
            context = getattr(error, "ctx", None)
            _fail(f"{error.format_message()} (see: {context.command_path if context else 'zoo'} --help)")
        except (KeyboardInterrupt, typer.Abort):
            rank_zero_print("interrupted")
            sys.exit(130)
        except OSError as error:
            if error.errno not in REFUSED:
                raise
            _fail(f"{error.filename or 'output'}: {error.strerror.lower()}")
        finally:
            status.clear()


def _fail(text: str, code: int = 2) -> None:
    error_print(f"error: {one_line(text)}")
    sys.exit(code)


Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
SETTINGS = "Override a setting, as in recipe.lr=0.1, model.depth=32, data.augment=none."
Set = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help=SETTINGS)]
SetData = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a data setting, as in data.size=32.")]
SetModelAndData = Annotated[
    list[str],
    typer.Option("--set", metavar="KEY=VALUE", help="Override a model or data setting, as in model.depth=32, data.size=64."),
]
RunOrFile = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="A run, by name or path, a trained model (zoo list --trained), an exported .safetensors file or hub folder, or "
        "wandb:NAME:ALIAS.",
    ),
]
RunOrNetwork = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="A run, by name or path, a trained model (zoo list --trained), an exported file, wandb:NAME:ALIAS, or a network "
        "with published weights, as in torchvision:resnet50.",
    ),
]
PublishedWeights = Annotated[
    str, typer.Option("--weights", metavar="FILE", help="Published network: load this file instead of its own weights.")
]
SetPublished = Annotated[
    list[str],
    typer.Option("--set", metavar="KEY=VALUE", help="Published network: a setting, as in recipe.weights_key=model_ema."),
]
AverageViews = Annotated[
    bool,
    typer.Option(
        "--tta", help="Average probabilities over mirrored and shifted images, as far as the training mirrored and shifted them."
    ),
]
Checkpoint = Annotated[str, typer.Option(metavar="WHICH", help="Checkpoint to load: best or last.")]


def open_registry(context: typer.Context) -> Registry:
    registry = scan(context.obj or ())
    for warning in registry.warnings:
        rank_zero_print(f"warning: {warning}")
    return registry


def whole_number(option: str, text: str, least: int = 1) -> int:
    """Parse the integer that an option was given."""
    if not text.isdecimal() or int(text) < least:
        raise UserError(f"{option} {text}: must be a number from {least}")
    return int(text)


def decimal_number(option: str, text: str) -> float:
    """Parse the number that an option was given."""
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{option} {text}: must be a number") from None


def zoo_command(context: typer.Context) -> str:
    """The start of a command to suggest: ``zoo`` with the plugins that were given."""
    return " ".join(["zoo", *(f"--plugin {shlex.quote(file)}" for file in context.obj or ())])


def setting(key: str, value: Any) -> str:
    """A setting as it is written after ``--set``, quoted for a shell."""
    return shlex.quote(f"{key}={value if isinstance(value, str) else json.dumps(value, separators=(',', ':'))}")


def echo(*lines: object, flush: bool = False) -> None:
    """Print lines, each as one, whatever the names in it contain."""
    for line in lines:
        print(printable(line), flush=flush)


def echo_parts(start: str, parts: Iterable[str], gap: str = "  ") -> None:
    """Print parts in one line, or in several where a terminal is too narrow, which would break them anywhere."""
    width = terminal_width() if sys.stdout.isatty() else sys.maxsize
    written = list(map(printable, parts))
    line = " ".join([printable(start), *written[:1]])
    for part in written[1:]:
        if columns_of(line + gap + part) > width:
            print(line)
            line = f"  {part}"
        else:
            line += gap + part
    print(line)


def print_json(value: Any) -> None:
    """Print plain data, in which dataclasses may stand."""
    print(json_text(value, indent=2, default=asdict))


def terminal_width() -> int:
    """The width of the terminal, or of ``COLUMNS``; 80 where there is neither."""
    import shutil

    return shutil.get_terminal_size().columns


def print_wrapped(text: str, indent: int = 0) -> None:
    """Print a paragraph, wrapped between words to the width of the terminal; all lines but the first are indented."""
    import textwrap

    # a character of two columns counts as two: one stands behind it until the lines are printed
    spread = "".join(letter + WIDE * (columns_of(letter) - 1) for letter in text)
    unbroken = {"break_on_hyphens": False, "break_long_words": False}
    lines = textwrap.wrap(spread, terminal_width(), subsequent_indent=" " * indent, **unbroken)
    echo(*(line.replace(WIDE, "") for line in lines))


def name_width(names: Iterable[str]) -> int:
    """The width of a column of names; a few long ones may stand out."""
    return min(28, max(map(columns_of, names)))


def print_items(items: Iterable[tuple[str, str]], width: int) -> None:
    """Print (name, description) pairs, the names in a column of this width."""
    for name, description in items:
        print_wrapped(f"  {padded(name, width)}  {description}", indent=width + 4)


def print_table(rows: list[tuple[str, ...]], header: tuple[str, ...], numbers: tuple[str, ...] = ()) -> None:
    """Print aligned columns, those of ``numbers`` to the right.

    Where a terminal is too narrow, a last column of text is wrapped if there is room, and other rows are truncated.
    """
    rows = [tuple(map(printable, row)) for row in (header, *rows)]
    widths = [max(map(columns_of, column)) for column in zip(*rows, strict=True)]
    width = terminal_width() if sys.stdout.isatty() else 10**6
    indent = sum(widths[:-1]) + len(GAP) * (len(widths) - 1)
    wraps = header[-1] not in numbers and width - indent >= LEAST_WRAPPED
    for row in rows:
        cells = [padded(cell, w, title in numbers) for cell, w, title in zip(row, widths, header, strict=True)]
        line = GAP.join(cells).rstrip()
        if columns_of(line) <= width:
            print(line)
        elif wraps:
            print_wrapped(line, indent)
        else:
            from rich.cells import set_cell_size

            print(f"{set_cell_size(line, width - 1)}…")


def metric_texts(metrics: dict[str, float]) -> list[str]:
    return [f"{name} {value:,.0f}" if name.endswith("/characters") else f"{name} {value:.4f}" for name, value in metrics.items()]
