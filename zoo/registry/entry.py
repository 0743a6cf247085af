"""An entry of the registry, and the decorators that make one."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from zoo.core.errors import UserError, one_line
from zoo.registry.annotations import spelled_out

KIND_OF_DECORATOR = {"register_model": "model", "register_data": "data"}
GIVEN_BY_THE_ENGINE = {"model": ("self", "spec", "recipe"), "data": ("self", "batch_size", "seed")}
PLUGIN_FILE = "zoo_plugin_"  # the module of a file that is given with --plugin
REQUIRED = "required"
DESCRIBING = ("task", "tiny", "recipe", "data", "data_options", "augment", "paper")  # other keywords are options of the class


@dataclass(frozen=True)
class Option:
    """One thing that can be set on a model or a data set: a parameter of its ``__init__``."""

    name: str
    type: str
    default: Any
    help: str = ""


@dataclass(frozen=True)
class Entry:
    """One registered name and all that is known of it without importing anything.

    Attributes:
        kind: ``model`` or ``data``.
        task: the kind of work; a model takes the data sets of its own task.
        tiny: options of a small variant, for checks.
        recipe: the model's own training settings.
        data: the data set a model uses unless told otherwise, and ``data_options`` its settings.
        augment: the augmentation that suits a model on any data, if it is not the data's own.
        paper: arXiv number or DOI.
        origin: the distribution and version, or the file, that the name comes from.
    """

    kind: str
    name: str
    task: str
    module: str
    class_name: str
    summary: str = ""
    options: tuple[Option, ...] = ()
    tags: tuple[str, ...] = ()
    tiny: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    data: str = ""
    data_options: dict[str, Any] = field(default_factory=dict)
    augment: str = ""
    paper: str = ""
    origin: str = ""
    path: str = ""

    @property
    def defaults(self) -> dict[str, Any]:
        """The value of every option that has one."""
        return {option.name: option.default for option in self.options if option.default != REQUIRED}

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for ``--json``."""
        return {key: value for key, value in asdict(self).items() if key != "path"}

    def load(self) -> type:
        """Import the module that registers this name and return the class.

        Raises:
            UserError: the module, a plugin's perhaps, cannot be imported.
        """
        key = (self.kind, self.name)
        if key not in _classes:
            try:
                _import(self.module, self.path)
            except UserError:
                raise
            except Exception as error:
                what = f"{self.name!r} of {self.origin}"
                raise UserError(f"{what} cannot be imported: {type(error).__name__}: {one_line(error)}") from error
        return _classes[key]


_classes: dict[tuple[str, str], type] = {}


_runtime_entries: dict[tuple[str, str], Entry] = {}


def _register(kind: str, name: str, keywords: dict[str, Any]) -> Callable[[type], type]:
    def register(cls: type) -> type:
        known = _classes.get((kind, name))
        if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise UserError(f"{kind} {name!r} is registered by {known.__module__} and again by {cls.__module__}")
        _classes[kind, name] = cls
        parameters = {
            key: (p.annotation if isinstance(p.annotation, str) else inspect.formatannotation(p.annotation), p.default)
            for key, p in inspect.signature(cls.__init__).parameters.items()
            if key not in GIVEN_BY_THE_ENGINE[kind]
        }
        options = {
            key: (text, REQUIRED if default is inspect.Parameter.empty else default)
            for key, (text, default) in parameters.items()
        }
        helps = _argument_help(base.__doc__ for base in reversed(cls.__mro__) if base.__module__ == cls.__module__)
        _runtime_entries[kind, name] = _make_entry(
            kind, name, keywords, cls.__name__, cls.__doc__, options, helps, cls.__module__
        )
        return cls

    return register


def register_model(name: str, *, task: str, **keywords: Any) -> Callable[[type], type]:
    """Put a Task class into the zoo under ``name``. All arguments must be literals.

    Args:
        name: what ``zoo train NAME`` takes.
        task: the kind of work, as in ``classification``.
        keywords: ``tags``, ``tiny``, ``recipe``, ``data``, ``data_options``, ``augment`` and ``paper`` describe the entry (see
            ``Entry``); any other keyword is the default, for this name, of an option of the class.
    """
    return _register("model", name, {"task": task, **keywords})


def register_data(name: str, *, task: str, **keywords: Any) -> Callable[[type], type]:
    """Put a DataModule class into the zoo under ``name``. The arguments are those of ``register_model``."""
    return _register("data", name, {"task": task, **keywords})


def runtime_entry(kind: str, name: str) -> Entry:
    """The entry as Python saw it when it ran the decorator; a test holds it against the one that was read."""
    return _runtime_entries[kind, name]


def _make_entry(
    kind: str,
    name: str,
    keywords: dict[str, Any],
    class_name: str,
    doc: str | None,
    parameters: dict[str, tuple[str, Any]],
    helps: dict[str, str],
    module: str,
) -> Entry:
    described = {key: keywords[key] for key in DESCRIBING if key in keywords}
    defaults = {key: value for key, value in keywords.items() if key not in described and key != "tags"}
    if strange := sorted(set(defaults) - set(parameters)):
        raise ValueError(f"{name!r} sets {strange[0]!r}, which {class_name}.__init__ does not take")
    options = tuple(
        Option(key, spelled_out(text), defaults.get(key, default), helps.get(key, ""))
        for key, (text, default) in parameters.items()
    )
    summary = inspect.cleandoc(doc or "").partition("\n\n")[0].replace("\n", " ")
    tags = tuple(keywords.get("tags", ()))
    return Entry(kind, name, module=module, class_name=class_name, summary=summary, options=options, tags=tags, **described)


def _argument_help(docs: Iterable[str | None]) -> dict[str, str]:
    """The ``Args:`` sections of the docstrings of a class and, before it, its bases in the same file, as option -> text."""
    return {name: text for doc in docs for name, text in _section_of_arguments(doc).items()}


@functools.cache
def _section_of_arguments(doc: str | None) -> dict[str, str]:
    section = re.search(r"^Args:\n((?:[ ]{4}.*\n?|\n)*)", inspect.cleandoc(doc or "") + "\n", re.MULTILINE)
    if not section:
        return {}
    items = re.findall(r"^    (\w+): ((?:.*)(?:\n {8}.*)*)", section[1], re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in items}


def _import(module: str, path: str) -> None:
    """Import by name; a file given with ``--plugin`` has no installed name and is imported from its path.

    As with a script, what lies beside the file can be imported by it.
    """
    if not module.startswith(PLUGIN_FILE):
        importlib.import_module(module)
    elif module not in sys.modules:
        spec = importlib.util.spec_from_file_location(module, path)
        sys.modules[module] = importlib.util.module_from_spec(spec)
        sys.path.insert(0, str(Path(path).parent))
        try:
            spec.loader.exec_module(sys.modules[module])
        except BaseException:
            del sys.modules[module]
            sys.path.remove(str(Path(path).parent))
            raise
