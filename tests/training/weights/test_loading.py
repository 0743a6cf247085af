"""Weights that were learned before: opened without running anything, and taken over whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save, save_file
from torch import nn
from torchvision import models

from zoo.config.recipe import Recipe
from zoo.config.resolution import resolve
from zoo.config.run import Run
from zoo.core.errors import UserError
from zoo.registry.registry import scan
from zoo.spec import Crop, ImageSpec
from zoo.tasks.classification import Classifier
from zoo.tasks.weights import Weights
from zoo.training import engine
from zoo.training.exported import write_exported
from zoo.training.run_folder import RunFolder
from zoo.training.weights.files import read_weights
from zoo.training.weights.loading import load_backbone, open_weights
from zoo.training.weights.published import open_published

# the smallest of each of torchvision's families, and of those with side exits both
NETWORKS = [
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet", "inception_v3", "mnasnet0_5",
    "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small", "regnet_x_400mf", "regnet_y_400mf", "resnet18", "resnext50_32x4d",
    "shufflenet_v2_x0_5", "squeezenet1_0", "squeezenet1_1", "swin_t", "swin_v2_t",
]  # fmt: skip
LARGE = {"alexnet", "convnext_tiny", "efficientnet_v2_s", "inception_v3", "resnext50_32x4d", "swin_v2_t"}
SPEC = ImageSpec(3, 96, 96, ("cat", "dog", "owl"))


def new(name: str = "torchvision", spec: ImageSpec = SPEC, **options) -> Classifier:
    return scan().model(name).load()(spec, Recipe(), **options).eval()


def in_front_of(layer: nn.Module, network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """What a layer of a network is given."""
    given = []
    layer.register_forward_pre_hook(lambda module, inputs: given.append(inputs[0]))
    with torch.no_grad():
        network(images)
    return given[0]


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in NETWORKS])
def test_torchvisions_state_dicts_fit_and_give_the_same_in_front_of_the_head(name: str) -> None:
    sideways = (
        {"aux_logits": True, "transform_input": True, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    )
    theirs = models.get_model(name, weights=None, **sideways).eval()
    task = new(network=name)
    told = load_backbone(task, Weights("the file", theirs.state_dict()))
    assert told.head == "replaced" and all(each.startswith(("aux", "AuxLogits")) for each in told.left_out)
    assert told.tensors == len(task.state_dict()) - 2
    images = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    of_ours, of_theirs = in_front_of(list(task.stages().values())[-1], task, images), None
    of_theirs = in_front_of(theirs.get_submodule(task.head), theirs, images)
    assert torch.equal(of_ours, of_theirs)
    with torch.no_grad():
        assert task(images).shape == (2, 3)
    assert task.spec.mean == (0.485, 0.456, 0.406)  # the statistics that torchvision's weights expect


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module.", "module.backbone.", "_orig_mod."])
def test_files_of_training_scripts_fit(wrapper: str | None, prefix: str, workplace: Path) -> None:
    theirs = models.shufflenet_v2_x0_5(num_classes=7)
    state = {f"{prefix}{name}": value for name, value in theirs.state_dict().items()}
    torch.save(state if wrapper is None else {"epoch": 3, wrapper: state, "optimizer": {"lr": 0.1}}, "weights.pth")
    task = new(network="shufflenet_v2_x0_5")
    load_backbone(task, read_weights(Path("weights.pth")))
    body = {name: value for name, value in theirs.state_dict().items() if not name.startswith("fc.")}
    assert all(torch.equal(task.state_dict()[f"network.{name}"], value) for name, value in body.items())
    assert not task.network.fc.weight.any()  # the head starts at zero


def test_safetensors_and_old_files_fit(workplace: Path) -> None:
    theirs = models.shufflenet_v2_x0_5()
    save_file(theirs.state_dict(), "weights.safetensors")
    torch.save(theirs.state_dict(), "old.pth", _use_new_zipfile_serialization=False)
    without_counters = {name: value for name, value in theirs.state_dict().items() if "num_batches" not in name}
    torch.save(without_counters, "older.pth")  # as before torch 0.4.1
    for file in ("weights.safetensors", "old.pth", "older.pth"):
        task = new(network="shufflenet_v2_x0_5")
        load_backbone(task, read_weights(Path(file)))
        assert torch.equal(task.network.conv5[0].weight, theirs.conv5[0].weight)


def test_what_does_not_fit_is_told_exactly_and_nothing_is_taken_over() -> None:
    task = new(network="resnet18")
    before = {name: value.clone() for name, value in task.state_dict().items()}
    state = models.resnet18().state_dict()
    state["layer1.0.conv1.weight"] = torch.zeros(64, 64, 1, 1)
    state["layer9.weight"] = state.pop("layer2.0.bn1.bias")
    with pytest.raises(UserError) as refused:
        load_backbone(task, Weights("w.pth", state))
    assert str(refused.value) == (
        "w.pth does not fit this network, nothing was loaded: 1 missing: layer2.0.bn1.bias; "
        "1 unexpected: layer9.weight; "
        "1 of another shape: layer1.0.conv1.weight 64x64x1x1 instead of 64x64x3x3"
    )
    assert all(torch.equal(value, before[name]) for name, value in task.state_dict().items())
    state = models.resnet18().state_dict()
    state["conv1.weight"][0, 0, 0, 0] = float("nan")
    with pytest.raises(UserError, match="w.pth contains non-finite values, nothing was loaded: conv1.weight"):
        load_backbone(task, Weights("w.pth", state))
    with pytest.raises(UserError, match="does not fit this network, nothing was loaded: 100 missing"):
        load_backbone(task, Weights("w.pth", models.squeezenet1_1().state_dict()))


class Runs:
    """What would run if it were unpickled."""

    def __reduce__(self):
        return os.mkdir, ("ran",)


def test_files_that_are_no_weights_are_refused_in_one_line(workplace: Path) -> None:
    torch.save({"state_dict": Runs()}, "pickle.pth")
    torch.save(models.shufflenet_v2_x0_5().state_dict(), "whole.pth")
    save_file({"a": torch.zeros(4)}, "whole.safetensors")
    for suffix in ("pth", "safetensors"):
        content = Path(f"whole.{suffix}").read_bytes()
        Path(f"cut.{suffix}").write_bytes(content[: len(content) // 2])
    Path("text.pth").write_text("weights")
    Path("empty.pth").write_bytes(b"")
    torch.save({"epoch": 3}, "nothing.pth")
    torch.save([torch.zeros(3)], "list.pth")
    for file, message in {
        "pickle.pth": "pickle.pth is refused: it would run posix.mkdir, but weights are plain data",
        "cut.pth": "cut.pth is damaged or not a weight file",
        "cut.safetensors": "cut.safetensors is damaged or not a weight file",
        "text.pth": "text.pth is damaged or not a weight file",
        "empty.pth": "empty.pth is damaged or not a weight file",
        "nothing.pth": "nothing.pth contains no weights",
        "list.pth": "list.pth contains no weights",
        "absent.pth": "absent.pth: no such file",
    }.items():
        with pytest.raises(UserError, match=f"(?i)^{message}") as refused:
            read_weights(Path(file))
        assert "\n" not in str(refused.value)
    assert not Path("ran").exists()


def run(*settings: dict) -> Run:
    return resolve(scan(), "resnet20", {}, [{"model": {"width": 4}, "recipe": {"epochs": 1}}, *settings])


def test_a_run_its_checkpoint_and_its_export_begin_alike(workplace: Path) -> None:
    once = {"trainer": {"limit_train_batches": 2, "limit_val_batches": 1, "limit_test_batches": 1, "accelerator": "cpu"}}
    engine.train(scan(), run(once), "base")
    best = RunFolder.find("base").best
    checkpoint = torch.load(best, weights_only=True)
    write_exported(checkpoint, Path("base.safetensors"))
    states = []
    for source in ("base", str(best), "base.safetensors"):
        weights = open_weights(scan(), run({"recipe": {"weights": source}}))
        assert (weights.spec.height, weights.spec.mean) == (8, tuple(checkpoint["bestiary"]["spec"]["mean"]))
        task = new("resnet20", ImageSpec(1, 8, 8, ("odd", "even")), width=4)
        load_backbone(task, weights)
        assert task.spec.mean == weights.spec.mean and torch.allclose(
            task.input_shift.flatten()[0], -torch.tensor(weights.spec.mean[0] / weights.spec.std[0])
        )
        states.append(task.state_dict())
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]) and torch.equal(value, states[2][name])
        assert name in task.head_names() or torch.equal(value, checkpoint["state_dict"][name])


def test_gray_images_take_the_mean_of_the_colors() -> None:
    task = new(network="shufflenet_v2_x0_5", spec=ImageSpec(1, 64, 64, ("cat", "dog")))
    load_backbone(task, Weights("w", models.shufflenet_v2_x0_5().state_dict()))
    assert task.spec.mean == pytest.approx((0.449,)) and task.spec.std == pytest.approx((0.226,))


def test_without_network_it_is_said_which_file_belongs_where(hub, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(workplace / "torch"))
    of_torchvision = resolve(scan(), "torchvision", {}, [{"recipe": {"weights": "torchvision:resnet18.IMAGENET1K_V1"}}])
    with pytest.raises(UserError, match=r"resnet18-f37072fd.pth could not be fetched.*put it at .*begins with f37072fd"):
        open_weights(scan(), of_torchvision)
    of_timm = resolve(scan(), "timm", {}, [{"model": {"network": "resnet18"}, "recipe": {"weights": "timm:resnet18"}}])
    with pytest.raises(
        UserError, match=r"timm:resnet18 could not be fetched.*: set HF_HOME .* or name a file of weights with --weights FILE"
    ):
        open_weights(scan(), of_timm)


@pytest.mark.parametrize(("model", "source"), [("resnet18", "timm:resnet18"), ("test_vit", "hf-hub:someone/tiny")])
def test_a_hub_that_cannot_be_reached_is_asked_once(hub, monkeypatch: pytest.MonkeyPatch, model: str, source: str) -> None:
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    def wait(seconds: float) -> None:
        raise AssertionError(f"waits {seconds} s to ask again")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # where nothing listens
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(_http.time, "sleep", wait)
    _http.close_session()
    named = resolve(scan(), "timm", {}, [{"model": {"network": model}, "recipe": {"weights": source}}])
    with pytest.raises(UserError, match=rf"^{source} could not be fetched \(ConnectError: .*: set HF_HOME .* --weights FILE$"):
        open_weights(scan(), named)


def test_timms_weights_come_from_the_cache_of_the_hub_with_their_statistics(hub) -> None:
    import timm

    config = timm.get_pretrained_cfg("test_vit")
    theirs = timm.create_model("test_vit", num_classes=1000).eval()
    folder = hub(config.hf_hub_id, model_safetensors=save(theirs.state_dict()))
    weights = open_weights(scan(), resolve(scan(), "timm", {}, [{"recipe": {"weights": "timm:test_vit"}}]))
    size = config.input_size[1]
    assert (weights.spec.height, weights.spec.crop.interpolation) == (size, config.interpolation)
    task = new("timm", ImageSpec(3, size, size, ("cat", "dog")), network="test_vit")
    load_backbone(task, weights)
    assert task.spec.mean == config.mean
    images = torch.randn(2, 3, size, size)
    ours, of_theirs = in_front_of(task.network.head, task, images), in_front_of(theirs.head, theirs, images)
    assert torch.equal(ours, of_theirs)
    [blob] = (folder / "blobs").iterdir()
    blob.write_bytes(blob.read_bytes()[:-1])
    with pytest.raises(UserError, match="model.safetensors is damaged: its SHA-256 is not"):
        open_weights(scan(), resolve(scan(), "timm", {}, [{"recipe": {"weights": "timm:test_vit"}}]))


@pytest.mark.parametrize("name", ["hf-hub:someone/tiny", "timm:hf-hub:someone/tiny"])
def test_a_repository_of_the_hub_brings_its_network_arguments_and_classes(hub, name: str) -> None:
    import timm

    theirs = timm.create_model("test_vit", num_classes=3, class_token=False, global_pool="avg").eval()
    config = {
        "architecture": "test_vit", "num_classes": 3, "label_names": ["ant", "bee", "fly"],
        "model_args": {"class_token": False, "global_pool": "avg"},
        "pretrained_cfg": {"input_size": [3, 160, 160], "mean": [0.1] * 3, "std": [0.2] * 3, "classifier": "head"},
    }  # fmt: skip
    hub("someone/tiny", config_json=json.dumps(config).encode(), model_safetensors=save(theirs.state_dict()))
    task, run = open_published(scan(), name)
    assert task.spec.classes == ("ant", "bee", "fly") and task.spec.mean == (0.1,) * 3 and task.spec.shape == (3, 160, 160)
    assert run.model == {"name": "timm", "network": "test_vit", "network_args": config["model_args"]}
    images = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        torch.testing.assert_close(task(images), theirs(images))


def test_torchs_own_cache_is_looked_into(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(workplace))
    theirs = models.squeezenet1_1()
    torch.save(theirs.state_dict(), "content")
    digits = hashlib.sha256(Path("content").read_bytes()).hexdigest()[:8]
    listed = models.SqueezeNet1_1_Weights.DEFAULT
    of_this_file = replace(listed.value, url=f"https://download.pytorch.org/models/squeezenet1_1-{digits}.pth")
    monkeypatch.setattr(listed, "_value_", of_this_file)
    Path("hub/checkpoints").mkdir(parents=True)
    Path("content").rename(f"hub/checkpoints/squeezenet1_1-{digits}.pth")
    task, _ = open_published(scan(), "torchvision:squeezenet1_1")
    assert all(torch.equal(task.state_dict()[f"network.{name}"], value) for name, value in theirs.state_dict().items())
    assert task.spec.classes == tuple(listed.meta["categories"]) and task.spec.crop == Crop("center", 224 / 256, "bilinear")
