"""Search space: ranges and choices of ``--set`` keys, parsed and validated against the types of the keys."""

from __future__ import annotations

import itertools
import math
import random
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from zoo.config.run import SECTIONS, Run
from zoo.config.values import Written, load_yaml
from zoo.core.errors import UserError, unknown

KINDS = ("log", "uniform", "choice")
FORM = "write it as KEY=log:LOW..HIGH, KEY=uniform:LOW..HIGH or KEY=choice:A,B, for example recipe.lr=log:1e-4..1e-1"
ONE_OF_EACH = "a search is over one model and one data set; start one search for each"
NOT_SEARCHED = {  # key or section -> why
    "model.name": ONE_OF_EACH,
    "data.name": ONE_OF_EACH,
    "data.validation": "trials are compared on the same validation split; --folds K cross-validates",
    "trainer": "does not change the result of a trial; --workers N uses several devices",
    "wandb": "does not change the result of a trial",
}
LARGEST_GRID = 100_000  # points; a larger grid is surely a mistake


@dataclass(frozen=True)
class Dimension:
    """One key and its range of values.

    Attributes:
        key: as in ``recipe.lr``.
        text: the range as written after the ``=``.
        kind: ``log`` (uniform in the logarithm), ``uniform`` or ``choice``.
        low, high: the ends of a range, inclusive; int where the key takes integers.
        points: number of values of a grid over a range.
        choices: the values as they were written, and ``values``, by the type of the key.
    """

    key: str
    text: str
    kind: str
    low: float = 0
    high: float = 0
    points: int | None = None
    choices: tuple[str, ...] = ()
    values: tuple[Any, ...] = ()

    @property
    def is_integer(self) -> bool:
        return self.kind != "choice" and isinstance(self.low, int)

    def value(self, parameter: Any) -> Any:
        """The value of a parameter of the study, which stores choices as text because it cannot hold lists."""
        return self.values[self.choices.index(parameter)] if self.kind == "choice" else parameter

    def suggest(self, trial: Any) -> Any:
        """Sample a value for an Optuna trial."""
        if self.kind == "choice":
            return self.value(trial.suggest_categorical(self.key, self.choices))
        draw = trial.suggest_int if self.is_integer else trial.suggest_float
        return draw(self.key, self.low, self.high, log=self.kind == "log")

    def ends(self) -> list[Any]:
        """Both ends of a range, or all choices, as values."""
        return [self.low, self.high] if self.kind != "choice" else list(self.values)

    def grid(self) -> tuple[Any, ...]:
        """The parameters of a grid, in order.

        Raises:
            UserError: a range without a number of points.
        """
        if self.kind == "choice":
            return self.choices
        if self.points is None:
            if self.is_integer and self.kind == "uniform":
                return tuple(range(self.low, self.high + 1))
            raise UserError(f"--over {self.key}={self.text}: a grid needs a number of points, as in {self.key}={self.text}:4")
        fractions = [step / (self.points - 1) for step in range(self.points)]
        if self.kind == "log":
            values = [self.low * (self.high / self.low) ** fraction for fraction in fractions]
        else:
            values = [self.low + (self.high - self.low) * fraction for fraction in fractions]
        values[-1] = self.high  # exactly, despite rounding
        return tuple(dict.fromkeys(map(round, values))) if self.is_integer else tuple(values)


def read_space(texts: list[str], resolve: Callable[[dict[str, dict[str, Any]]], Run]) -> tuple[Dimension, ...]:
    """Parse the dimensions, validating every end of a range and every choice.

    Args:
        texts: each as in ``recipe.lr=log:1e-4..1e-1``.
        resolve: builds the Run with the given settings (section -> key -> value) on top.

    Raises:
        UserError: there is none, one is malformed, or a key is unknown or rejects a value.
    """
    if not texts:
        raise UserError("nothing to search over: --over KEY=RANGE, for example --over recipe.lr=log:1e-4..1e-1")
    space = tuple(_fitted(_parse(text), resolve) for text in texts)
    keys = [dimension.key for dimension in space]
    for key in keys:
        if keys.count(key) > 1:
            raise UserError(f"--over {key} is given twice")
    return space


