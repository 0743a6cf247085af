"""Hints at the table that labels seem to be written for, where they are read as classes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection

from zoo.core.printing import shell_word
from zoo.datamodules.files.label_sets import names_in, separator_of

MANY = 20  # classes that are numbers and no indices


def hint_at_other_table(labels: Collection[str], column: str, settings: dict[str, str]) -> list[str]:
    """A line with the command that reads them, if labels seem to be several each, or numbers.

    Args:
        labels: the distinct ones.
        column: that of the labels.
        settings: of ``data``, without the column of labels; empty ones are left out.
    """
    if example := _example_of_several(labels):
        command = _command("multilabel-table", {**settings, "label_column": column})
        return [f"labels like {example!r} are read as one class each: {command} reads several for each image"]
    if _are_measures(labels):
        command = _command("regression-table", {**settings, "target": json.dumps([column], ensure_ascii=False)})
        return [f"column {column!r} has {len(labels):,} different numbers, each read as a class: {command} learns numbers"]
    return []


def _example_of_several(labels: Collection[str]) -> str:
    """The first label that names several classes, if all that have a separator share a name with another label; else empty."""
    if not (separator := separator_of(labels)):
        return ""
    sets = {label: names_in(label, separator) for label in sorted(labels)}
    counts = Counter(name for names in sets.values() for name in names)
    several = [label for label, names in sets.items() if len(names) > 1]
    share = all(max(counts[name] for name in sets[label]) > 1 for label in several)
    return several[0] if several and share else ""


def _are_measures(labels: Collection[str]) -> bool:
    """Whether these are many whole numbers that do not count classes from 0 or 1 on."""
    try:
        numbers = sorted(map(int, labels))
    except ValueError:
        return False
    return len(numbers) > MANY and numbers not in ([*range(len(numbers))], [*range(1, len(numbers) + 1)])


def _command(data: str, settings: dict[str, str]) -> str:
    given = [f"--set {shell_word(f'data.{key}={value}')}" for key, value in settings.items() if value]
    return " ".join(["zoo train MODEL --data", data, *given])
