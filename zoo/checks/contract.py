"""The contract of the zoo, as checks that ``zoo check NAME`` and the tests run: for our entries and for everybody's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from zoo.checks.data import checks_of_data
from zoo.checks.models import checks_of_model
from zoo.core.errors import one_line
from zoo.core.violation import Violation
from zoo.registry.entry import Entry
from zoo.registry.registry import Registry


@dataclass(frozen=True)
class Result:
    """One check and what came of it."""

    name: str
    passed: bool
    detail: str = ""


def check_entry(registry: Registry, entry: Entry, settings: Sequence[dict[str, dict[str, Any]]] = ()) -> list[Result]:
    """Run every check of an entry's kind, in its ``tiny`` variant. Never raises for a fault of the entry.

    Args:
        settings: trees of section -> key -> value that go over the tiny variant, as in where the files of a data set are.
    """
    try:
        checks = checks_of_model(registry, entry, settings) if entry.kind == "model" else checks_of_data(entry, settings)
    except Exception as error:
        return [Result("can be built", False, f"{type(error).__name__}: {one_line(error)}")]
    return [_run(name, check) for name, check in checks.items()]


def _run(name: str, check: Callable[[], None]) -> Result:
    try:
        check()
    except Exception as error:
        return Result(name, False, str(error) if isinstance(error, Violation) else f"{type(error).__name__}: {one_line(error)}")
    return Result(name, True)
