"""The messages in the sources: their texts, and the advice in them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import typer.main

from zoo.cli import app

ROOT = Path(__file__).parents[1]
SOURCES = [ROOT / "cli.py", *sorted(path for name in ("zoo", "callbacks", "datamodules") for path in (ROOT / name).rglob("*.py"))]
ZOO = {"again", "zoo", "self.command", "subject.command", "zoo_command(context)"}  # what stands for ``zoo`` in a message
VALUE = "\N{BULLET}"  # in place of what a message fills in


def texts(tree: ast.AST) -> Iterator[str]:
    """The string literals of a module, with a mark in place of what f-strings fill in."""
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)} - {
        id(node) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = (
                part.value if isinstance(part, ast.Constant) else "zoo" if ast.unparse(part.value) in ZOO else VALUE
                for part in node.values
            )
            yield "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield node.value


def messages(tree: ast.Module) -> Iterator[str]:
    """The string literals of a module but for docstrings and the help of options."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value.value = None
        elif isinstance(node, ast.keyword) and node.arg in ("help", "description", "metavar"):
            node.value = ast.Constant(None)
    yield from texts(tree)


def advised(text: str) -> Iterator[list[str]]:
    """The words of each command in a text, without ``zoo``, up to the end of a sentence, a line or the markup around it."""
    text = re.sub(r"\[/?\w+\]", "  ", text)  # of rich
    for found in re.finditer(r"(?<![\w/.-])zoo(?=((?: [^\s`]+)+))", text):
        if re.search(r"\b(?:[Tt]he|bestiary|of|import)$", text[: found.start()].rstrip()):
            continue
        if re.match(r"(?: [a-z]+){1,2} (?:is for|needs) ", found[1] + " "):  # it is named, not advised
            continue
        words = []
        for word in found[1].split():
            if word.startswith(("(", "$(")):  # a remark, or a command in a command
                break
            word = word.removesuffix("...")  # of a placeholder for several
            words.append(word.rstrip(".,;:)"))
            if words[-1] != word:
                break
        yield words


def commands() -> dict[tuple[str, ...], Any]:
    root = typer.main.get_command(app)
    context = root.context_class(root)
    found = {}
    for name in root.list_commands(context):
        command = root.get_command(context, name)
        found[(name,)] = command
        if hasattr(command, "list_commands"):
            found |= {(name, inner): command.get_command(context, inner) for inner in command.list_commands(context)}
    return found


@cache
def advice() -> list[str]:
    """The texts of all messages that give advice: commands, settings, packages, and what is next."""
    names = "|".join(sorted({words[0] for words in commands()}))
    gives = re.compile(
        rf"(?<![\w/.-])zoo (?:(?:{names})\b|{VALUE}|--plugin)|--set (?:[\w{VALUE}.]+=|{VALUE}$)"
        r"|pip install|\bnext *:|^next\b|^[Tt]ry\b|\bcurl |hf upload"
    )
    found = (text for path in SOURCES for text in messages(ast.parse(path.read_text())) if gives.search(text))
    return [text for text in dict.fromkeys(found) if re.search(r"[a-z]{2}", re.sub(r"\b(?:next|zoo|try)\b", "", text))]


def beginning_with(beginning: str) -> list[str]:
    """The advice of that text, or of those that begin so, if it is a long one.

    Raises:
        LookupError: there is none.
    """
    found = [text for text in advice() if text == beginning or (len(beginning) > 16 and text.startswith(beginning))]
    if not found:
        raise LookupError(f"no message says {beginning!r}")
    return found


@cache
def pattern(text: str) -> re.Pattern[str]:
    """Matches a text in what was printed, with any values."""
    parts = (r"\s+".join(map(re.escape, part.split())) for part in text.strip(VALUE + " ").split(VALUE))
    return re.compile(r"\s*.{0,300}?\s*".join(parts))
