"""Fine-tuning plan: the epoch in which each stage is unfrozen, and its learning rate."""

from __future__ import annotations

from dataclasses import dataclass

from zoo.optim.parameter_groups import stage_groups
from zoo.tasks.task import Task


@dataclass(frozen=True)
class PlannedStage:
    """A stage with its number of parameters, the epoch (from 1) in which it is unfrozen (None is never), and its peak learning
    rate."""

    name: str
    parameters: int
    first_epoch: int | None
    lr: float

    def row(self) -> tuple[str, ...]:
        """As text: name, parameters, first epoch, learning rate."""
        never = self.first_epoch is None
        return self.name, f"{self.parameters:,}", "never" if never else str(self.first_epoch), "" if never else f"{self.lr:.3g}"


def stage_plan(task: Task) -> list[PlannedStage]:
    """Plan the stages by the task's recipe, from input to output.

    Raises:
        UserError: the recipe does not fit the stages.
    """
    stages, recipe = task.stages(), task.recipe
    recipe.freezing.check(tuple(stages), recipe.epochs)
    first = recipe.freezing.trained_from(tuple(stages))
    rates = {group["name"]: group["lr"] for group in stage_groups(stages, recipe, recipe.lr)}
    return [
        PlannedStage(
            name,
            sum(parameter.numel() for parameter in stage.parameters()),
            None if first[name] is None or first[name] >= recipe.epochs else first[name] + 1,
            rates.get(name, recipe.lr),
        )
        for name, stage in stages.items()
    ]


def count_trained(task: Task) -> int:
    """Number of parameters that are trained in some epoch, by the task's recipe."""
    plan = stage_plan(task) if task.recipe.freeze != "none" else []
    never = [task.stages()[stage.name] for stage in plan if stage.first_epoch is None]
    frozen = {parameter for stage in never for parameter in stage.parameters()}
    return sum(parameter.numel() for parameter in task.parameters() if parameter.requires_grad and parameter not in frozen)


def describe_plan(plan: list[PlannedStage]) -> str:
    """A plan as one line."""
    trained = [stage for stage in plan if stage.first_epoch is not None]
    later = [stage for stage in trained if stage.first_epoch > 1]
    total = sum(stage.parameters for stage in plan)
    count = sum(stage.parameters for stage in trained)
    first, head = trained[0], trained[-1]
    rates = f"lr {head.lr:.3g}"
    if first.lr != head.lr:
        rates = f"lr from {first.lr:.2g} ({first.name}) to {head.lr:.3g} ({head.name})"
    if len(trained) == 1:
        return f"trained: the head alone, {count:,} of {total:,} parameters; {rates}"
    if later:
        epochs = sorted({stage.first_epoch for stage in later})
        steps = f"from epoch {epochs[0]} on" if len(epochs) == 1 else f"stage by stage from epoch {epochs[0]} to {epochs[-1]}"
        return f"trained: the head alone at first, the rest {steps}; {rates}"
    what = "everything" if len(trained) == len(plan) else f"{first.name} and all after it, {count:,} of {total:,} parameters"
    return f"trained: {what}; {rates}"
