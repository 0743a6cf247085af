"""Fine-tuning: what is trained when and at what rate, frozen statistics, kept features, and the command as a whole."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn
from torchvision import models

from zoo.api.trained import load
from zoo.config.resolution import resolve
from zoo.config.run import Run
from zoo.config.settings import parse_setting
from zoo.registry.registry import scan
from zoo.tasks.records import Diverged
from zoo.training import building, engine
from zoo.training.finetuning import resolve_finetuning
from zoo.training.run_folder import RunFolder
from zoo.training.stage_plan import count_trained, describe_plan, stage_plan

QUICK = [
    "trainer.limit_train_batches=3",
    "trainer.limit_val_batches=1",
    "trainer.limit_test_batches=1",
    "trainer.accelerator=cpu",
]
BASE = ["model.width=4", "recipe.batch_size=64", *QUICK]


@pytest.fixture(autouse=True)
def base(workplace: Path) -> Path:
    """A state dict of a small network, as if it had been trained."""
    task = building.build_task(scan(), run(), building.open_data(scan(), run()).spec)
    for module in task.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, 0.1, 0.5)
    torch.save(task.state_dict(), "base.pth")
    return workplace / "base.pth"


def run(*settings: str) -> Run:
    return resolve(scan(), "resnet20", {}, [parse_setting(text) for text in [*BASE, *settings]])


def finetuned(*settings: str) -> Run:
    layers = [parse_setting(text) for text in [*BASE, *settings]]
    return resolve_finetuning(scan(), "resnet20", "base.pth", {}, layers)


class Recorder(L.Callback):
    """What is trained in each epoch, and at what rates in each step."""

    def __init__(self) -> None:
        self.trained: list[list[str]] = []
        self.rates: list[dict[str, float]] = []
        self.modes: list[list[str]] = []

    def on_train_batch_start(self, trainer: L.Trainer, task: Any, batch: Any, batch_idx: int) -> None:
        stages = task.stages()
        if batch_idx == 0:
            learns = {name: {parameter.requires_grad for parameter in stage.parameters()} for name, stage in stages.items()}
            assert all(len(each) == 1 for each in learns.values())
            self.trained.append([name for name, each in learns.items() if each == {True}])
            self.modes.append([name for name, stage in stages.items() if any(module.training for module in stage.modules())])
        groups = trainer.optimizers[0].param_groups
        assert sum(len(group["params"]) for group in groups) == len(list(task.parameters()))
        self.rates.append({group["name"]: group["lr"] for group in groups if "name" in group})


def test_groups_rates_and_gradients_equal_the_plan_in_every_epoch() -> None:
    what = finetuned("recipe.freeze=epochs:1+2", "recipe.epochs=4", "recipe.layer_decay=0.5", "recipe.lr=0.1",
                     "recipe.schedule=constant", "recipe.warmup_epochs=0")  # fmt: skip
    recorder = Recorder()
    engine.train(scan(), what, "tuned", callbacks=[recorder])
    assert recorder.trained == [["head"], ["stage3", "head"], ["stage3", "head"], ["stage2", "stage3", "head"]]
    assert recorder.modes == recorder.trained  # what is frozen runs as in evaluation, in spite of every train()
    rates = {"stem": 0.00625, "stage1": 0.0125, "stage2": 0.025, "stage3": 0.05, "head": 0.1}
    assert recorder.rates == [pytest.approx(rates)] * 12
    task = building.build_task(scan(), what, building.open_data(scan(), what).spec)
    plan = stage_plan(task)
    assert {stage.name: stage.lr for stage in plan} == pytest.approx(rates)
    assert [stage.first_epoch for stage in plan] == [None, None, 4, 2, 1]  # the first two would thaw after the end
    assert sum(stage.parameters for stage in plan) == sum(parameter.numel() for parameter in task.parameters())
    assert count_trained(task) == sum(stage.parameters for stage in plan[2:])
    assert (
        describe_plan(plan)
        == "trained: the head alone at first, the rest stage by stage from epoch 2 to 4; lr from 0.025 (stage2) to 0.1 (head)"
    )


def of_batch_norms(state: dict[str, torch.Tensor], stages: tuple[str, ...]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in state.items() if name.startswith(stages) and "running" in name}


@pytest.mark.parametrize(("norms", "moves"), [("keep", False), ("update", True)])
def test_statistics_of_frozen_stages_move_only_if_asked(norms: str, moves: bool, base: Path) -> None:
    before = torch.load(base, weights_only=True)
    engine.train(scan(), finetuned("recipe.freeze=until:stage2", "recipe.epochs=2", f"recipe.frozen_norms={norms}"), "tuned")
    after = torch.load(RunFolder.find("tuned").last, weights_only=True)["state_dict"]
    frozen, trained = ("stem", "stage1", "stage2"), ("stage3",)
    assert of_batch_norms(after, frozen) and of_batch_norms(after, trained)
    assert all(torch.equal(value, before[name]) != moves for name, value in of_batch_norms(after, frozen).items())
    assert all(not torch.equal(value, before[name]) for name, value in of_batch_norms(after, trained).items())
    for name, value in after.items():
        if name.startswith(frozen) and "running" not in name and "tracked" not in name:
            assert torch.equal(value, before[name]), f"{name} was trained"


def test_a_head_learns_the_same_from_kept_features_as_from_images(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ("recipe.freeze=backbone", "recipe.epochs=3", "data.augment=none")
    outcomes = {"kept": engine.train(scan(), finetuned(*settings), "kept")}
    with monkeypatch.context() as without:
        without.setattr("zoo.tasks.classification.Classifier.prepare", lambda self, data: None)
        outcomes["seen"] = engine.train(scan(), finetuned(*settings), "seen")
    states = [torch.load(RunFolder.find(name).last, weights_only=True)["state_dict"] for name in outcomes]
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=1e-4, atol=1e-6)
    assert outcomes["kept"].test == pytest.approx(outcomes["seen"].test, rel=1e-4)
    # what was trained on features is a whole network
    tested = load("kept").test(settings=["trainer.limit_test_batches=1"])
    assert {name: tested[name] for name in outcomes["kept"].test} == pytest.approx(outcomes["kept"].test, rel=1e-4)


def test_images_are_looked_at_once_where_nothing_in_front_of_the_head_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []
    cls = scan().model("resnet20").load()
    original = cls.forward
    monkeypatch.setattr(cls, "forward", lambda self, images: (looked.append(len(images)), original(self, images))[1])
    settings = ("recipe.freeze=backbone", "recipe.epochs=3", "data.augment=none")
    engine.train(scan(), finetuned(*settings), "first")
    images = sum(looked)
    assert images == 1797 + 2  # all digits, and two to see what follows the features
    engine.train(scan(), finetuned(*settings, "recipe.lr=0.1"), "second")
    assert sum(looked) == images + 2  # found where they were put
    engine.train(scan(), finetuned(*settings, "data.augment=crop:1", "recipe.epochs=1"), "augmented")
    assert sum(looked) > images + 4


def test_dropout_in_front_of_a_head_goes_on_behind_kept_features() -> None:
    what = resolve(scan(), "torchvision", {}, [{"model": {"network": "mobilenet_v3_small"}, "recipe": {"freeze": "backbone"}}])
    task = building.build_task(scan(), what, building.open_data(scan(), what).spec).eval()
    with torch.no_grad():
        after = task._what_follows_the_features()
    assert [type(module) for module in after] == [nn.Dropout, nn.Linear]
    # a convolutional head has layers behind it
    what = resolve(scan(), "torchvision", {}, [{"model": {"network": "squeezenet1_1"}, "recipe": {"freeze": "backbone"}}])
    after = building.build_task(scan(), what, building.open_data(scan(), what).spec).eval()._what_follows_the_features()
    assert [type(module) for module in after] == [nn.Dropout, nn.Conv2d, nn.ReLU, nn.AdaptiveAvgPool2d, nn.Flatten]


# ---------------------------------------------------------------------------------------------- the command


def photographs(root: Path, count: int = 12, size: int = 40) -> Path:
    """Pictures of two kinds: striped across, and down."""
    generator = np.random.default_rng(0)
    for name in ("across", "down"):
        (root / name).mkdir(parents=True)
        for number in range(count):
            stripes = np.tile(np.sin(np.arange(size) * generator.uniform(0.5, 1) + generator.uniform(0, 6)), (size, 1))
            gray = (stripes if name == "down" else stripes.T) * 100 + 128 + generator.normal(0, 10, (size, size))
            Image.fromarray(gray.clip(0, 255).astype(np.uint8)).convert("RGB").save(root / name / f"{number}.png")
    return root


def test_a_folder_of_photographs_from_one_end_to_the_other(zoo, workplace: Path) -> None:
    root = photographs(workplace / "photos")
    torch.save(models.shufflenet_v2_x0_5().state_dict(), "shuffle.pth")
    common = ("torchvision:shufflenet_v2_x0_5", "--weights", "shuffle.pth", "--data", "folder", "--set", f"data.root={root}")
    small = (*common, "--set", "data.size=32")
    answer = zoo("finetune", *small, "--freeze", "backbone", "--epochs", "2", "--name", "head")
    assert answer.code == 0, answer.err
    assert "from shuffle.pth; its head was replaced" in answer.err and "trained: the head alone, 2,050 of" in answer.err
    assert "next: zoo predict head IMAGE..." in answer.out
    assert json.loads(Path("runs/head/environment.json").read_text())["trained_parameters"] == 2050
    spec = torch.load(RunFolder.find("head").best, weights_only=True)["bestiary"]["spec"]
    assert list(spec["classes"]) == ["across", "down"] and list(spec["mean"]) == [0.485, 0.456, 0.406]
    assert zoo("predict", "head", root / "down" / "0.png").code == 0
    # the size of the images is that of the weights if nobody says otherwise
    plan = zoo("finetune", *common, "--plan", "--json", "--freeze", "epochs:3")
    stages = json.loads(plan.out)
    assert [stage["first_epoch"] for stage in stages] == [4] * 5 + [1] and not Path("runs/plan").exists()
    # and a run is a backbone for the next one
    again = zoo("finetune", "head", "--data", "folder", "--set", f"data.root={root}", "--freeze", "backbone", "--epochs", "1")
    assert again.code == 0 and "from the run head" in again.err
    [folder] = [path for path in Path("runs").iterdir() if path.name != "head"]
    assert RunFolder(folder).read_run().data["size"] == 32
    shown = zoo("finetune", *small, "--plan", "--epochs", "3")
    assert f"next: zoo finetune {shlex.join([*map(str, small), '--epochs', '3'])}" in shown.out
    assert "batch norms in frozen stages keep their statistics" in shown.out and "stage2" in shown.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["resnet20x"], ["no model, backbone or run 'resnet20x'", "did you mean 'resnet20'"]),
        (["resnet20"], ["resnet20 comes without weights", "--weights"]),
        (["char-lstm"], ["char-lstm"]),
        (["torchvision:resnet51"], ["no network of torchvision with weights 'resnet51'", "'resnet50'"]),
        (["torchvision:resnet50.IMAGENET1K_V3"], ["no weights of torchvision's resnet50 'IMAGENET1K_V3'", "'IMAGENET1K_V2'"]),
        (["timm:resnet51"], ["no network of timm with weights 'resnet51'", "'resnet50'"]),
        (["timm:zzzzz"], ["no network of timm with weights 'zzzzz': `zoo list --pretrained` shows them all"]),
        (["resnet32", "--weights", "base.pth", "--plan"], ["base.pth does not fit", "of another shape"]),
        (["base.pth"], ["base.pth does not name the network", "--weights base.pth"]),
        (["resnet20", "--weights", "none.pth"], ["--weights none.pth: no such file"]),
        (["resnet20", "--weights", "base.pth", "--freeze", "backbon"], ["recipe.freeze=backbon", "backbone"]),
        (["resnet20", "--weights", "base.pth", "--data", "digit"], ["no data set 'digit'", "digits"]),
        (["resnet20", "--weights", "base.pth", "--set", "recipe.layer_decay=2"], ["recipe.layer_decay=2"]),
        (
            ["resnet20", "--weights", "base.pth", "--plan", "--freeze", "until:stage", "--set", "model.width=4"],
            ["no stage 'stage'", "stage1"],
        ),
        (["resnet32", "--weights", "base.pth"], ["base.pth does not fit", "missing"]),
    ],
    ids=lambda value: " ".join(value) if len(value) < 6 else None,
)
def test_bad_input_gets_one_line_and_leaves_nothing_behind(zoo, arguments: list[str], words: list[str]) -> None:
    assert zoo("finetune", *arguments).is_one_line_error(*words)
    assert not Path("runs").exists() or not list(Path("runs").iterdir())


def test_a_rate_is_searched_as_the_fine_tuning_would_begin(zoo) -> None:
    tuned = ["--weights", "base.pth", "--freeze", "backbone", "--set", "model.width=4", "--set", "data.size=8"]
    answer = zoo("tune", "resnet20", *tuned, "--only", "lr")
    assert answer.code == 0 and "its head was replaced" in answer.err
    assert answer.out.splitlines()[-1].startswith(f"next: zoo finetune resnet20 {' '.join(tuned)} --set recipe.lr=")
    assert zoo("tune", "resnt20").is_one_line_error("no model, backbone or run 'resnt20': did you mean 'resnet20'?")


def test_a_plan_without_weights_is_warned_of(zoo) -> None:
    quick = [word for text in (*BASE, "recipe.epochs=1") for word in ("--set", text)]
    answer = zoo("train", "resnet20", "--set", "recipe.freeze=backbone", *quick)
    assert answer.code == 0 and "warning: recipe.freeze=backbone without recipe.weights" in answer.err


def test_a_fault_before_anything_was_saved_offers_no_resume(zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise Diverged("the loss is not finite")

    monkeypatch.setattr("zoo.tasks.classification.Classifier.training_step", fail)
    answer = zoo("train", "softmax", "--name", "lost")
    assert answer.is_one_line_error("zoo train --config runs/lost/run.yaml --set") and "--resume" not in answer.err


def test_too_few_images_to_hold_some_out_are_said_before_anything_is_trained(zoo, workplace: Path) -> None:
    root = photographs(workplace / "photos", count=1)
    given = ("--set", f"data.root={root}", "--set", "data.channels=3")
    answer = zoo("finetune", "resnet20", "--weights", "base.pth", "--data", "folder", *given)
    assert answer.is_one_line_error("none of 2 images is held out", "data.test=0.")


def test_a_head_is_kept_on_the_command_line(zoo) -> None:
    settings = ("--weights", "base.pth", "--set", "model.width=4", "--plan")
    kept = zoo("finetune", "resnet20", *settings, "--keep-head")
    assert kept.code == 0 and "its head was kept" in kept.out


def test_a_network_whose_features_are_not_cached_says_so(zoo) -> None:
    torch.save(timm.create_model("test_efficientnet").state_dict(), "w.pth")
    quick = [word for text in (*QUICK, "data.size=32") for word in ("--set", text)]
    command = ("finetune", "timm:test_efficientnet", "--weights", "w.pth", "--freeze", "backbone", "--epochs", "1", *quick)
    assert "not cached" not in zoo(*command).err
    answer = zoo(*command, "--set", "model.drop_rate=0.5")
    assert answer.code == 0 and "features of the frozen backbone are not cached" in answer.err


def test_weights_are_listed_without_importing_their_libraries(zoo) -> None:
    listed = json.loads(zoo("list", "--pretrained", "--json").out)
    names = {each["name"]: each for each in listed}
    assert "efficientnet-lite0" in names and "timm:resnet50.a1_in1k" in names
    theirs = {
        f"torchvision:{name}.{weights.name}": weights
        for name in models.list_models(module=models)
        for weights in models.get_model_weights(name)
        if weights.name != "IMAGENET1K_FEATURES"  # has no numbers behind its features
    }
    assert {name for name in names if name.startswith("torchvision:")} == set(theirs)
    for name, weights in theirs.items():
        assert (names[name]["size"], names[name]["source"]) == (weights.transforms().crop_size[0], weights.url)
        assert names[name]["accuracy"] == weights.meta["_metrics"]["ImageNet-1K"]["acc@1"]
        assert names[name]["is_default"] == (weights is type(weights).DEFAULT)
    import timm

    known = set(timm.list_models(pretrained=True))
    found = {name.removeprefix("timm:") for name in names if name.startswith("timm:")}
    assert len(found - known) < 5 and len(known - found) < 0.05 * len(known)  # what it declares in other ways is left out
    assert zoo("list", "--pretrained", "nonsense").is_one_line_error("no weights match 'nonsense'")
