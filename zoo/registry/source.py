"""Reads registered entries from source code with ``ast``, without importing it."""

from __future__ import annotations

import ast
import functools
import importlib.util
import math
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from zoo.registry.entry import KINDS, REQUIRED, Entry, make_entry

Definition = ast.ClassDef | ast.FunctionDef
UNREAD = object()
# what reading a source file may raise: the parser gives up on deep nesting with any of the last three
UNREADABLE = (SyntaxError, ValueError, TypeError, OSError, RecursionError, MemoryError)
# functions and methods other than __init__, with their decorators: they are most of a file, and slow to parse
FUNCTION = re.compile(r"^( {4}|)(?:@.*\n\1)*def (?!__init__\b).*\n(?:(?:\1 .*|\1\).*:|)\n)*", re.MULTILINE)
REGISTERED_FUNCTION = re.compile(r"^@(\w+\.)?register_(optimizer|loss|augmentation|logger)\b", re.MULTILINE)


class Source:
    """A parsed file, with what its top-level names are bound to, in order: an expression, a definition, or an import."""

    def __init__(self, path: Path, module: str) -> None:
        self.path, self.module = path, module
        self.tree = _parsed(path.read_text(encoding="utf-8"), str(path))
        self.bindings: dict[str, list[tuple[int, Any]]] = {}
        for node in self.tree.body:
            match node:
                case ast.Assign(targets=[ast.Name(id=name)]):
                    self._bind(name, node, node.value)
                case ast.ClassDef(name=name) | ast.FunctionDef(name=name):
                    self._bind(name, node, node)
                case ast.ImportFrom(module=origin, level=level):
                    if level:  # relative to the package
                        package = [*module.split("."), *(["__init__"] if path.stem == "__init__" else [])][:-level]
                        origin = ".".join([*package, *([origin] if origin else [])])
                    for each in node.names:
                        self._bind(each.asname or each.name, node, (origin or "", each.name))

    def _bind(self, name: str, node: ast.stmt, value: Any) -> None:
        self.bindings.setdefault(name, []).append((node.lineno, value))

    def binding(self, name: str, before: float = math.inf) -> Any:
        """What a name is bound to above the line ``before``: a node, or (module, name) of an import; None if it is unbound."""
        return next((value for line, value in reversed(self.bindings.get(name, ())) if line < before), None)

    def find(self, name: str, before: float = math.inf) -> tuple[Source, Any] | None:
        """Find the definition of a name above the line ``before`` and its file, through imports; None if it cannot be found."""
        found = self.binding(name, before)
        if not isinstance(found, tuple):
            return None if found is None else (self, found)
        module, original = found
        path = module_file(module, self.path.parent) if module else None
        with suppress(*UNREADABLE):  # then it is imported, if it is used
            return open_source(path, module).find(original) if path and path != self.path else None
        return None

    def literal(self, node: ast.expr) -> Any:
        """Evaluate literals, names of literals, and containers that unpack them.

        Raises:
            ValueError, TypeError: it is another expression, or not hashable where it must be.
        """
        with suppress(ValueError):  # it holds names, or unpacks something
            return ast.literal_eval(node)
        match node:
            case ast.Name(id=name) if found := self.find(name, node.lineno):
                return found[0].literal(found[1])
            case ast.Dict():
                items: dict[Any, Any] = {}
                for key, value in zip(node.keys, node.values, strict=True):
                    items |= self.literal(value) if key is None else {self.literal(key): self.literal(value)}
                return items
            case ast.List() | ast.Tuple():
                parts = [self.literal(e.value) if isinstance(e, ast.Starred) else [self.literal(e)] for e in node.elts]
                return (list if isinstance(node, ast.List) else tuple)(item for part in parts for item in part)
        raise ValueError(f"{ast.unparse(node)} is not a literal")


def _parsed(text: str, name: str) -> ast.Module:
    """Parse a file, without its functions unless some are registered."""
    if not REGISTERED_FUNCTION.search(text):
        with suppress(SyntaxError):  # of the file itself, or because a text in it looks like a function
            return ast.parse(FUNCTION.sub(lambda match: "\n" * match[0].count("\n"), text), name)
    return ast.parse(text, name)


def open_source(path: Path, module: str) -> Source:
    """Parse a file, once for each of its versions."""
    return _parse(path, module, path.stat().st_mtime_ns)


@functools.cache
def _parse(path: Path, module: str, version: int) -> Source:
    return Source(path, module)


def read_file(path: Path, module: str) -> Iterator[Entry]:
    """Read the entries that a source file registers, without running it.

    Raises:
        UNREADABLE: the file cannot be read so; the text says why.
    """
    if "register_" not in path.read_text(encoding="utf-8"):
        return
    source = open_source(path, module)
    seen: set[tuple[str, str]] = set()
    for node in source.tree.body:
        if isinstance(node, Definition):
            # Python applies decorators from the last to the first
            for decorator in reversed(node.decorator_list):
                if isinstance(decorator, ast.Call) and (kind := _decorator_kind(decorator)) is not None:
                    entry = _read_decorator(kind, decorator, node, source)
                    if (kind, entry.name) in seen:
                        raise ValueError(f"line {decorator.lineno}: {kind} {entry.name!r} is registered twice")
                    seen.add((kind, entry.name))
                    yield entry


