"""Trainings with a teacher: what it sees and says, and that it leaves no trace but in the loss."""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch.nn import functional as F

import zoo as bestiary
from zoo.config.recipe import Recipe
from zoo.config.resolution import resolve
from zoo.config.settings import parse_setting
from zoo.core.errors import UserError
from zoo.core.json_lines import read_json_lines
from zoo.registry.registry import scan
from zoo.spec import ImageSpec
from zoo.training import distillation, engine
from zoo.training.distillation import Distillation
from zoo.training.run_folder import RunFolder
from zoo.training.tracking.lineage import sha256_of_file, weight_origins

QUICK = ["trainer.accelerator=cpu", "trainer.limit_train_batches=4", "trainer.limit_val_batches=1", "trainer.test=false"]
STUDENT = ["model.channels=[4,8]", "model.hidden_size=8", "trainer.monitor_every_n_steps=1", "trainer.log_every_n_steps=1"]
TAUGHT = ["recipe.teacher=teacher"]
WEIGHTS = [float(weight) for weight in range(1, 11)]


def resolved(model: str, *settings: str) -> Any:
    return resolve(scan(), model, {}, [parse_setting(text) for text in [*QUICK, "recipe.epochs=1", *settings]])


def train(model: str, name: str, *settings: str) -> engine.TrainResult:
    return engine.train(scan(), resolved(model, *settings), name, progress=False)


def flags(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher, and a student with and without it."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_RUNS", str(folder))
        train("softmax", "teacher", "recipe.epochs=2")
        train("convnet", "student", *STUDENT, *TAUGHT)
        train("convnet", "alone", *STUDENT)
    return folder


@pytest.fixture(autouse=True)
def in_a_copy(runs: Path, workplace: Path) -> None:
    shutil.copytree(runs, workplace / "runs")


def teacher() -> Any:
    return bestiary.load("teacher").model


def column(spec: ImageSpec, batch: dict[str, torch.Tensor], name: str = "teacher") -> torch.Tensor:
    """What the callback adds to a batch."""
    task = bestiary.create_model("softmax", spec)
    callback = Distillation(scan(), name, spec)
    trainer: Any = SimpleNamespace(precision_plugin=SimpleNamespace(forward_context=nullcontext))
    callback.on_train_start(trainer, task)
    callback.on_train_batch_start(trainer, task, batch, 0)
    return batch["teacher_logits"]


def test_the_loss_is_shared_between_the_teacher_and_the_labels() -> None:
    recipe = Recipe(teacher="teacher", teacher_temperature=3, teacher_share=0.7, label_smoothing=0.1, class_weights=WEIGHTS)
    task = bestiary.create_model("softmax", teacher().spec).__class__(teacher().spec, recipe)
    batch = task.example_batch(8)
    batch["labels"][2] = -100  # an image that could not be read
    logits, taught = task.logits(batch), column(task.spec, batch)
    torch.testing.assert_close(taught, teacher().logits(batch))
    rows = [row for row in range(8) if row != 2]
    p, q = (taught[rows] / 3).softmax(1), (logits[rows] / 3).softmax(1)
    divergence = (p * (p / q).log()).sum() / len(rows) * 9
    of_labels = F.cross_entropy(logits[rows], batch["labels"][rows], torch.tensor(WEIGHTS), label_smoothing=0.1)
    loss = task.training_step(batch, 0)
    assert loss.item() == pytest.approx((0.7 * divergence + 0.3 * of_labels).item(), rel=1e-5)
    assert task.running.sums["distillation"].item() == pytest.approx(8 * divergence.item(), rel=1e-3)
    del batch["teacher_logits"]
    assert task.training_step(batch, 0).item() == pytest.approx(of_labels.item(), rel=1e-5)


def test_classes_are_matched_by_name() -> None:
    spec = teacher().spec
    batch = bestiary.create_model("softmax", spec).example_batch(4)
    places = [7, 0, 3]
    of_three = column(replace(spec, classes=tuple(spec.classes[place] for place in places)), dict(batch))
    assert torch.equal(of_three, teacher().logits(batch)[:, places])