def nested(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """``{"recipe.lr": 0.1}`` as section -> key -> value."""
    tree: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        section, _, name = key.partition(".")
        tree.setdefault(section, {})[name] = value
    return tree


def grid_points(space: tuple[Dimension, ...], seed: int) -> list[dict[str, Any]]:
    """All combinations, as parameters of the study, shuffled so that any part of the grid covers it evenly.

    Raises:
        UserError: a range without a number of points, or too many combinations.
    """
    axes = [dimension.grid() for dimension in space]
    if (size := math.prod(map(len, axes))) > LARGEST_GRID:
        raise UserError(f"the grid has {size:,} points: take fewer for each key, or --sampler random")
    points = [dict(zip([dimension.key for dimension in space], values, strict=True)) for values in itertools.product(*axes)]
    random.Random(seed).shuffle(points)
    return points


def _parse(text: str) -> Dimension:
    key, equals, written = text.partition("=")
    kind, colon, rest = written.partition(":")
    key, kind = key.strip(), kind.strip()
    section, dot, name = key.partition(".")
    if not (equals and colon and dot and name):
        raise UserError(f"--over {text}: {FORM}")
    if section not in SECTIONS:
        raise unknown("section", section, SECTIONS)
    if reason := NOT_SEARCHED.get(key) or NOT_SEARCHED.get(section):
        raise UserError(f"--over {text}: {reason}")
    if kind not in KINDS:
        raise unknown("kind of range", kind, KINDS, FORM)
    if kind == "choice":
        choices = _choices(text, rest)
        return Dimension(key, written, kind, choices=choices, values=tuple(map(_unquoted, choices)))
    return _range(text, Dimension(key, written, kind), rest)


def _choices(text: str, rest: str) -> tuple[str, ...]:
    """Split at commas outside brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for letter in rest:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"" and not parts[-1].strip():
            quote = letter
        else:
            depth += (letter in "[{") - (letter in "]}")
        if letter == "," and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    parts = [part.strip() for part in parts]
    for part in parts:
        if not part:
            raise UserError(f"--over {text}: a choice is empty")
        if parts.count(part) > 1:
            raise UserError(f"--over {text}: {part} is given twice")
    return tuple(parts)


def _unquoted(choice: str) -> Any:
    """A choice in quotes as the text inside; any other is interpreted by the type of its key."""
    with suppress(ValueError):
        if choice[0] in "'\"":
            return load_yaml(choice)
    return Written(choice)


def _range(text: str, dimension: Dimension, rest: str) -> Dimension:
    ends, _, points = rest.partition(":")
    found = re.fullmatch(r"(.+?)\.\.(.+)", ends)
    if not found:
        raise UserError(f"--over {text}: {FORM}")
    low, high = (_number(text, end) for end in found.groups())
    if low >= high:
        raise UserError(f"--over {text}: the low end, {low}, must be below the high end, {high}")
    if dimension.kind == "log" and low <= 0:
        raise UserError(f"--over {text}: a log range must start above 0, not at {low}")
    if rest.count(":") and not (points.isdecimal() and int(points) >= 2):
        raise UserError(f"--over {text}: the number of points of a grid must be 2 or more, not {points!r}")
    return replace(dimension, low=low, high=high, points=int(points) if points else None)


def _number(text: str, end: str) -> float:
    try:
        value = float(end)
    except ValueError:
        raise UserError(f"--over {text}: {end!r} is not a number") from None
    if not math.isfinite(value):
        raise UserError(f"--over {text}: {end!r} is not finite")
    return int(value) if value.is_integer() else value


def _fitted(dimension: Dimension, resolve: Callable) -> Dimension:
    """The dimension with its ends converted to the type of the key, which must accept both ends or every choice."""
    section, _, name = dimension.key.partition(".")
    values = []
    for value in dimension.ends():
        part = getattr(resolve(nested({dimension.key: value})), section)
        outer, *inner = name.split(".", 1)
        value = part[outer] if isinstance(part, dict) else getattr(part, outer)
        values.append(value[inner[0]] if inner else value)
    if dimension.kind == "choice":
        return replace(dimension, values=tuple(values))
    if any(isinstance(value, bool) or not isinstance(value, (int, float)) for value in values):
        raise UserError(f"--over {dimension.key}={dimension.text}: the key takes no numbers; list values, as in choice:A,B")
    if not all(isinstance(value, int) for value in values):
        values = list(map(float, values))
    return replace(dimension, low=values[0], high=values[1])
