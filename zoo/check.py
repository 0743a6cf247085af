"""The contract of the zoo, as checks that ``zoo check NAME`` and the tests run: for our entries and for everybody's."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from zoo.errors import one_line
from zoo.options import check_options
from zoo.recipe import Recipe, Run, resolve
from zoo.registry import Entry, Registry
from zoo.spec import END, IGNORE, OUTSIDE, NavigationSpec, SequenceSpec, TextSpec, WordedSpec
from zoo.tasks.task import Task
from zoo.training import engine
from zoo.training.checkpoints import read_checkpoint
from zoo.training.run_folder import temporary_runs

SAMPLES = 6
STEP_SIZES = (1.0, 0.1, 0.01, 1e-3, 1e-4, 1e-5)


class Violation(AssertionError):
    """A part of the contract that does not hold; the text says which value is wrong."""


@dataclass(frozen=True)
class Result:
    """One check and what came of it."""

    name: str
    passed: bool
    detail: str = ""


def check_entry(registry: Registry, entry: Entry) -> list[Result]:
    """Run every check of an entry's kind, in its ``tiny`` variant. Never raises for a fault of the entry."""
    try:
        subject = _tiny_run(registry, entry) if entry.kind == "model" else _open(registry, entry)
    except Exception as error:
        return [Result("can be made", False, f"{type(error).__name__}: {one_line(error)}")]
    if entry.kind == "data":
        checks = next((checks for kind, checks in CHECKS_OF_DATA.items() if isinstance(subject.spec, kind)), DATA_CHECKS)
    else:
        checks = MODEL_CHECKS if subject.learned is None else ONE_PASS_CHECKS
    return [_run(name, check, registry, subject) for name, check in checks.items()]


def _run(name: str, check: Callable, registry: Registry, subject: Any) -> Result:
    try:
        check(registry, subject)
    except Violation as violation:
        return Result(name, False, str(violation))
    except Exception as error:
        return Result(name, False, f"{type(error).__name__}: {one_line(error)}")
    return Result(name, True)


def _require(holds: Any, text: str) -> None:
    if not holds:
        raise Violation(text)


# ---------------------------------------------------------------------------------------------- models


@dataclass(frozen=True)
class TinyRun:
    """A model's tiny variant with its recipe, and the data it is checked on."""

    run: Run
    data: Any
    learned: Task | None = None  # of a model that learns in one pass: before that it has nothing to say

    def new_task(self, registry: Registry) -> Task:
        return engine.build_task(registry, self.run, self.data.spec)

    def task(self, registry: Registry) -> Task:
        return copy.deepcopy(self.learned) if self.learned else self.new_task(registry)


def _tiny_run(registry: Registry, entry: Entry) -> TinyRun:
    settings = {
        "model": entry.tiny,
        "data": registry.data_set(entry.data).tiny if entry.data else {},
        "recipe": {"epochs": min(2, entry.recipe.get("epochs", 2)), "batch_size": 16, "compile": False},
    }
    settings["trainer"] = {"accelerator": "cpu", "limit_train_batches": 3, "limit_val_batches": 2, "limit_test_batches": 2}
    run = resolve(registry, entry.name, {}, [settings])
    subject = TinyRun(run, engine.build_data(registry, run))
    if not subject.new_task(registry).one_pass:
        return subject
    with temporary_runs():
        best = engine.train(registry, run, "check").folder.best
        return replace(subject, learned=engine.load_task(registry, read_checkpoint(best), best)[0])


def _recipe_is_valid(registry: Registry, subject: TinyRun) -> None:
    Recipe(**registry.model(subject.run.model["name"]).recipe)


def _outputs_fit(registry: Registry, subject: TinyRun) -> None:
    task = subject.task(registry).eval()
    with torch.no_grad():
        outputs = task.outputs(task.example(SAMPLES))
    _require(len(outputs) == SAMPLES, f"{SAMPLES} samples gave outputs of shape {tuple(outputs.shape)}")
    _require(outputs.isfinite().all(), "outputs are not finite")


def _same_seed_same_weights(registry: Registry, subject: TinyRun) -> None:
    first, second = subject.task(registry).state_dict(), subject.task(registry).state_dict()
    for name, value in first.items():
        _require(torch.equal(value, second[name]), f"{name} differs between two networks of one seed")


