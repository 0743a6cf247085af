"""The registry of all names.

Python runs ``register_model`` and its siblings when a module is imported. To list, describe and check names, the registry *reads*
the same decorators with ``ast`` instead: nothing is imported and no plugin runs, so names are answered at once.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from zlib import crc32

from zoo.core import __version__
from zoo.core.errors import UserError, one_line, unknown
from zoo.core.printing import is_utf8
from zoo.registry.entry import KINDS, PLUGIN_FILE, Entry, file_of, live_entries
from zoo.registry.source import UNREADABLE, module_file, read_file

PACKAGE = Path(__file__).resolve().parents[1]
ENTRY_POINT_GROUP = "zoo.plugins"
TRUSTED_PLUGINS = "plugins.txt"  # in the cache folder
NEED_IMAGES = {"cnn", "transformer"}  # tags of models that take images apart into places


class Registry:
    """All entries by kind and name. The zoo's own are read when their kind is first requested.

    Attributes:
        plugin_files: plugin files, as absolute paths.
        warnings: plugins that could not be read, and names with two owners.
        clashes: (kind, name) -> the error for a name with two owners.
    """

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.clashes: dict[tuple[str, str], str] = {}
        self.plugin_files: list[str] = []
        self._of_plugins: list[Entry] = []
        self._entries: dict[str, dict[str, Entry]] = {}

    def entries(self, kind: str) -> dict[str, Entry]:
        """All entries of a kind, by name, with those that the running program has registered itself."""
        if kind not in self._entries:
            self._entries[kind] = {}
            home = PACKAGE / KINDS[kind].home
            for path in sorted(home.glob("*.py")) if home.is_dir() else [home.with_suffix(".py")]:
                module = ".".join(("zoo", *path.relative_to(PACKAGE).with_suffix("").parts))
                for entry in self._read(path, module, f"bestiary {__version__}", _read_own_file):
                    self._add(entry)
            for entry in self._of_plugins:
                if entry.kind == kind:
                    self._add(entry)
        for entry in live_entries(kind):
            known = self._entries[kind].get(entry.name)
            if known and not known.path and known.module == entry.module:  # a cell of a notebook was run again
                self._entries[kind][entry.name] = entry
            elif not known or known.module != entry.module:
                self._add(entry)
        return self._entries[kind]

    @property
    def models(self) -> dict[str, Entry]:
        """All models, by name."""
        return self.entries("model")

    @property
    def data(self) -> dict[str, Entry]:
        """All data sets, by name."""
        return self.entries("data")

    def model(self, name: str) -> Entry:
        """The model of that name; raises as ``find`` does."""
        return self.find("model", name)

    def data_set(self, name: str) -> Entry:
        """The data set of that name; raises as ``find`` does."""
        return self.find("data", name)

    def data_for(self, task: str, tags: tuple[str, ...] = ()) -> list[str]:
        """List the data sets for a model of ``task`` with these ``tags``: ``points`` are not for all."""
        trained = self.tasks_of(task)
        fitting = (name for name, entry in self.data.items() if entry.task in trained)
        return sorted(name for name in fitting if not (NEED_IMAGES & set(tags) and "points" in self.data[name].tags))

    def tasks_of(self, task: str) -> list[str]:
        """The tasks of the data that models of ``task`` take: their own first, and those that train the same networks."""
        return [task, *sorted(name for name, entry in self.entries("task").items() if entry.task == task != name)]

    def models_task(self, task: str) -> str:
        """The task under which the models that learn data for ``task`` are registered."""
        known = self.entries("task")
        return known[task].task if task in known else task

    def task_of(self, model: str, data: str) -> str:
        """The task of a model on a data set: that of the data, if both are known and fit; empty for an unknown model."""
        if model not in self.models:
            return ""
        own, of_data = self.models[model].task, self.data[data].task if data in self.data else ""
        return of_data if of_data in self.tasks_of(own) else own

    def find(self, kind: str, name: str) -> Entry:
        """Find an entry by kind and name.

        Raises:
            UserError: an unknown name, or one with two owners.
        """
        if not isinstance(name, str):
            raise UserError(f"no {KINDS[kind].title} {name!r}: a name is text")
        entries = self.entries(kind)
        if (kind, name) in self.clashes:
            raise UserError(self.clashes[kind, name])
        if name in entries:
            return entries[name].completed()
        other = {"model": "data", "data": "model"}.get(kind)
        if other and name in self.entries(other):
            show = KINDS[other].listing.replace("list", "show")
            raise UserError(f"{name!r} is a {KINDS[other].title}, not a {KINDS[kind].title}: {show} {name}")
        raise unknown(KINDS[kind].title, name, entries, f"`{KINDS[kind].listing}` shows them all")

    def add_files(self, files: list[tuple[Path, str]], origin: str) -> list[Entry]:
        """Read files (path, module name) of a plugin; a file that cannot be read is a warning."""
        found = [entry for path, module in files for entry in self._read(path, module, origin)]
        self._of_plugins += found
        for entry in found:
            self.entries(entry.kind)  # read now, to find names that are taken
            self._add(entry)
        return found

    def add_plugin(self, plugin: str) -> None:
        """Read a plugin file.

        Raises:
            UserError: it is missing, cannot be read, or registers nothing.
        """
        path = Path(os.path.expanduser(plugin)).resolve()
        if not path.is_file():
            raise UserError(f"--plugin {plugin}: {'a folder: pass a file in it' if path.is_dir() else 'no such file'}")
        if not is_utf8(str(path)):
            raise UserError(f"--plugin {plugin}: its path is not UTF-8: rename it")
        if str(path) in self.plugin_files:
            return
        before = len(self.warnings)
        # two files of one name are two modules
        module = f"{PLUGIN_FILE}{crc32(str(path).encode()):08x}_{path.stem}"
        found = self.add_files([(path, module)], str(path))
        if len(self.warnings) > before and not self.clashes:
            raise UserError(f"--plugin {plugin}: {self.warnings.pop()}")
        if not found:
            raise UserError(f"--plugin {plugin}: registers no {', '.join(kind.title for kind in KINDS.values())}")
        self.plugin_files.append(str(path))
        _trust(str(path))

    def live_files(self) -> list[str]:
        """The files of what the running program has registered itself, as absolute paths."""
        own = [entry for kind in KINDS for entry in self.entries(kind).values() if not entry.path]
        return sorted({file for entry in own if (file := file_of(entry))})

    def add_plugins_of(self, run: str, plugins: Sequence[str]) -> None:
        """Read the plugin files of a run, except those whose name was given from another folder.

        Raises:
            UserError: one is missing, or was never given with ``--plugin`` on this machine: runs of others execute no code.
        """
        given = {Path(file).name for file in (*self.plugin_files, *self.live_files())}
        for plugin in plugins:
            if Path(plugin).name not in given:
                if not Path(plugin).is_file():
                    raise UserError(
                        f"{run} needs the plugin {plugin}, which is missing: pass it from its new place with "
                        f"zoo --plugin NEW/{Path(plugin).name}"
                    )
                if plugin not in _trusted():
                    raise UserError(
                        f"{run} needs the plugin {plugin}: if you trust that file, pass it with zoo --plugin {plugin}"
                    )
                self.add_plugin(plugin)

    def _read(
        self, path: Path, module: str, origin: str, read: Callable[[Path, str], Iterable[Entry]] = read_file
    ) -> list[Entry]:
        try:
            return [replace(entry, origin=origin) for entry in read(path, module)]
        except UNREADABLE as error:
            reason = one_line(error, 300) or "nested too deeply"  # memory of the parser, whose error says nothing
            self.warnings.append(f"{origin} is skipped: {path.name}: {reason}")
            return []

    def _add(self, entry: Entry) -> None:
        """Add an entry; a name with two owners is an error when it is used."""
        known = self._entries[entry.kind].setdefault(entry.name, entry)
        if known.path != entry.path:
            clash = f"{entry.kind} {entry.name!r} is registered twice, by {known.origin} and {entry.origin}: remove or rename one"
            self.clashes[entry.kind, entry.name] = clash
            if clash not in self.warnings:
                self.warnings.append(clash)


@functools.cache
def _read_own_file(path: Path, module: str) -> tuple[Entry, ...]:
    """The entries of a file of the zoo, which does not change while a program runs."""
    return tuple(read_file(path, module))


def _trusted() -> list[str]:
    """The plugin files that were given with ``--plugin`` on this machine, as absolute paths."""
    from zoo.core.files import cache_folder

    file = cache_folder() / TRUSTED_PLUGINS
    return file.read_text(encoding="utf-8", errors="surrogateescape").splitlines() if file.is_file() else []


def _trust(plugin: str) -> None:
    from zoo.core.files import cache_folder, replace_file

    if plugin not in _trusted():
        with suppress(OSError):  # then it has to be given each time
            replace_file(
                cache_folder() / TRUSTED_PLUGINS,
                "".join(f"{each}\n" for each in [*_trusted(), plugin]).encode(errors="surrogateescape"),
            )


_current: Registry | None = None  # of the last scan


def scan(plugins: Sequence[str] = ()) -> Registry:
    """Make a registry of the zoo, installed plugins, and plugin files.

    Args:
        plugins: paths of plugin files.

    Raises:
        UserError: a plugin file is missing or cannot be read.
    """
    global _current
    _current = registry = Registry()
    if os.environ.get("ZOO_DISABLE_PLUGINS", "") in ("", "0"):
        for point in _plugin_entry_points(registry.warnings):
            origin = f"{point.dist.name} {point.dist.version}" if point.dist else point.name
            files = _module_files(point.value.partition(":")[0])
            if not files:
                registry.warnings.append(f"{origin} is skipped: its module {point.value!r} is not installed")
            registry.add_files(files, origin)
    for plugin in plugins:
        registry.add_plugin(plugin)
    return registry


def current_registry() -> Registry:
    """The registry of the last ``scan`` in this process, for components that are built by name."""
    return _current or scan()


def _plugin_entry_points(warnings: list[str]) -> Iterator[Any]:
    """The entry points of installed plugins, found without importlib.metadata, whose import is slow, where there are none.

    Those of a distribution that cannot be read are a warning.
    """
    if not any(map(_may_hold_plugins, sys.path)):
        return
    from importlib import metadata

    seen: set[str] = set()
    for distribution in metadata.distributions():
        name = "a package"
        try:
            if ENTRY_POINT_GROUP not in (distribution.read_text("entry_points.txt") or ""):
                continue
            name = distribution.name
            points = list(distribution.entry_points.select(group=ENTRY_POINT_GROUP))
        except Exception as error:  # of many types: anything may stand in these files
            warnings.append(f"{name} is skipped: its entry points cannot be read: {one_line(error)}")
            continue
        if name not in seen:
            yield from points
        seen.add(name)


def _may_hold_plugins(folder: str) -> bool:
    """Whether a folder of ``sys.path`` has entry points for the zoo, looked at once until packages come or go."""
    try:
        found = os.stat(folder or ".")
    except OSError:
        return False
    return _names_entry_points(folder, (found.st_dev, found.st_ino, found.st_mtime_ns))


@functools.cache
def _names_entry_points(folder: str, version: tuple[int, ...]) -> bool:
    if Path(folder).is_file():
        return True  # an archive, into which importlib.metadata looks
    files = Path(folder).glob("*-[Ii][Nn][Ff][Oo]/entry_points.txt")
    with suppress(OSError):
        return any(ENTRY_POINT_GROUP in file.read_text(encoding="utf-8", errors="replace") for file in files)
    return True


def _module_files(module: str) -> list[tuple[Path, str]]:
    """The source files of an installed module or package, found without importing it."""
    path = module_file(module)
    if path is None:
        return []
    if path.name != "__init__.py":
        return [(path, module)]
    return [(each, _dotted(module, each.relative_to(path.parent))) for each in sorted(path.parent.rglob("*.py"))]


def _dotted(package: str, relative: Path) -> str:
    parts = relative.with_suffix("").parts
    return ".".join((package, *(parts[:-1] if parts[-1] == "__init__" else parts)))