def _decorator_kind(node: ast.Call) -> str | None:
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    kind = name.removeprefix("register_")
    return kind if kind != name and kind in KINDS else None


def _read_decorator(kind: str, call: ast.Call, node: Definition, source: Source) -> Entry:
    partial = False

    def read(owner: Source, value: ast.expr, otherwise: Any = None) -> Any:
        nonlocal partial
        try:
            return owner.literal(value)
        except (ValueError, TypeError):
            partial = True
            return otherwise

    name = read(source, call.args[0]) if call.args else None
    if not isinstance(name, str):
        raise ValueError(f"line {call.lineno}: the first argument must be the name")
    keywords: dict[str, Any] = {}
    for keyword in call.keywords:
        value = read(source, keyword.value, UNREAD)
        if value is not UNREAD:
            if keyword.arg is None and not isinstance(value, dict):
                raise ValueError(f"line {call.lineno}: ** unpacks {value!r}, which is no dictionary")
            keywords |= {keyword.arg: value} if keyword.arg else value
    if not isinstance(keywords.get("task", ""), str) or (kind in ("task", "model", "data", "loss") and "task" not in keywords):
        raise ValueError(f"line {call.lineno}: {name!r} has no literal task")
    parameters, docs, complete = _signature(node, source, read)
    doc = ast.get_docstring(node)
    try:
        entry = make_entry(kind, name, keywords, node.name, doc, parameters, docs, source.module, partial or not complete)
    except ValueError as error:
        raise ValueError(f"line {call.lineno}: {error}") from None
    return replace(entry, path=str(source.path))


def _signature(
    node: Definition, source: Source, read: Callable[..., Any]
) -> tuple[dict[str, tuple[str, Any]], list[str | None], bool]:
    """Read parameters and docstrings of a function or a class, as ``entry._signature`` does, and whether all could be found."""
    parameters: dict[str, tuple[str, Any]] = {}
    docs: list[str | None] = []
    sought = {"__init__"}  # empty when no more parameters come from bases
    for owner, file in _lineage(node, source, source, sought):
        if not sought and file is not source:
            continue
        docs.append(ast.get_docstring(owner))
        methods = [each for each in owner.body if isinstance(each, ast.FunctionDef) and each.name == "__init__"]
        function = owner if isinstance(owner, ast.FunctionDef) else next(iter(methods), None)
        if not sought or function is None:
            continue
        plain = function.args.posonlyargs + function.args.args
        defaults = [None] * (len(plain) - len(function.args.defaults)) + list(function.args.defaults)
        for argument, default in [
            *zip(plain, defaults, strict=True),
            *zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True),
        ]:
            if argument.arg not in parameters:
                text = ast.unparse(argument.annotation) if argument.annotation else "Any"
                parameters[argument.arg] = text, REQUIRED if default is None else read(file, default)
        if function.args.kwarg is None:
            sought.clear()
    return parameters, docs, not sought


def _lineage(node: Definition, file: Source, own: Source, sought: set[str]) -> Iterator[tuple[Definition, Source]]:
    """A function, or a class and its bases in Python's order: those in its own file, and all while something is ``sought``."""
    yield node, file
    bases: list[tuple[Definition, Source]] = []
    for base in getattr(node, "bases", ()):
        is_name = isinstance(base, ast.Name)
        if is_name and (sought or (file is own and isinstance(file.binding(base.id, base.lineno), ast.ClassDef))):
            found = file.find(base.id, base.lineno)
            if found and isinstance(found[1], ast.ClassDef):
                bases.append((found[1], found[0]))
    if len(bases) == 1:  # as most; read no further than the search goes
        yield from _lineage(*bases[0], own, sought)
    else:
        yield from _merged([*([*_lineage(*base, own, sought)] for base in bases), bases])


def _merged(lineages: list[list[tuple[Definition, Source]]]) -> Iterator[tuple[Definition, Source]]:
    """Merge the lineages of bases, and the bases themselves, into one: C3 linearization (Barrett et al. 1996)."""
    while lineages := [each for each in lineages if each]:
        heads = [head for head, *_ in lineages]
        # without a head that no other lineage has further down, Python refuses the class
        first = next((head for head in heads if not any(head in rest for _, *rest in lineages)), heads[0])
        yield first
        lineages = [[each for each in lineage if each != first] for lineage in lineages]


def module_file(module: str, beside: Path | None = None) -> Path | None:
    """Find the file of a module, beside the importing file or installed, without importing anything."""
    top, *rest = module.split(".")
    places = [beside] if beside and _file_in(beside, [top]) else _places(top)
    return next((path for place in places if (path := _file_in(place, [top, *rest]))), None)


def _places(top: str) -> list[Path]:
    """List the folders that hold an installed module or package."""
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError, AttributeError):
        return []
    locations = (spec.submodule_search_locations or [spec.origin or ""]) if spec else []
    return [Path(location).parent for location in locations]


def _file_in(place: Path, parts: list[str]) -> Path | None:
    base = place.joinpath(*parts)
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)
