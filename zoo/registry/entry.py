"""Kinds of registered objects, entries of the registry, and the decorators that create them."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from zoo.core.errors import UserError, one_line
from zoo.registry.annotations import spelled_out


@dataclass(frozen=True)
class Kind:
    """An open set of names, to which ``register_KIND`` adds.

    Attributes:
        title: the kind in messages, as it reads after "no".
        home: the folder or module in the package that holds the zoo's own.
        listing: the command that lists the names.
        given: parameters that the engine passes; all others are options.
    """

    title: str
    home: str
    listing: str
    given: tuple[str, ...]


KINDS = {
    "model": Kind("model", "models", "zoo list", ("self", "spec", "recipe")),
    "data": Kind("data set", "datamodules", "zoo data list", ("self", "batch_size", "seed")),
    "optimizer": Kind("optimizer", "optim/optimizers", "zoo list --optimizers", ("self", "params", "lr", "weight_decay")),
    "loss": Kind("loss", "optim/losses", "zoo list --losses", ("logits", "targets", "reduction", "label_smoothing", "weight")),
    "augmentation": Kind(
        "augmentation", "datamodules/loading/augmentations", "zoo list --augmentations", ("batch", "generator", "classes")
    ),
    "logger": Kind("logger", "training/tracking/loggers", "zoo list --loggers", ("folder", "run_id", "step")),
    "task": Kind("task", "tasks", "zoo list", ("self", "spec", "recipe")),
}
PLUGIN_FILE = "zoo_plugin_"  # the module of a file that is given with --plugin
REQUIRED = "required"
NAME = re.compile(r"\w[\w.:+-]*")  # printable, without spaces, and no path
DESCRIBING = ("task", "summary", "tiny", "recipe", "data", "data_options", "augment", "paper")  # others are options of the class


@dataclass(frozen=True)
class Option:
    """An option: a parameter of the class's ``__init__``, or of the function."""

    name: str
    type: str
    default: Any
    help: str = ""


