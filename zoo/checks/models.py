"""The contract of models of every task, checked on the tiny variant with its own example batches."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from zoo.config.recipe import Recipe
from zoo.config.resolution import resolve
from zoo.config.run import Run
from zoo.core.violation import Violation, require
from zoo.registry.entry import Entry
from zoo.registry.registry import Registry
from zoo.tasks.task import Task
from zoo.training import building, engine
from zoo.training.checkpoints import read_checkpoint
from zoo.training.run_folder import temporary_runs

SAMPLES = 6
STEP_SIZES = (1.0, 0.1, 0.01, 1e-3, 1e-4, 1e-5)


def checks_of_model(
    registry: Registry, entry: Entry, settings: Sequence[dict[str, dict[str, Any]]] = ()
) -> dict[str, Callable[[], None]]:
    """The checks of a model, by what each proves; each raises ``Violation``.

    Raises:
        Exception: the model cannot even be made.
    """
    subject = _tiny_run(registry, entry, settings)
    checks = MODEL_CHECKS if subject.learned is None else ONE_PASS_CHECKS
    return {name: partial(check, registry, subject) for name, check in checks.items()}


@dataclass(frozen=True)
class TinyRun:
    """A model's tiny variant with its recipe, and the data it is checked on."""

    run: Run
    data: Any
    learned: Task | None = None  # of a model that learns in one pass: before that it has nothing to say

    def new_task(self, registry: Registry) -> Task:
        return building.build_task(registry, self.run, self.data.spec)

    def task(self, registry: Registry) -> Task:
        return copy.deepcopy(self.learned) if self.learned else self.new_task(registry)


def _tiny_run(registry: Registry, entry: Entry, settings: Sequence[dict[str, dict[str, Any]]]) -> TinyRun:
    data = next((name for layer in reversed(settings) if (name := layer.get("data", {}).get("name"))), entry.data)
    tiny = {
        "model": entry.tiny,
        "data": {"name": data, **registry.data_set(data).tiny} if data else {},
        "recipe": {"epochs": min(2, entry.recipe.get("epochs", 2)), "batch_size": 8, "compile": False},
    }
    limits = {"limit_train_batches": 2, "limit_val_batches": 2, "limit_test_batches": 2}
    tiny["trainer"] = {"accelerator": "cpu", "monitor_every_n_steps": 1, **limits}
    run = resolve(registry, entry.name, {}, [tiny, *settings])
    subject = TinyRun(run, building.build_data(registry, run))
    if not subject.new_task(registry).one_pass:
        return subject
    with temporary_runs():
        best = engine.train(registry, run, "check").folder.best
        return replace(subject, learned=building.load_task(registry, read_checkpoint(best), best)[0])


def _recipe_is_valid(registry: Registry, subject: TinyRun) -> None:
    Recipe(**registry.model(subject.run.model["name"]).recipe)


def _outputs_fit(registry: Registry, subject: TinyRun) -> None:
    task = subject.task(registry).eval()
    with torch.no_grad():
        outputs = task.predict_step(task.example_batch(SAMPLES))
    shape = tuple(outputs.shape)
    require(len(outputs) == SAMPLES, f"{SAMPLES} samples gave outputs of shape {shape}")
    if task.prediction_shape is not None:
        expected = (SAMPLES, *task.prediction_shape)
        require(shape == expected, f"outputs have shape {shape}, for {SAMPLES} samples the spec expects {expected}")
    require(outputs.isfinite().all(), "outputs are not finite")


def _same_seed_same_weights(registry: Registry, subject: TinyRun) -> None:
    first, second = subject.task(registry).state_dict(), subject.task(registry).state_dict()
    for name, value in first.items():
        require(torch.equal(value, second[name]), f"{name} differs between two networks with the same seed")


def _step_lowers_loss(registry: Registry, subject: TinyRun) -> None:
    task = subject.task(registry).train()
    batch = task.example_batch(16)
    before = _loss(task, batch)
    before.backward()
    start = {name: parameter.detach().clone() for name, parameter in task.named_parameters()}
    lowest = float("inf")
    for size in STEP_SIZES:
        with torch.no_grad():
            for name, parameter in task.named_parameters():
                if parameter.grad is not None:
                    parameter.copy_(start[name] - size * parameter.grad)
            lowest = min(lowest, float(_loss(task, batch)))
        if lowest < before.item():
            return
    raise Violation(f"no step along the gradient lowers the loss of {before.item():.4f}; the best gave {lowest:.4f}")


