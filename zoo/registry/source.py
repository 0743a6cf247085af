"""Read registered entries from source code with ``ast``, without importing it."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from zoo.registry.entry import GIVEN_BY_THE_ENGINE, KIND_OF_DECORATOR, REQUIRED, Entry, _argument_help, _make_entry

# functions and methods other than __init__, with their decorators: nothing in them is registered, and they are most of a file
FUNCTION = re.compile(r"^( {4}|)(?:@.*\n\1)*def (?!__init__\b).*\n(?:(?:\1 .*|\1\).*:|)\n)*", re.MULTILINE)


def read_file(path: Path, module: str) -> Iterator[Entry]:
    """The entries that one source file registers, without running it.

    Raises:
        SyntaxError, ValueError, OSError: the file cannot be read so; the text says why.
    """
    source = path.read_text(encoding="utf-8")
    if not any(decorator in source for decorator in KIND_OF_DECORATOR):
        return
    try:
        tree = ast.parse(FUNCTION.sub(lambda match: "\n" * match[0].count("\n"), source), str(path))
    except SyntaxError:  # of the file itself, or because a text in it looks like a function
        tree = ast.parse(source, str(path))
    constants: dict[str, ast.expr] = {}
    classes: dict[str, ast.ClassDef] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            constants[node.targets[0].id] = node.value
        if isinstance(node, ast.ClassDef):
            classes[node.name] = node
            # Python applies decorators from the last to the first
            for decorator in reversed(node.decorator_list):
                if (kind := _decorator_kind(decorator)) is not None:
                    yield _read_decorator(kind, decorator, node, classes, constants, module, path)


def _decorator_kind(node: ast.expr) -> str | None:
    if not isinstance(node, ast.Call):
        return None
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    return KIND_OF_DECORATOR.get(name)


def _read_decorator(kind, call, node, classes, constants, module, path) -> Entry:
    class Substitute(ast.NodeTransformer):
        def visit_Name(self, name: ast.Name) -> ast.expr:
            return constants.get(name.id, name)

    def literal(value: ast.expr) -> Any:
        with suppress(ValueError):  # it holds names, of constants perhaps
            return ast.literal_eval(value)
        try:
            return ast.literal_eval(Substitute().visit(value))
        except ValueError:
            raise ValueError(
                f"line {value.lineno}: {ast.unparse(value)} is not a literal; what is registered is read, not run"
            ) from None

    name = literal(call.args[0]) if call.args else None
    if not isinstance(name, str):
        raise ValueError(f"line {call.lineno}: the first argument must be the name")
    keywords = {keyword.arg: literal(keyword.value) for keyword in call.keywords if keyword.arg}
    if "task" not in keywords:
        raise ValueError(f"line {call.lineno}: {name!r} names no task")
    lineage = _lineage(node, classes)
    parameters = _read_parameters(kind, lineage, literal)
    helps = _argument_help(ast.get_docstring(each) for each in reversed(lineage))
    entry = _make_entry(kind, name, keywords, node.name, ast.get_docstring(node), parameters, helps, module)
    return replace(entry, path=str(path))


def _lineage(node: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> list[ast.ClassDef]:
    """The class, its base in the same file, the base of that, and so on."""
    base = next((classes[base.id] for base in node.bases if isinstance(base, ast.Name) and base.id in classes), None)
    return [node, *(_lineage(base, classes) if base else [])]


def _read_parameters(kind: str, lineage: list[ast.ClassDef], literal: Callable) -> dict[str, tuple[str, Any]]:
    """The options of a class: what its ``__init__``, or that of a base in the same file, takes beside what the engine gives."""
    methods = (method for node in lineage for method in node.body)
    init = next((f for f in methods if isinstance(f, ast.FunctionDef) and f.name == "__init__"), None)
    if init is None:
        raise ValueError(f"line {lineage[0].lineno}: {lineage[0].name} defines no __init__, so its options cannot be read")
    plain = init.args.posonlyargs + init.args.args
    defaults = [None] * (len(plain) - len(init.args.defaults)) + list(init.args.defaults)
    pairs = [*zip(plain, defaults, strict=True), *zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True)]
    return {
        argument.arg: (
            ast.unparse(argument.annotation) if argument.annotation else "Any",
            REQUIRED if default is None else literal(default),
        )
        for argument, default in pairs
        if argument.arg not in GIVEN_BY_THE_ENGINE[kind]
    }