def _step_lowers_loss(registry: Registry, subject: TinyRun) -> None:
    task = subject.task(registry).train()
    batch = task.example(16)
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
    batch = task.example(SAMPLES)
    with torch.no_grad():
        together = task.outputs(batch)
        apart = torch.cat([task.outputs(task.part(batch, slice(i, i + 1))) for i in range(SAMPLES)])
    difference = float((together - apart).abs().max())
    _require(torch.allclose(together, apart, rtol=1e-4, atol=1e-5), f"alone and in a batch differ by {difference:.2g}")


def _every_parameter_learns(registry: Registry, subject: TinyRun) -> None:
    task = subject.task(registry).train()
    for seed in range(3):  # a unit may be silent for one batch
        batch = task.example(16, seed)
        _loss(task, batch).backward()
    for name, parameter in task.named_parameters():
        if parameter.requires_grad:
            _require(parameter.grad is not None and parameter.grad.abs().max() > 0, f"{name} gets no gradient")


def _saves_and_loads(registry: Registry, subject: TinyRun) -> None:
    task = subject.task(registry).train()
    if not task.one_pass:
        _loss(task, task.example(16))  # moves what a network keeps beside parameters
    buffer = io.BytesIO()
    torch.save(task.state_dict(), buffer)
    buffer.seek(0)
    other = subject.new_task(registry)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    with torch.no_grad():
        batch = task.example(SAMPLES)
        _require(torch.equal(task.eval().outputs(batch), other.eval().outputs(batch)), "outputs differ after save and load")


def _stages_cover_parameters(registry: Registry, subject: TinyRun) -> None:
    task = subject.task(registry)
    stages = task.stages()
    staged = [id(parameter) for stage in stages.values() for parameter in stage.parameters()]
    for name, parameter in task.named_parameters():
        count = staged.count(id(parameter))
        _require(count == 1, f"{name} is in {count} stages, not in one")
    _require(list(stages)[-1] == "head", f"the last stage is {list(stages)[-1]!r}, not 'head'")


def _trains_and_tests(registry: Registry, subject: TinyRun) -> None:
    with temporary_runs():
        outcome = engine.train(registry, subject.run, "check")
        _require(outcome.test, "testing gave no figures")
        for file in (outcome.folder.best, outcome.folder.last):
            task, _ = engine.load_task(registry, read_checkpoint(file), file)
        with torch.no_grad():
            _require(task.outputs(task.example(2)).isfinite().all(), "outputs of the trained network are not finite")


MODEL_CHECKS = {
    "its recipe is valid": _recipe_is_valid,
    "outputs fit the spec": _outputs_fit,
    "the same seed gives the same weights": _same_seed_same_weights,
    "a step along the gradient lowers the loss": _step_lowers_loss,
    "samples of a batch do not mix in evaluation": _samples_do_not_mix,
    "every parameter gets a gradient": _every_parameter_learns,
    "saving and loading keep the outputs": _saves_and_loads,
    "stages cover all parameters, the head last": _stages_cover_parameters,
    "trains by its recipe and tests": _trains_and_tests,
}
GRADIENT_CHECKS = (_step_lowers_loss, _every_parameter_learns)
ONE_PASS_CHECKS = {name: check for name, check in MODEL_CHECKS.items() if check not in GRADIENT_CHECKS}


# ---------------------------------------------------------------------------------------------- data


def _open(registry: Registry, entry: Entry) -> Any:
    data = entry.load()(16, 0, **check_options(entry, entry.tiny))
    _ = data.spec  # known before anything is fetched
    data.prepare_data()
    data.setup()
    return data


def _batches_fit(registry: Registry, data: Any) -> None:
    spec = data.spec
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        batch = data.on_after_batch_transfer(next(iter(loader)), 0)
        images, labels = batch["images"], batch["labels"]
        _require(tuple(images.shape[1:]) == spec.shape, f"images are {tuple(images.shape[1:])}, the spec says {spec.shape}")
        _require(labels.min() >= 0 and labels.max() < len(spec.classes), "a label is outside the classes of the spec")
        _require(images.min() >= 0 and images.max() <= 255, "pixels must be from 0 to 255")


def _seed_decides(registry: Registry, data: Any) -> None:
    first, second = (next(iter(data.train_dataloader())) for _ in range(2))
    _require(torch.equal(first["images"], second["images"]), "one seed gave two orders")
    loader = data.train_dataloader()
    loader.position = lambda: (1, 0)
    third = next(iter(loader))
    _require(not torch.equal(first["images"], third["images"]), "two epochs have the same order")


