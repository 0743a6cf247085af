"""Weights of library networks go to torchvision and timm and come back, with the same logits."""

from __future__ import annotations

import copy
import json
from collections import OrderedDict
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from PIL import Image
from torch import nn

from zoo.config.resolution import resolve
from zoo.export import export
from zoo.export.formats import FORMATS
from zoo.registry.registry import scan
from zoo.spec import Crop, ImageSpec, spec_to_primitives
from zoo.tasks.classification import Classifier
from zoo.training import building
from zoo.training.checkpoints import FORMAT, KEY
from zoo.training.exported import read_exported
from zoo.training.weights.files import read_weights
from zoo.training.weights.loading import load_backbone

REGISTRY = scan()
TORCHVISION = [
    "shufflenet_v2_x0_5", "squeezenet1_1", "mnasnet0_5", "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0",
    "efficientnet_v2_s", "googlenet", "inception_v3", "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small",
    "regnet_x_400mf", "regnet_y_400mf", "resnet18", "resnext50_32x4d", "swin_t", "swin_v2_t", "vit_b_16",
]  # fmt: skip
TIMM = [
    "test_vit", "test_efficientnet", "test_convnext", "test_resnet", "resnet10t", "mobilenetv3_small_050",
    "deit_tiny_patch16_224", "ghostnet_100", "lcnet_050", "regnetx_002",
]  # fmt: skip
NETWORKS = [
    pytest.param(library, name, marks=[pytest.mark.slow] if place >= fast else [], id=f"{library}-{name}")
    for library, names, fast in (("torchvision", TORCHVISION, 3), ("timm", TIMM, 2))
    for place, name in enumerate(names)
]
OWN = {  # models of the zoo that are a library's network, and what it is there
    "resnet50": lambda: torchvision.models.get_model("resnet50", weights=None, num_classes=3),
    "vgg11-bn-imagenet": lambda: torchvision.models.get_model("vgg11_bn", weights=None, num_classes=3),
    "vit-b16-imagenet": lambda: torchvision.models.get_model("vit_b_16", weights=None, num_classes=3, image_size=64),
    "efficientnet-lite0": lambda: timm.create_model("tf_efficientnet_lite0", num_classes=3),
}


def spec_for(name: str) -> ImageSpec:
    """Small images, of a side that the network can take."""
    side = {"inception_v3": 96, "test_vit": 160, "deit_tiny_patch16_224": 224}.get(name, 64)
    return ImageSpec(3, side, side, ("cat", "dog", "owl"), (0.5, 0.4, 0.3), (0.2, 0.3, 0.25))