def test_the_teacher_sees_the_images_in_its_own_size_channels_and_statistics() -> None:
    for color in ("red", "teal"):
        for number in range(12):
            path = Path("photos", color, f"{number}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (16, 16 + number), color).save(path)
    train("softmax", "colored", "data.name=photos", "data.size=16")
    known = bestiary.load("colored").model
    spec = ImageSpec(1, 8, 8, known.spec.classes, mean=(0.3,), std=(0.2,))
    batch = bestiary.create_model("softmax", spec).example_batch(4)
    large = F.interpolate(batch["images"].float().repeat(1, 3, 1, 1), (16, 16), mode="bilinear", antialias=True)
    torch.testing.assert_close(column(spec, dict(batch), "colored"), known.logits({"images": large}))
    with pytest.raises(UserError, match="takes 1-channel images, and the data is 3-channel images"):
        Distillation(scan(), "teacher", known.spec)


def test_the_teacher_is_no_part_of_the_student_and_of_what_is_recorded_of_it() -> None:
    student, alone = RunFolder.find("student"), RunFolder.find("alone")
    first, second = (torch.load(folder.last, weights_only=True) for folder in (student, alone))
    assert first["state_dict"].keys() == second["state_dict"].keys()
    groups = [each["optimizer_states"][0]["param_groups"] for each in (first, second)]
    assert [len(group["params"]) for group in groups[0]] == [len(group["params"]) for group in groups[1]]
    names = [
        [sorted(record["layers"]) for record in read_json_lines(folder.monitors_file) if record["kind"] == "activations"]
        for folder in (student, alone)
    ]
    assert names[0] and names[0] == names[1]
    counts = [json.loads((folder.path / "environment.json").read_text())["parameters"] for folder in (student, alone)]
    assert counts[0] == counts[1]
    records = [record for record in read_json_lines(student.metrics_file) if "train/loss" in record]
    assert all(record["train/distillation"] > 0 for record in records)
    assert any(not torch.equal(value, second["state_dict"][name]) for name, value in first["state_dict"].items())


def test_a_run_goes_on_with_the_same_teacher_or_not_at_all(zoo) -> None:
    before = RunFolder.find("student").last.read_bytes()
    best = Path("runs/teacher/checkpoints/best.ckpt")
    checkpoint = torch.load(best, weights_only=True)
    next(iter(checkpoint["state_dict"].values())).add_(1)
    torch.save(checkpoint, best)
    answer = zoo("train", "--resume", "student")
    assert answer.is_one_line_error("recipe.teacher=teacher: has other weights than when the run began")
    shutil.rmtree("runs/teacher")
    assert zoo("train", "--resume", "student").is_one_line_error("recipe.teacher=teacher", "no run 'teacher'")
    assert RunFolder.find("student").last.read_bytes() == before


def test_the_teacher_is_an_origin_of_the_run() -> None:
    (origin,) = weight_origins(resolved("convnet", *STUDENT, *TAUGHT), None, None)
    assert origin.about["run"] == "teacher" and origin.about["sha256"] == sha256_of_file(RunFolder.find("teacher").best)
    (origin,) = weight_origins(resolved("convnet", *STUDENT, "recipe.teacher=efficientnet-lite0"), None, None)
    assert (origin.name, origin.type) == ("efficientnet-lite0", "model")


@pytest.mark.parametrize(
    ("model", "settings", "words"),
    [
        ("softmax", ["recipe.teacher=techer"], ["recipe.teacher=techer: no run 'techer': did you mean 'teacher'?"]),
        ("softmax", ["recipe.teacher=torchvision:resnet5"], ["recipe.teacher=torchvision:resnet5", "'resnet50'"]),
        ("softmax", ["data.name=spirals", "recipe.teacher=teacher"], ["takes 1-channel images, and the data is points"]),
        ("mlp", ["data.name=shapes-labels", "recipe.teacher=teacher"], ["recipe.teacher is for classification"]),
        ("char-rnn", ["recipe.teacher=teacher"], ["recipe.teacher is for classification"]),
        ("knn", ["recipe.teacher=teacher"], ["trains in one pass"]),
        ("softmax", ["recipe.teacher_share=0.5"], ["recipe.teacher_share=0.5: needs recipe.teacher"]),
        ("softmax", ["recipe.teacher=teacher", "recipe.teacher_share=0"], ["recipe.teacher_share=0", "greater than 0"]),
        ("softmax", ["recipe.teacher=teacher", "recipe.teacher_temperature=0"], ["recipe.teacher_temperature=0"]),
    ],
)
def test_what_cannot_teach_is_refused_in_one_line_before_anything_is_written(zoo, model, settings, words) -> None:
    before = set(Path("runs").iterdir())
    answer = zoo("train", model, *flags(*settings))
    assert answer.is_one_line_error(*words), answer.err
    assert set(Path("runs").iterdir()) == before


def test_a_class_that_the_teacher_lacks_is_named() -> None:
    spec = replace(teacher().spec, classes=("0", "1", "seven"))
    with pytest.raises(UserError, match="lacks 1 of 3 classes of the data: seven; it has 0, 1, 2, 3, 4 and 5 more"):
        Distillation(scan(), "teacher", spec)


def test_a_teacher_of_deep_images_names_the_range_of_values_that_it_takes(monkeypatch) -> None:
    spec = teacher().spec
    assert Distillation(scan(), "teacher", replace(spec, value_range=(0, 4095))), "deep images become 8 bits deep"
    deep = teacher()
    deep.spec = replace(spec, value_range=(0, 4095))
    monkeypatch.setattr(distillation, "open_trained", lambda registry, name: deep)
    with pytest.raises(UserError, match=r"from 0 to 4095: set data.value_range=\[0,4095\]"):
        Distillation(scan(), "teacher", spec)
    assert Distillation(scan(), "teacher", deep.spec)


@pytest.mark.slow
@pytest.mark.parametrize("extra", ["recipe.precision=bf16", "recipe.precision=64"])
def test_a_teacher_works_in_any_precision(zoo, extra: str) -> None:
    arguments = flags(*QUICK, *STUDENT, *TAUGHT, extra)
    assert zoo("train", "convnet", *arguments, "--epochs", "1", "--name", "other").code == 0
    losses = [record.get("train/distillation") for record in read_json_lines(Path("runs/other/metrics.jsonl"))]
    assert all(0 < loss < 100 for loss in losses[:4])


@pytest.mark.slow
@pytest.mark.parametrize("command", ["diagnose", "tune"])
def test_checks_before_a_training_take_the_teacher_too(zoo, monkeypatch, command: str) -> None:
    seen, original = [], Distillation.logits
    monkeypatch.setattr(Distillation, "logits", lambda self, images: seen.append(len(images)) or original(self, images))
    assert zoo(command, "convnet", *flags("trainer.accelerator=cpu", *STUDENT[:2], *TAUGHT)).code == 0
    assert len(seen) > 10


@pytest.mark.slow
def test_a_head_on_a_frozen_backbone_learns_from_the_images_that_the_teacher_sees(zoo) -> None:
    arguments = ["--data", "digits", "--freeze", "backbone", "--epochs", "1", *flags(*QUICK, *TAUGHT), "--name", "head"]
    assert zoo("finetune", "alone", *arguments).code == 0
    assert any("train/distillation" in record for record in read_json_lines(Path("runs/head/metrics.jsonl")))