def _augments_each_apart(registry: Registry, data: Any) -> None:
    if not data.augmentation.transforms:
        return
    batch = next(iter(data.train_dataloader()))
    n = len(batch["images"])
    same = {"images": batch["images"][:1].expand(n, -1, -1, -1).contiguous(), "labels": batch["labels"], "seed": batch["seed"]}
    images = data.on_after_batch_transfer(same, 0)["images"]
    different = len(torch.unique(images.flatten(1), dim=0))
    _require(different > 1, f"{n} copies of an image were all augmented alike")


def _evaluates_each_once(registry: Registry, data: Any) -> None:
    for name in ("val", "test"):
        loader = data.val_dataloader() if name == "val" else data.test_dataloader()
        seen = sum(len(batch["labels"]) for batch in loader)
        _require(seen == len(data.splits[name]), f"{name} has {len(data.splits[name])} images, {seen} were seen")


def _text_fits(registry: Registry, data: Any) -> None:
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        batch = next(iter(loader))
        tokens, targets = batch["tokens"], batch["targets"]
        _require(tokens.shape == targets.shape, f"tokens are {tuple(tokens.shape)}, targets {tuple(targets.shape)}")
        _require(tokens.min() >= 0 and tokens.max() < len(data.spec.vocabulary), "a token is outside the vocabulary of the spec")
        going_on = targets[:, :-1] == tokens[:, 1:]
        _require((going_on | (targets[:, :-1] == IGNORE)).all(), "targets are not the text one character later")


def _seed_and_epoch_decide(registry: Registry, data: Any) -> None:
    first, second = (next(iter(data.train_dataloader())) for _ in range(2))
    _require(torch.equal(first["tokens"], second["tokens"]), "one seed gave two texts")
    loader = data.train_dataloader()
    loader.position = lambda: (1, 0)
    _require(not torch.equal(first["tokens"], next(iter(loader))["tokens"]), "two epochs begin at the same places")


def _evaluates_each_character_once(registry: Registry, data: Any) -> None:
    for name, loader in (("val", data.val_dataloader()), ("test", data.test_dataloader())):
        seen = sum(int((batch["targets"] != IGNORE).sum()) for batch in loader)
        expected = len(data.splits[name]) - 1
        _require(seen == expected, f"{name} has {expected} characters behind others, {seen} were targets")


def _sequences_fit(registry: Registry, data: Any) -> None:
    spec = data.spec
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        batch = next(iter(loader))
        inputs, targets = batch["inputs"], batch["targets"]
        expected = (len(inputs), spec.length, spec.features)
        _require(inputs.shape == expected, f"inputs are {tuple(inputs.shape)}, the spec says {expected}")
        expected = expected[:2] if spec.symbols else expected[:1]
        _require(targets.shape == expected, f"targets are {tuple(targets.shape)}, the spec says {expected}")
        if spec.symbols:
            _require(targets.min() >= 0 and targets.max() < len(spec.symbols), "a target is none of the symbols of the spec")
            _require((targets > 0).any(1).all(), "a sequence asks for nothing")


def _seed_and_position_decide(registry: Registry, data: Any) -> None:
    first, second = (next(iter(data.train_dataloader())) for _ in range(2))
    _require(torch.equal(first["inputs"], second["inputs"]), "one seed gave two batches")
    loader = data.train_dataloader()
    for position, what in (((0, 1), "two steps"), ((1, 0), "two epochs")):
        loader.position = lambda position=position: position
        _require(not torch.equal(first["inputs"], next(iter(loader))["inputs"]), f"{what} have the same sequences")


def _evaluates_the_same_sequences(registry: Registry, data: Any) -> None:
    splits = {}
    for name, loader in (("val", data.val_dataloader()), ("test", data.test_dataloader())):
        first, second = (torch.cat([batch["inputs"][batch["counted"]] for batch in loader]) for _ in range(2))
        _require(torch.equal(first, second), f"{name} has other sequences when it is read again")
        splits[name] = first
    _require(not torch.equal(*splits.values()), "val and test have the same sequences")


def _words_fit(registry: Registry, data: Any) -> None:
    spec = data.spec
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        batch = data.on_after_batch_transfer(next(iter(loader)), 0)
        images = batch.pop("images")
        _require(
            tuple(images.shape[1:]) == spec.image.shape, f"images are {tuple(images.shape[1:])}, the spec says {spec.image.shape}"
        )
        _require(images.min() >= 0 and images.max() <= 255, "pixels must be from 0 to 255")
        missing = sorted(set(spec.columns) - set(batch))
        _require(not missing, f"a batch lacks {', '.join(missing)}, which the spec names")
        for name, values in spec.columns.items():
            column = batch[name]
            _require(len(column) == len(images), f"{name} has {len(column)} rows, there are {len(images)} images")
            there = column[(column != IGNORE) & (column != OUTSIDE)]
            _require(len(there), f"{name} has nothing for any image of a batch")
            _require(
                there.min() >= 0 and there.max() < values, f"a value of {name} is not from 0 to {values - 1}, as the spec says"
            )


