"""Search space and budget, validated before torch is imported."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from zoo.config.resolution import resolve
from zoo.config.run import Run, differences
from zoo.core.errors import UserError, unknown
from zoo.registry.registry import Registry
from zoo.studies.space import Dimension, grid_points, nested, read_space

SAMPLERS = ("random", "grid", "tpe")
PRUNERS = ("none", "median", "asha")
TRIALS = 20  # by default
# where a run computes and where it is tracked, not its result
NOT_PART_OF_A_STUDY = ("trainer.accelerator=", "wandb.")


@dataclass(frozen=True)
class Search:
    """A search: what its trials have in common, and what they vary. Plain data, stored in the study and sent to processes.

    Attributes:
        base: the resolved Run, of which each trial changes the keys of ``space``.
        metric: a validation metric of the model's task, as in ``accuracy``, and ``direction``, "max" or "min".
        folds: number of cross-validation folds of each trial; 1 for a single validation split.
        sampler: one of ``SAMPLERS``, and ``seed``, its seed.
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
            UserError: the combination is invalid.
        """
        return resolve(registry, None, self.base, [nested(values)])

    def values(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """The settings, key -> value, of the parameters of a trial."""
        return {d.key: d.value(parameters[d.key]) for d in self.space if d.key in parameters}

    def identity(self) -> dict[str, Any]:
        """Plain data that is equal for equal searches, stored in the study."""
        return {**asdict(self), "space": {dimension.key: dimension.text for dimension in self.space}}

    @classmethod
    def from_identity(cls, registry: Registry, identity: dict[str, Any]) -> Search:
        """Rebuild a search from its ``identity``.

        Raises:
            UserError: its model or its data set has changed.
        """
        texts = [f"{key}={text}" for key, text in identity["space"].items()]
        space = read_space(texts, lambda layer: resolve(registry, None, identity["base"], [layer]))
        return cls(**{**identity, "space": space})

    def difference(self, former: dict[str, Any]) -> str | None:
        """Describe the first difference from the search of an identity; None if they are equal.

        Raises:
            ValueError: the identity is of another version of the zoo.
        """
        own = self.identity()
        changed = differences(Run(**former["base"]), Run(**self.base))
        changed = [text for text in changed if not text.startswith(NOT_PART_OF_A_STUDY)]
        for key in {**former["space"], **own["space"]}:
            now, then = own["space"].get(key), former["space"].get(key)
            if now != then:
                changed.append(f"--over {key}={now or '(none)'} (was {then or 'not given'})")
        for key in ("metric", "folds", "sampler", "seed"):
            if own[key] != former[key]:
                changed.append(f"--{key} {own[key]} (was {former[key]})")
        return changed[0] if changed else None


@dataclass(frozen=True)
class Budget:
    """Budget and execution of a search: what may change when a study continues.

    Attributes:
        points: total number of trials, over all processes.
        pruner: one of ``PRUNERS``.
        workers: number of processes on this machine.
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
    """Build a search, validating the ends of every range against the settings.

    Args:
        settings: trees of section -> key -> value, as ``resolve`` takes them.
        over: ranges, each as in ``recipe.lr=log:1e-4..1e-1``.
        metric: empty for the one that selects the model's best checkpoint.

    Raises:
        UserError: an unknown name, a malformed range, a value of the wrong type, or a contradiction.
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
            raise UserError(f"{dimension.key} is both set and searched: omit one")
        if dimension.points and sampler != "grid":
            raise UserError(f"--over {dimension.key}={dimension.text}: a number of points needs --sampler grid")
    if sampler == "grid":
        grid_points(space, seed)  # raises for an incomplete grid
    if folds > 1 and any(dimension.key == "data.validation" for dimension in space):
        raise UserError("--folds and a search over data.validation are mutually exclusive")
    if base.trainer.devices != 1 or base.trainer.num_nodes != 1:
        raise UserError("each trial runs on one device: omit trainer.devices and trainer.num_nodes; --workers uses several")
    task = registry.model(name).load().with_loop(registry.task_of(name, base.data["name"]))  # imports torch, hence last
    metric = metric.removeprefix("val/") or base.recipe.monitor or task.monitor
    if metric not in task.directions:
        raise unknown("metric", metric, task.directions)
    return Search(base.model_dump(mode="json"), space, metric, task.directions[metric], folds, sampler, seed)


def plan_budget(search: Search, trials: int | None, pruner: str, workers: int, plugins: list[str]) -> Budget:
    """Build the budget; a grid is run once at most, whatever ``trials`` says.

    Raises:
        UserError: no such pruner.
    """
    if pruner not in PRUNERS:
        raise unknown("pruner", pruner, PRUNERS)
    if search.sampler == "grid":
        size = len(grid_points(search.space, search.seed))
        return Budget(min(trials or size, size), pruner, workers, tuple(plugins))
    return Budget(trials or TRIALS, pruner, workers, tuple(plugins))
