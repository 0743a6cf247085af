"""Per-class metrics and confusion, or the errors of each number, of ``zoo test``: as tables, and as a CSV file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zoo.commands.shell import echo, print_table
from zoo.core.counts import percentage
from zoo.core.files import replace_file
from zoo.core.printing import csv_line

MOST_CLASSES = 30  # rows of the table; with more classes, the worst are shown
MOST_COLUMNS = 12  # of the confusion matrix; with more classes, the most confused pairs are shown
SHOWN_PAIRS = 10
COUNT = "images"  # among the metrics of a class

Findings = dict[str, Any]  # as a classifier leaves them: "classes" and, if each image has one class, "confusion"


def print_classes(findings: Findings, counted: str, see_all: str) -> None:
    """Print the metrics of each class, or of the worst, and, where there is one, the confusion matrix or the most confused pairs.

    Args:
        counted: what a sample is, as in "images".
        see_all: the command that writes all classes, for when only some are shown.
    """
    classes = findings["classes"]
    tested = {name: metrics for name, metrics in classes.items() if metrics["images"]}
    shown = classes
    if len(classes) > MOST_CLASSES:
        worst = sorted(tested, key=lambda name: tested[name]["f1"])[:MOST_CLASSES]
        shown = {name: classes[name] for name in worst}
        without = len(classes) - len(tested)
        missing = f" (without test {counted}: {without:,})" if without else ""
        echo("", f"the {len(shown)} of {len(classes):,} classes with the lowest f1{missing}; all of them: {see_all}")
    else:
        echo("")
    metrics = _metrics_of(classes)
    rows = [(name, f"{one[COUNT]:,}", *(f"{one[metric]:.4f}" for metric in metrics)) for name, one in shown.items()]
    titles = tuple(metric.replace("_", " ") for metric in metrics)
    print_table(rows, ("class", counted, *titles), numbers=(counted, *titles))
    if "confusion" not in findings:
        return
    if len(classes) <= MOST_COLUMNS:
        _print_matrix(list(classes), findings["confusion"])
    else:
        _print_pairs(list(classes), findings["confusion"], counted)


def _metrics_of(classes: dict[str, dict[str, Any]]) -> list[str]:
    """The metrics of each class, without its number of images."""
    return [metric for metric in next(iter(classes.values())) if metric != COUNT]


def _print_matrix(names: list[str], confusion: list[list[int]]) -> None:
    echo("")
    rows = [(name, *(f"{count:,}" if count else "." for count in row)) for name, row in zip(names, confusion, strict=True)]
    print_table(rows, ("true \\ predicted", *names), numbers=tuple(names))


def _print_pairs(names: list[str], confusion: list[list[int]], counted: str) -> None:
    pairs = confused_pairs(confusion)
    if not pairs:
        echo("", "no class is confused with another")
        return
    rows = []
    for true, predicted, count in pairs[:SHOWN_PAIRS]:
        rows.append((names[true], names[predicted], f"{count:,}", percentage(count, sum(confusion[true]))))
    echo("", f"most often confused, {len(rows)} of {len(pairs):,} pairs")
    print_table(rows, ("true", "predicted", counted, "fraction"), numbers=(counted, "fraction"))


def print_targets(targets: dict[str, dict[str, float]]) -> None:
    """Print the errors of each number of a regression."""
    errors = tuple(next(iter(targets.values())))
    rows = [(name, *(f"{one[error]:.4g}" for error in errors)) for name, one in targets.items()]
    echo("")
    print_table(rows, ("number", *errors), numbers=errors)


def confused_pairs(confusion: list[list[int]]) -> list[tuple[int, int, int]]:
    """(true class, predicted class, count) of all misclassified pairs, the most frequent first, ties by class."""
    pairs = [
        (true, predicted, count)
        for true, row in enumerate(confusion)
        for predicted, count in enumerate(row)
        if count and true != predicted
    ]
    return sorted(pairs, key=lambda pair: -pair[2])


def write_classes(findings: Findings, path: Path) -> None:
    """Write the metrics of all classes as CSV.

    Raises:
        OSError: nothing was changed.
    """
    metrics = _metrics_of(findings["classes"])
    lines = [csv_line(("class", COUNT, *metrics))]
    for name, one in findings["classes"].items():
        lines.append(csv_line((name, one[COUNT], *(f"{one[metric]:.6f}" for metric in metrics))))
    replace_file(path, "".join(lines).encode())
