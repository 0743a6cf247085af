"""What exists: every model and data set, read from the source of its decorator.

Python runs ``register_model`` and ``register_data`` when a module is imported. To list, describe and check names, this module
*reads* the same decorators with ``ast`` instead: nothing is imported and nobody's code runs, so a name is answered at once.
Hence a decorator's arguments are literals, or names of literals at the top of the same file.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import blake2b
from importlib import metadata
from pathlib import Path
from typing import Any

from zoo.core.errors import UserError, one_line, unknown
from zoo.layers.names import spelled_out

HOME = Path(__file__).resolve().parent.parent
ENTRY_POINT_GROUP = "zoo.plugins"
KIND_OF_DECORATOR = {"register_model": "model", "register_data": "data"}
GIVEN_BY_THE_ENGINE = {"model": ("self", "spec", "recipe"), "data": ("self", "batch_size", "seed")}
_given: list[str] = []  # plugin files of the last scan
PLUGIN_FILE = "zoo_plugin_"  # the module of a file that is given with --plugin
REQUIRED = "required"
NEED_IMAGES = {"cnn", "transformer"}  # tags of models that take images apart into places
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


def _section_of_arguments(doc: str | None) -> dict[str, str]:
    section = re.search(r"^Args:\n((?:[ ]{4}.*\n?|\n)*)", inspect.cleandoc(doc or "") + "\n", re.MULTILINE)
    if not section:
        return {}
    items = re.findall(r"^    (\w+): ((?:.*)(?:\n {8}.*)*)", section[1], re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in items}


# ---------------------------------------------------------------------------------------------- reading source


def read_file(path: Path, module: str) -> Iterator[Entry]:
    """The entries that one source file registers, without running it.

    Raises:
        SyntaxError, ValueError, OSError: the file cannot be read so; the text says why.
    """
    source = path.read_text(encoding="utf-8")
    if not any(decorator in source for decorator in KIND_OF_DECORATOR):
        return
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


# ---------------------------------------------------------------------------------------------- finding files


@dataclass
class Registry:
    """All names, by kind, and what went wrong while looking for them."""

    models: dict[str, Entry] = field(default_factory=dict)
    data: dict[str, Entry] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    clashes: dict[tuple[str, str], str] = field(default_factory=dict)

    def model(self, name: str) -> Entry:
        """The model of that name.

        Raises:
            UserError: there is none, or two packages claim it.
        """
        return self._find("model", self.models, name, "`zoo list` shows them all")

    def data_set(self, name: str) -> Entry:
        """The data set of that name; raises as ``model`` does."""
        return self._find("data", self.data, name, "`zoo data list` shows them all")

    def data_for(self, task: str, tags: tuple[str, ...] = ()) -> list[str]:
        """The data sets that a model of ``task`` with these ``tags`` can take: ``points`` are not for all."""
        fitting = (name for name, entry in self.data.items() if entry.task == task)
        return sorted(name for name in fitting if not (NEED_IMAGES & set(tags) and "points" in self.data[name].tags))

    def _find(self, kind: str, entries: dict[str, Entry], name: str, hint: str) -> Entry:
        if (kind, name) in self.clashes:
            raise UserError(self.clashes[kind, name])
        if name not in entries and name in self.models:
            raise UserError(f"{name!r} is a model, not a data set: zoo show {name}")
        if name not in entries and name in self.data:
            raise UserError(f"{name!r} is a data set, not a model: zoo data show {name}")
        if name not in entries:
            raise unknown({"model": "model", "data": "data set"}[kind], name, entries, hint)
        return entries[name]

    def add(self, entry: Entry) -> None:
        """Take an entry in; a name that is taken is kept for neither and reported with both owners."""
        entries = self.models if entry.kind == "model" else self.data
        known = entries.get(entry.name)
        if known is None:
            entries[entry.name] = entry
        elif known.path != entry.path:
            owners = f"{known.origin} and {entry.origin}"
            clash = f"{entry.kind} {entry.name!r} is claimed by two owners, {owners}: remove or rename one"
            self.clashes[entry.kind, entry.name] = clash
            self.warnings.append(clash)

    def add_files(self, files: list[tuple[Path, str]], origin: str) -> None:
        """Read files (path, module name); one that cannot be read is one warning."""
        for path, module in files:
            try:
                for entry in read_file(path, module):
                    self.add(replace(entry, origin=origin))
            except (SyntaxError, ValueError, OSError) as error:
                self.warnings.append(f"{origin} is left out: {path.name}: {one_line(error)}")


def scan(plugins: Sequence[str] = ()) -> Registry:
    """Read everything that is registered: ours, installed plugins', and the given plugin files.

    Args:
        plugins: paths of Python files to read beside what is installed; the next ``scan_again`` in this process reads them too.

    Raises:
        UserError: a plugin file that was asked for is missing or cannot be read.
    """
    _given[:] = plugins
    registry = Registry()
    version = _own_version()
    for folder, package in ((HOME / "zoo" / "models", "zoo.models"), (HOME / "datamodules", "datamodules")):
        files = [(path, f"{package}.{path.stem}") for path in sorted(folder.glob("*.py"))]
        registry.add_files(files, f"bestiary {version}")
    if os.environ.get("ZOO_DISABLE_PLUGINS", "") in ("", "0"):
        for point in metadata.entry_points(group=ENTRY_POINT_GROUP):
            origin = f"{point.dist.name} {point.dist.version}" if point.dist else point.name
            files = _module_files(point.value.partition(":")[0])
            if not files:
                registry.warnings.append(f"{origin} is left out: its module {point.value!r} is not installed")
            registry.add_files(files, origin)
    for plugin in plugins:
        path = Path(plugin).expanduser().resolve()
        if not path.is_file():
            raise UserError(f"--plugin {plugin}: no such file")
        before = len(registry.warnings), len(registry.models) + len(registry.data) + len(registry.clashes)
        # two files of one name are two modules
        module = f"{PLUGIN_FILE}{blake2b(str(path).encode(), digest_size=4).hexdigest()}_{path.stem}"
        registry.add_files([(path, module)], str(path))
        if len(registry.warnings) > before[0] and not registry.clashes:
            raise UserError(f"--plugin {plugin}: {registry.warnings.pop()}")
        if len(registry.models) + len(registry.data) + len(registry.clashes) == before[1]:
            raise UserError(f"--plugin {plugin}: registers no model and no data set")
    return registry


def scan_again() -> Registry:
    """What the last ``scan`` of this process has read: for a network that is made of another one, by name."""
    return scan(tuple(_given))


def _own_version() -> str:
    try:
        return metadata.version("bestiary")
    except metadata.PackageNotFoundError:
        return "(not installed)"


def _module_files(module: str) -> list[tuple[Path, str]]:
    """The source files of an installed module or package, found without importing it."""
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError, AttributeError):
        return []
    if spec is None:
        return []
    if not spec.submodule_search_locations:
        return [(Path(spec.origin), module)] if spec.origin and not rest else []
    for location in spec.submodule_search_locations:
        base = Path(location, *rest)
        if base.with_suffix(".py").is_file():
            return [(base.with_suffix(".py"), module)]
        if base.is_dir():
            return [(path, _dotted(module, path.relative_to(base))) for path in sorted(base.rglob("*.py"))]
    return []


def _dotted(package: str, relative: Path) -> str:
    parts = relative.with_suffix("").parts
    return ".".join((package, *(parts[:-1] if parts[-1] == "__init__" else parts)))


def _import(module: str, path: str) -> None:
    """Import by name; a file given with ``--plugin`` has no installed name and is imported from its path."""
    if not module.startswith(PLUGIN_FILE):
        require_own_package("datamodules")
        importlib.import_module(module)
    elif module not in sys.modules:
        spec = importlib.util.spec_from_file_location(module, path)
        sys.modules[module] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(sys.modules[module])
        except BaseException:
            del sys.modules[module]
            raise


def require_own_package(name: str) -> None:
    """``datamodules`` and ``callbacks`` are common names: refuse to go on with somebody else's.

    Raises:
        UserError: Python would import another package of that name.
    """
    spec = importlib.util.find_spec(name)
    found = Path(spec.origin).resolve() if spec and spec.origin else None
    if found != HOME / name / "__init__.py":
        raise UserError(
            f"another package named {name!r} ({found or 'not found'}) hides bestiary's own ({HOME / name}): "
            "rename it, or start zoo from another folder"
        )
