"""Entries that match a pattern and a task, in the order in which they are listed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from fnmatch import fnmatch

from zoo.registry.entry import Entry


def matching(entries: Iterable[Entry], pattern: str = "", task: str = "") -> list[Entry]:
    """The entries of a task whose name or a tag contains ``pattern`` or matches it as a glob; by task, the largest first.

    Args:
        pattern: empty for all.
        task: as in ``classification``; empty for all.
    """
    return by_task(entry for entry in entries if task in ("", entry.task) and matches(pattern, entry.name, *entry.tags))


def matches(pattern: str, *names: str) -> bool:
    """Whether one of the names contains ``pattern`` or matches it as a glob; an empty one matches all."""
    return not pattern or any(fnmatch(name, pattern) or pattern in name for name in names)


def by_task(entries: Iterable[Entry]) -> list[Entry]:
    """Sort: the largest task first, and within each resnet20 before resnet110."""

    def natural(name: str) -> list[tuple[bool, int | str]]:
        return [(part.isdigit(), int(part) if part.isdigit() else part) for part in re.split(r"(\d+)", name)]

    entries = list(entries)
    counts = Counter(entry.task for entry in entries)
    return sorted(entries, key=lambda entry: (-counts[entry.task], entry.task, natural(entry.name)))