def randomized(network: nn.Module) -> nn.Module:
    """Random heads, norms and statistics too, so that each tensor counts for the logits."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if name.endswith("running_var") or (value.ndim == 1 and name.endswith("weight")):
                value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
            elif value.ndim == 1 or (value.is_floating_point() and not value.any()):  # biases and heads
                value.copy_(torch.randn(value.shape, generator=generator) * 0.1)
    return network.eval()


def trained(name: str, spec: ImageSpec, **options: object) -> tuple[Classifier, dict]:
    """A network, and its checkpoint as plain data."""
    run = resolve(REGISTRY, name, {}, [{"model": options}])
    task = building.build_task(REGISTRY, run, spec)
    randomized(task)
    about = {"format": FORMAT, "run": run.model_dump(mode="json"), "spec": spec_to_primitives(spec)}
    return task, {KEY: about, "state_dict": task.state_dict()}


def logits(network: nn.Module, spec: ImageSpec) -> torch.Tensor:
    images = torch.randn(2, *spec.shape, generator=torch.Generator().manual_seed(0))
    network = copy.deepcopy(network).to(memory_format=torch.contiguous_format)  # the order of summation depends on it
    with torch.no_grad():
        return network.eval()(images)


def library_network(library: str, name: str, spec: ImageSpec) -> nn.Module:
    """The network as its library builds it for these images."""
    if library == "timm":
        return timm.create_model(name, num_classes=3)
    sideways = {"aux_logits": False, "transform_input": True, "init_weights": False}
    options = sideways if name in ("googlenet", "inception_v3") else {}
    if name.startswith("vit"):
        options = {"image_size": spec.height}
    return torchvision.models.get_model(name, weights=None, num_classes=3, **options)


@pytest.mark.parametrize(("library", "name"), NETWORKS)
def test_weights_saved_here_load_there_and_back_with_equal_logits(workplace: Path, library: str, name: str) -> None:
    spec = spec_for(name)
    task, checkpoint = trained(library, spec, network=name)
    torch.save(checkpoint, "best.ckpt")
    done = export.export(REGISTRY, Path("best.ckpt"), FORMATS["safetensors"], Path("net.safetensors"), "net", {}, "")
    expected = logits(task, spec)
    theirs = library_network(library, name, spec)
    state = OrderedDict(safetensors.torch.load_file("net.safetensors"))
    state._metadata = theirs.state_dict()._metadata if "mnasnet" in name else None  # it asks for versions of layers
    theirs.load_state_dict(state)  # strict
    assert torch.equal(logits(theirs, spec), expected)
    names: dict[str, object] = {}
    exec(done.loading, names)  # the line that the command prints
    assert torch.equal(logits(names["network"], spec), logits(theirs, spec))
    again = read_exported(Path("net.safetensors"))["state_dict"]
    assert again.keys() == checkpoint["state_dict"].keys()
    back, _ = building.load_task(REGISTRY, read_exported(Path("net.safetensors")), Path("net.safetensors"))
    assert torch.equal(logits(back, spec), expected)


@pytest.mark.parametrize(("library", "name"), NETWORKS)
def test_weights_saved_there_load_here_with_equal_logits(workplace: Path, library: str, name: str) -> None:
    spec = spec_for(name)
    theirs = randomized(library_network(library, name, spec))
    safetensors.torch.save_model(theirs, "theirs.safetensors")
    task, _ = trained(library, spec, network=name)
    load_backbone(task, read_weights(Path("theirs.safetensors")))
    # a new head is what fine-tuning starts with: the comparison is of the rest
    task.network.get_submodule(task.head).load_state_dict(theirs.get_submodule(task.head).state_dict())
    assert torch.equal(logits(task, spec), logits(theirs, spec))


@pytest.mark.slow
@pytest.mark.parametrize("name", OWN)
def test_networks_under_names_of_the_zoo_go_to_their_library_too(workplace: Path, name: str) -> None:
    spec = spec_for(name)
    task, checkpoint = trained(name, spec)
    torch.save(checkpoint, "best.ckpt")
    done = export.export(REGISTRY, Path("best.ckpt"), FORMATS["safetensors"], Path("net.safetensors"), "net", {}, "")
    theirs = OWN[name]()
    theirs.load_state_dict(safetensors.torch.load_file("net.safetensors"))
    assert torch.equal(logits(theirs, spec), logits(task, spec))
    names: dict[str, object] = {}
    exec(done.loading, names)
    assert torch.equal(logits(names["network"], spec), logits(theirs, spec))


def test_networks_that_no_library_has_keep_their_names_and_promise_nothing(workplace: Path) -> None:
    for name, options in (("resnet18", {"depth": 10}), ("resnet20", {"width": 4})):
        task, checkpoint = trained(name, spec_for(name), **options)
        torch.save(checkpoint, "best.ckpt")
        done = export.export(REGISTRY, Path("best.ckpt"), FORMATS["safetensors"], Path("net.safetensors"), "net", {}, "")
        assert done.loading == "" and "alone" not in done.card.read_text()
        assert safetensors.torch.load_file("net.safetensors").keys() == task.state_dict().keys()


def test_files_written_with_the_names_of_the_module_still_load(workplace: Path) -> None:
    spec = spec_for("squeezenet1_1")
    task, checkpoint = trained("torchvision", spec, network="squeezenet1_1")
    about = {KEY: json.dumps(checkpoint[KEY])}
    safetensors.torch.save_file({name: value.contiguous() for name, value in task.state_dict().items()}, "old.safetensors", about)
    back, _ = building.load_task(REGISTRY, read_exported(Path("old.safetensors")), Path("old.safetensors"))
    assert torch.equal(logits(back, spec), logits(task, spec))


@pytest.mark.parametrize(("library", "network"), [("torchvision", "squeezenet1_1"), ("timm", "test_efficientnet")])
@pytest.mark.parametrize(("channels", "mode"), [(1, "fit"), (3, "center"), (3, "squash")])
def test_the_program_on_the_card_needs_the_library_alone(
    zoo, workplace: Path, library: str, network: str, channels: int, mode: str
) -> None:
    spec = ImageSpec(channels, 64, 64, ("cat", "dog", "owl"), (0.4,) * channels, (0.3,) * channels, Crop(mode, 0.8, "bicubic"))
    _, checkpoint = trained(library, spec, network=network)
    torch.save(checkpoint, "best.ckpt")
    done = export.export(REGISTRY, Path("best.ckpt"), FORMATS["safetensors"], Path("net.safetensors"), "net", {}, "")
    Image.effect_noise((90, 70), 90).convert("RGB").save("photo.jpg")
    (said,) = json.loads(zoo("predict", "net.safetensors", "photo.jpg", "--json").out)
    program = done.card.read_text().partition("```python\n")[2].partition("```")[0]
    assert "zoo" not in program and "bestiary" not in program
    with redirect_stdout(StringIO()) as out:
        exec(program, {})
    printed = dict(line.split(": ") for line in out.getvalue().splitlines())
    for entry in said["top"]:
        assert float(printed[entry["class"]]) == pytest.approx(entry["probability"], abs=2e-4)
