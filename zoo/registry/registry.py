"""What exists: every model and data set, read from the source of its decorator.

Python runs ``register_model`` and ``register_data`` when a module is imported. To list, describe and check names, this module
*reads* the same decorators with ``ast`` instead: nothing is imported and nobody's code runs, so a name is answered at once.
Hence a decorator's arguments are literals, or names of literals at the top of the same file.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from importlib import metadata
from pathlib import Path

from zoo.core.errors import UserError, one_line, unknown
from zoo.registry.entry import PLUGIN_FILE, Entry
from zoo.registry.source import read_file

PACKAGE = Path(__file__).resolve().parents[1]
ENTRY_POINT_GROUP = "zoo.plugins"
_given: list[str] = []  # plugin files of the last scan
NEED_IMAGES = {"cnn", "transformer"}  # tags of models that take images apart into places


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
    version = own_version()
    for folder in ("models", "datamodules"):
        files = [(path, f"zoo.{folder}.{path.stem}") for path in sorted((PACKAGE / folder).glob("*.py"))]
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


def own_version() -> str:
    """The version of the installed distribution."""
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