def _loss(task: Task, batch: dict[str, Tensor]) -> Tensor:
    torch.manual_seed(0)  # the same dropout each time
    return task.training_step(dict(batch), 0)


def _samples_do_not_mix(registry: Registry, subject: TinyRun) -> None:
    task = subject.task(registry).eval()
    batch = task.example_batch(SAMPLES)
    with torch.no_grad():
        together = task.predict_step(batch)
        apart = torch.cat([task.predict_step(task.part(batch, slice(i, i + 1))) for i in range(SAMPLES)])
    difference = float((together - apart).abs().max())
    require(torch.allclose(together, apart, rtol=1e-4, atol=1e-5), f"outputs alone and in a batch differ by {difference:.2g}")


def _every_parameter_learns(registry: Registry, subject: TinyRun) -> None:
    task = subject.task(registry).train()
    for seed in range(3):  # a unit may be silent for one batch
        batch = task.example_batch(16, seed)
        _loss(task, batch).backward()
        silent = [name for name, parameter in task.named_parameters() if parameter.requires_grad and not _learns(parameter)]
        if not silent:
            return
    raise Violation(f"{silent[0]} gets no gradient")


def _learns(parameter: nn.Parameter) -> bool:
    return parameter.grad is not None and bool(parameter.grad.abs().max() > 0)


def _saves_and_loads(registry: Registry, subject: TinyRun) -> None:
    task = subject.task(registry).train()
    if not task.one_pass:
        _loss(task, task.example_batch(16))  # moves what a network keeps besides parameters
    buffer = io.BytesIO()
    torch.save(task.state_dict(), buffer)
    buffer.seek(0)
    other = subject.new_task(registry)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    with torch.no_grad():
        batch = task.example_batch(SAMPLES)
        require(
            torch.equal(task.eval().predict_step(batch), other.eval().predict_step(batch)),
            "outputs differ after saving and loading",
        )


def _stages_cover_parameters(registry: Registry, subject: TinyRun) -> None:
    task = subject.task(registry)
    stages = task.stages()
    staged = [id(parameter) for stage in stages.values() for parameter in stage.parameters()]
    for name, parameter in task.named_parameters():
        count = staged.count(id(parameter))
        require(count == 1, f"{name} is in {count} stages, not in one")
    require(list(stages)[-1] == "head", f"the last stage is {list(stages)[-1]!r}, not 'head'")


def _trains_and_tests(registry: Registry, subject: TinyRun) -> None:
    with temporary_runs():
        outcome = engine.train(registry, subject.run, "check")
        require(outcome.test, "testing returned no metrics")
        for finding in outcome.findings:
            require(finding.severity != "error", f"during training: {finding.one_line}")
        for file in (outcome.folder.best, outcome.folder.last):
            task, _ = building.load_task(registry, read_checkpoint(file), file)
        with torch.no_grad():
            require(task.predict_step(task.example_batch(2)).isfinite().all(), "outputs of the trained network are not finite")


MODEL_CHECKS = {
    "its recipe is valid": _recipe_is_valid,
    "outputs fit the spec": _outputs_fit,
    "the same seed gives the same weights": _same_seed_same_weights,
    "a step along the gradient lowers the loss": _step_lowers_loss,
    "samples of a batch do not mix in evaluation": _samples_do_not_mix,
    "every parameter gets a gradient": _every_parameter_learns,
    "saving and loading keep the outputs": _saves_and_loads,
    "stages cover all parameters, the head last": _stages_cover_parameters,
    "trains with its recipe without errors in the monitors, and tests": _trains_and_tests,
}
GRADIENT_CHECKS = (_step_lowers_loss, _every_parameter_learns)
ONE_PASS_CHECKS = {name: check for name, check in MODEL_CHECKS.items() if check not in GRADIENT_CHECKS}
