"""What is searched and with how much effort, checked before anything heavy is imported."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from zoo.config.recipe import Run, differences, resolve
from zoo.core.errors import UserError, unknown
from zoo.registry.registry import Registry
from zoo.search.space import Dimension, grid_points, nested, read_space

SAMPLERS = ("random", "grid", "tpe")
PRUNERS = ("none", "median", "asha")
TRIALS = 20  # unless told otherwise
# settings that say where a training computes and who watches, not what comes of it
NOT_PART_OF_A_STUDY = ("trainer.accelerator=", "wandb.")


@dataclass(frozen=True)
class Search:
    """What is searched. Plain data, so that it can be kept in a study and handed to another process.

    Attributes:
        base: the resolved Run, of which each trial changes the keys of ``space``.
        metric: a validation metric of the model's task, as in ``accuracy``, and ``direction``, "max" or "min".
        folds: trainings a trial, each validated on another part of the training images; 1 keeps one split.
        sampler: one of ``SAMPLERS``, and ``seed``, of what it draws.
    """

    base: dict[str, Any]
    space: tuple[Dimension, ...]
    metric: str
    direction: str
    folds: int
    sampler: str
    seed: int

    def run(self, registry: Registry, values: dict[str, Any]) -> Run:
        """The Run with these values (key -> value) over it.

        Raises:
            UserError: they do not go together.
        """
        return resolve(registry, None, self.base, [nested(values)])

    def values(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """The settings, key -> value, that the parameters of a trial stand for."""
        return {d.key: d.value(parameters[d.key]) for d in self.space if d.key in parameters}

    def identity(self) -> dict[str, Any]:
        """What makes two searches the same one, as plain data."""
        return {**asdict(self), "space": {dimension.key: dimension.text for dimension in self.space}}

    @classmethod
    def from_identity(cls, registry: Registry, identity: dict[str, Any]) -> Search:
        """The search that ``identity`` came from.

        Raises:
            UserError: its model or its data set is no longer what it was.
        """
        texts = [f"{key}={text}" for key, text in identity["space"].items()]
        space = read_space(texts, lambda layer: resolve(registry, None, identity["base"], [layer]))
        return cls(**{**identity, "space": space})

    def difference(self, former: dict[str, Any]) -> str | None:
        """The first thing in which this search is not the one of an identity, or None.

        Raises:
            ValueError: the identity is of another version of the zoo.
        """
        own = self.identity()
        changed = differences(Run(**former["base"]), Run(**self.base))
        changed = [text for text in changed if not text.startswith(NOT_PART_OF_A_STUDY)]
        for key in {**former["space"], **own["space"]}:
            now, then = own["space"].get(key), former["space"].get(key)
            if now != then:
                changed.append(f"--over {key}={now or '(none)'} (was {then or 'not there'})")
        for key in ("metric", "folds", "sampler", "seed"):
            if own[key] != former[key]:
                changed.append(f"--{key} {own[key]} (was {former[key]})")
        return changed[0] if changed else None


@dataclass(frozen=True)
class Effort:
    """How a search is gone about: what may change when it goes on.

    Attributes:
        points: how many trials are to be finished, by all processes together.
        pruner: one of ``PRUNERS``.
        workers: processes on this machine.
        plugins: the files given with ``--plugin``.
    """

    points: int
    pruner: str = "none"
    workers: int = 1
    plugins: tuple[str, ...] = ()


def plan_search(
    registry: Registry,
    name: str,
    settings: list[dict[str, dict[str, Any]]],
    over: list[str],
    sampler: str,
    metric: str,
    folds: int,
    seed: int,
) -> Search:
    """The search that was asked for, every end of every range tried on the Run.

    Args:
        settings: trees of section -> key -> value, as ``resolve`` takes them.
        over: ranges, each as in ``recipe.lr=log:1e-4..1e-1``.
        metric: empty for the one by which the model's checkpoints are judged.

    Raises:
        UserError: something is unknown, malformed, of the wrong type, or contradicts something else.
    """
    if sampler not in SAMPLERS:
        raise unknown("sampler", sampler, SAMPLERS)

    def resolved(*layers: dict[str, dict[str, Any]]) -> Run:
        return resolve(registry, name, {}, [*settings, *layers])

    base = resolved()
    space = read_space(over, resolved)
    for dimension in space:
        section, _, key = dimension.key.partition(".")
        if any(key in layer.get(section, {}) for layer in settings):
            raise UserError(f"{dimension.key} is both set and searched: leave one out")
        if dimension.points and sampler != "grid":
            raise UserError(f"--over {dimension.key}={dimension.text}: a number of points is for --sampler grid")
    if sampler == "grid":
        grid_points(space, seed)  # which complains
    if folds > 1 and any(dimension.key == "data.validation" for dimension in space):
        raise UserError("--folds and a search over data.validation are mutually exclusive")
    if base.trainer.devices != 1 or base.trainer.num_nodes != 1:
        raise UserError("each trial runs on one device: leave trainer.devices and trainer.num_nodes out; --workers uses several")
    task = registry.model(name).load()  # imports torch, and is therefore the last thing that is looked at
    metric = metric.removeprefix("val/") or task.monitor
    if metric not in task.directions:
        raise unknown("metric", metric, task.directions)
    return Search(base.model_dump(mode="json"), space, metric, task.directions[metric], folds, sampler, seed)


def plan_effort(search: Search, trials: int | None, pruner: str, workers: int, plugins: list[str]) -> Effort:
    """How the search is gone about; a grid is walked through once, whatever ``trials`` says beyond it.

    Raises:
        UserError: no such pruner.
    """
    if pruner not in PRUNERS:
        raise unknown("pruner", pruner, PRUNERS)
    if search.sampler == "grid":
        size = len(grid_points(search.space, search.seed))
        return Effort(min(trials or size, size), pruner, workers, tuple(plugins))
    return Effort(trials or TRIALS, pruner, workers, tuple(plugins))