def _worlds_fit(registry: Registry, data: Any) -> None:
    spec = data.spec
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        batch = next(iter(loader))
        views, moves, words = batch["views"], batch["moves"], batch["words"]
        poses = views.shape[1]
        shape = spec.image.shape
        _require(tuple(views.shape[2:]) == shape, f"views are {tuple(views.shape[2:])}, the spec says {shape}")
        _require(moves.shape[1:] == (poses, len(spec.actions)), f"moves are {tuple(moves.shape[1:])} for {poses} poses")
        _require(moves.min() >= 0 and moves.max() < poses, "an action leads to a pose that is not there")
        _require((moves[:, :, -1] == torch.arange(poses)).all(), f"{spec.actions[-1]!r} is to stop, and leads elsewhere")
        _require(words.min() >= 0 and words.max() < len(spec.vocabulary), "a word is outside the vocabulary of the spec")
        _require((words == END).sum(1).eq(1).all(), "an instruction does not end, or ends twice")


def _expert_arrives(registry: Registry, data: Any) -> None:
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        batch = next(iter(loader))
        row, pose = torch.arange(len(batch["start"])), batch["start"]
        left = batch["steps"][row, pose]
        _require((left < data.spec.steps).all(), f"a goal is {int(left.max())} steps away, and {data.spec.steps} may be taken")
        for _ in range(int(left.max())):
            pose = batch["moves"][row, pose, batch["expert"][row, pose]]
            left = (left - 1).clamp(min=0)
            _require(torch.equal(batch["steps"][row, pose], left), "an action of the expert does not bring the goal nearer")
        _require((batch["expert"][row, pose] == len(data.spec.actions) - 1).all(), "the expert does not stop at the goal")


def _seed_decides_episodes(registry: Registry, data: Any) -> None:
    first, second = (next(iter(data.train_dataloader())) for _ in range(2))
    _require(torch.equal(first["start"], second["start"]), "one seed gave two orders")
    loader = data.train_dataloader()
    loader.position = lambda: (1, 0)
    _require(not torch.equal(first["start"], next(iter(loader))["start"]), "two epochs have the same order")


def _evaluates_each_episode_once(registry: Registry, data: Any) -> None:
    for name, loader in (("val", data.val_dataloader()), ("test", data.test_dataloader())):
        seen = sum(int(batch["counted"].sum()) for batch in loader)
        _require(seen == len(data.splits[name]), f"{name} has {len(data.splits[name])} episodes, {seen} were counted")


NAVIGATION_CHECKS = {
    "batches fit the spec": _worlds_fit,
    "the expert arrives by a shortest way": _expert_arrives,
    "order follows from seed and epoch": _seed_decides_episodes,
    "evaluation sees each episode once": _evaluates_each_episode_once,
}
TEXT_CHECKS = {
    "batches fit the spec": _text_fits,
    "text follows from seed and epoch": _seed_and_epoch_decide,
    "evaluation sees each character once": _evaluates_each_character_once,
}
WORDED_CHECKS = {
    "batches fit the spec": _words_fit,
    "order follows from seed and epoch": _seed_decides,
    "images of a batch are augmented apart": _augments_each_apart,
    "evaluation sees each image once": _evaluates_each_once,
}
DATA_CHECKS = {
    "batches fit the spec": _batches_fit,
    "order follows from seed and epoch": _seed_decides,
    "images of a batch are augmented apart": _augments_each_apart,
    "evaluation sees each image once": _evaluates_each_once,
}
SEQUENCE_CHECKS = {
    "batches fit the spec": _sequences_fit,
    "sequences follow from seed, epoch and step": _seed_and_position_decide,
    "evaluation sees the same sequences each time": _evaluates_the_same_sequences,
}
CHECKS_OF_DATA = {  # the first that the spec is one of
    TextSpec: TEXT_CHECKS,
    SequenceSpec: SEQUENCE_CHECKS,
    NavigationSpec: NAVIGATION_CHECKS,
    WordedSpec: WORDED_CHECKS,
}