@dataclass(frozen=True)
class Entry:
    """A registered name and its metadata.

    Attributes:
        kind: one of ``KINDS``.
        task: what it is for; of a task, the task of the models that it trains, too. A model takes the data sets and losses of
            its own task and of those that train it.
        tiny: options of a small variant, for checks.
        recipe: the model's own hyper-parameters.
        data: default data set of a model, and ``data_options`` its settings.
        augment: default augmentation of a model, on any data; empty is the data's own.
        paper: arXiv number or DOI.
        origin: the distribution and version, or the file, that the name comes from.
        partial: whether some values are known only once the file is imported; see ``completed``.
    """

    kind: str
    name: str
    module: str
    class_name: str
    task: str = ""
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
    partial: bool = False

    @property
    def defaults(self) -> dict[str, Any]:
        """The value of every option that has one."""
        return {option.name: option.default for option in self.options if option.default != REQUIRED}

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for ``--json``."""
        return {key: value for key, value in asdict(self).items() if key != "path"}

    def completed(self) -> Entry:
        """The complete entry; if the source could not be read completely, its module is imported."""
        if not self.partial:
            return self
        self.load()
        return replace(runtime_entry(self), origin=self.origin, path=self.path)

    def load(self) -> Any:
        """Import the class or function.

        Raises:
            UserError: the module, a plugin's perhaps, cannot be imported.
        """
        key = (self.module, self.kind, self.name)
        if key not in _classes:
            try:
                _import(self.module, self.path)
            except BaseException as error:
                _forget_unimported()
                if isinstance(error, UserError) or not isinstance(error, (Exception, SystemExit)):
                    raise
                what = f"{self.name!r} of {self.origin}"
                raise UserError(f"{what} cannot be imported: {type(error).__name__}: {one_line(error)}") from error
        if key not in _classes:
            raise UserError(f"{self.kind} {self.name!r} of {self.origin} is not registered when {self.module} is imported")
        return _classes[key]


_classes: dict[tuple[str, str, str], Any] = {}  # (module, kind, name) -> class or function
_runtime_entries: dict[tuple[str, str, str], Entry] = {}

Decorator = Callable[[Any], Any]


def _register(kind: str, name: str, keywords: dict[str, Any]) -> Decorator:
    def register(target: Any) -> Any:
        key = (target.__module__, kind, name)
        if key in _classes and _classes[key].__qualname__ != target.__qualname__:
            raise UserError(f"{kind} {name!r} is registered twice by {target.__module__}")
        parameters, docs = _signature(target)
        _runtime_entries[key] = make_entry(
            kind, name, keywords, target.__name__, target.__doc__, parameters, docs, target.__module__
        )
        _classes[key] = target
        return target

    return register


def _signature(target: Any) -> tuple[dict[str, tuple[str, Any]], list[str | None]]:
    """Parameter -> type as text and default, and the docstrings that describe them, of a function or a class.

    An ``__init__`` that takes ``**options`` hands them to that of the next class: its parameters are added.
    """
    parameters: dict[str, tuple[str, Any]] = {}
    docs, complete = [], False
    for owner in inspect.getmro(target) if isinstance(target, type) else [target]:
        if complete and owner.__module__ != target.__module__:
            continue
        docs.append(owner.__doc__)
        function = vars(owner).get("__init__") if isinstance(owner, type) else owner
        if complete or function is None:
            continue
        listed = inspect.signature(function).parameters.values()
        for p in listed:
            if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
                text = p.annotation if isinstance(p.annotation, str) else inspect.formatannotation(p.annotation)
                text, default = ("Any" if p.annotation is p.empty else text), (REQUIRED if p.default is p.empty else p.default)
                parameters.setdefault(p.name, (text, default))
        complete = not any(p.kind is p.VAR_KEYWORD for p in listed)
    return parameters, docs


def register_model(name: str, *, task: str, **keywords: Any) -> Decorator:
    """Register a Task class as the model ``name``. Name and task must be literals.

    Args:
        name: the name, as in ``zoo train NAME``.
        task: the task, such as ``classification``.
        keywords: ``summary``, by default the docstring's first paragraph, ``tags``, ``tiny``, ``recipe``, ``data``,
            ``data_options``, ``augment`` and ``paper`` describe the entry (see ``Entry``); any other keyword is the default, for
            this name, of an option of the class.
    """
    return _register("model", name, {"task": task, **keywords})


def register_data(name: str, *, task: str, **keywords: Any) -> Decorator:
    """Register a LightningDataModule class as the data set ``name``. The arguments are those of ``register_model``."""
    return _register("data", name, {"task": task, **keywords})


def register_task(name: str, *, task: str) -> Decorator:
    """Register a class that derives from ``ImageModel`` as the loop for data of the task ``name``, which its spec names, too.

    Args:
        task: that of the models that it trains, as in ``register_task("multilabel", task="classification")``: each of them takes
            data for ``name``. A task whose models derive from it need not be registered.
    """
    return _register("task", name, {"task": task})


def register_optimizer(name: str, **keywords: Any) -> Decorator:
    """Register an optimizer class, or a function that returns one, for ``recipe.optimizer``.

    It is called with parameter groups, each with its ``weight_decay``, with ``lr``, and with ``recipe.optimizer_args``.
    """
    return _register("optimizer", name, keywords)


def register_loss(name: str, *, task: str, **keywords: Any) -> Decorator:
    """Register a function ``(logits, targets, reduction, ...)`` as a training loss for ``recipe.loss``.

    ``reduction`` is ``mean`` or ``none``, as in ``torch.nn.functional``; ``label_smoothing`` and ``weight``, [classes], are those
    of the recipe, where it has such parameters; others are ``recipe.loss_args``. For classification ``targets`` are labels, [N];
    ``tags=["soft-targets"]`` means that probabilities, [N, classes], are accepted.
    """
    return _register("loss", name, {"task": task, **keywords})


def register_augmentation(name: str, **keywords: Any) -> Decorator:
    """Register a function ``(batch, generator, ...)`` as an item of ``data.augment``, as in ``crop:4,rand:2,9``.

    It returns the batch with other ``images``, drawing random numbers from the CPU ``generator``. Its other parameters are the
    numbers after the colon, in order. A function that takes ``classes`` as well mixes labels (``targets``).
    Test-time augmentation does what the tags ``mirrors-x``, ``mirrors-y`` and ``moves`` say that training did.
    """
    return _register("augmentation", name, keywords)


def register_logger(name: str) -> Decorator:
    """Register a function ``(folder, run_id, step)`` that builds a Lightning logger, for ``zoo train --logger NAME``.

    It is called in every process, before the first step, with the run's folder, the ``version`` of the logger of the run that is
    resumed, or None, and the step at which it is resumed. Its first access to ``experiment`` may start the tracker.
    """
    return _register("logger", name, {})


def runtime_entry(entry: Entry) -> Entry:
    """The entry that the decorator made when Python ran it, for comparison with the one that was read."""
    return _runtime_entries[entry.module, entry.kind, entry.name]


def live_entries(kind: str) -> list[Entry]:
    """The entries of classes and functions that a program registers itself, in a script or notebook that imports the zoo."""
    read = ("zoo", PLUGIN_FILE)  # the registry reads their source
    own = [entry for (module, of_kind, _), entry in _runtime_entries.items() if of_kind == kind and not module.startswith(read)]
    return [replace(entry, origin=entry.module) for entry in own]


def file_of(entry: Entry) -> str:
    """The script or module that registered a live entry, as an absolute path; empty in a notebook."""
    file = getattr(sys.modules.get(entry.module), "__file__", None)
    return str(Path(file).resolve()) if file else ""


def registered_recipe(target: type, options: dict[str, Any]) -> dict[str, Any]:
    """The recipe with which a class, or else the nearest of its bases, is registered: under several names, that with these
    options, or else the last one in the file."""
    for owner in target.__mro__:
        if entries := [entry for key, entry in _runtime_entries.items() if _classes[key] is owner]:
            same = (entry for entry in entries if all(entry.defaults.get(key) == options[key] for key in options))
            return next(same, entries[0]).recipe
    return {}


def make_entry(
    kind: str,
    name: str,
    keywords: dict[str, Any],
    class_name: str,
    doc: str | None,
    parameters: dict[str, tuple[str, Any]],
    docs: Iterable[str | None],
    module: str,
    partial: bool = False,
) -> Entry:
    """Make an entry from the parts of a decorator, a signature and docstrings.

    Raises:
        ValueError: a keyword is neither a description nor an option, or has a value of the wrong type.
    """
    described = {key: keywords[key] for key in DESCRIBING if key in keywords}
    tags = keywords.get("tags", ())
    if not NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name: letters, digits and . _ + : - after a letter or a digit")
    for key, value in {**described, "tags": tags}.items():
        _require_type(name, key, value)
    defaults = {key: value for key, value in keywords.items() if key not in described and key != "tags"}
    if complex_ones := sorted(key for key, value in defaults.items() if not _is_plain(value)):
        raise ValueError(f"{name!r} sets {complex_ones[0]!r}: must be plain data, as in a configuration file")
    taken = [
        key
        for key, (_, default) in parameters.items()
        if key not in KINDS[kind].given and _is_plain(defaults.get(key, default)) and not key.startswith("_")
    ]
    if (strange := sorted(set(defaults) - set(taken))) and not partial:
        raise ValueError(f"{name!r} sets {strange[0]!r}, which {class_name} does not take")
    helps = _argument_help(docs)
    options = tuple(
        Option(key, spelled_out(parameters[key][0]), defaults.get(key, parameters[key][1]), helps.get(key, "")) for key in taken
    )
    described.setdefault("summary", inspect.cleandoc(doc or "").partition("\n\n")[0].replace("\n", " "))
    return Entry(kind, name, module, class_name, options=options, tags=tuple(tags), partial=partial, **described)


def _require_type(name: str, key: str, value: Any) -> None:
    """Refuse a description of the wrong type, which would fail in whichever command uses it first.

    Raises:
        ValueError: it is.
    """
    if key == "tags":
        good, type_name = isinstance(value, (list, tuple)) and all(isinstance(tag, str) for tag in value), "a list of texts"
    elif key in ("tiny", "recipe", "data_options"):
        good = isinstance(value, dict) and all(isinstance(each, str) for each in value) and _is_plain(value)
        type_name = "a dictionary of settings"
    else:
        good, type_name = isinstance(value, str), "a text"
    if not good:
        raise ValueError(f"{name!r} has {key}={one_line(repr(value), 50)}: must be {type_name}")


def _is_plain(value: Any) -> bool:
    """Whether a value can stand in a configuration file; a parameter with another default is no option, and keeps it."""
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(key, (str, int, float)) and _is_plain(each) for key, each in value.items())
    return value is None or isinstance(value, (str, int, float))


def _argument_help(docs: Iterable[str | None]) -> dict[str, str]:
    """The ``Args:`` sections of the docstrings of a class and its bases, the class's own first, as option -> text."""
    return {name: text for doc in reversed([*docs]) for name, text in _section_of_arguments(doc).items()}


@functools.cache
def _section_of_arguments(doc: str | None) -> dict[str, str]:
    section = re.search(r"^Args:\n((?:[ ]{4}.*\n?|\n)*)", inspect.cleandoc(doc or "") + "\n", re.MULTILINE)
    if not section:
        return {}
    items = re.findall(r"^    (\w+): ((?:.*)(?:\n {8}.*)*)", section[1], re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in items}


def _forget_unimported() -> None:
    """Drop what modules registered before their import failed."""
    for key in [key for key in _classes if key[0] not in sys.modules]:
        del _classes[key], _runtime_entries[key]


def _import(module: str, path: str) -> None:
    """Import a module by name, or a plugin file by its path. As a script, it can import modules from its own folder."""
    if not module.startswith(PLUGIN_FILE):
        importlib.import_module(module)
    elif module not in sys.modules:
        spec = importlib.util.spec_from_file_location(module, path)
        assert spec is not None and spec.loader is not None  # as for any .py file
        sys.modules[module] = importlib.util.module_from_spec(spec)
        sys.path.insert(0, str(Path(path).parent))
        try:
            spec.loader.exec_module(sys.modules[module])
        except BaseException:
            del sys.modules[module]
            sys.path.remove(str(Path(path).parent))
            raise
