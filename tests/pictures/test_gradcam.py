"""Grad-CAM, held against its formula worked by hand, and the feature map that it takes of each kind of network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

import zoo as zoo_package
from zoo.config.recipe import Recipe
from zoo.pictures.explained import CHARACTERS, explain
from zoo.pictures.figure import style
from zoo.pictures.gradcam import NoFeatureMap, draw_grad_cam, grad_cam, last_feature_map
from zoo.registry.registry import scan
from zoo.spec import ImageSpec
from zoo.tasks.classification import Classifier
from zoo.training.run_folder import RunFolder

SPEC = ImageSpec(3, 32, 32, classes=("cat", "dog", "eel"), mean=(0.5,) * 3, std=(0.25,) * 3)
QUICK = ["--epochs", "1", "--set", "trainer.limit_train_batches=4", "--set", "trainer.accelerator=cpu"]


class Tiny(Classifier):
    """A convolution, a ReLU in place, the mean over positions, and a linear head."""

    def __init__(self) -> None:
        super().__init__(ImageSpec(1, 6, 4, classes=("a", "b"), mean=(0.0,), std=(1 / 255,)), Recipe())
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(1, 3, 3, stride=2, padding=1), nn.ReLU(inplace=True))
        self.head = nn.Linear(3, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images).mean((2, 3)))

    def stages(self) -> dict[str, nn.Module]:
        return {"body": self.body, "head": self.head}


def test_the_map_is_that_of_the_formula() -> None:
    task = Tiny().eval()
    pixels, classes = torch.randn(4, 1, 6, 4, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 1, 0])
    maps = grad_cam(task, pixels, classes)
    features = F.conv2d(pixels, task.body[0].weight, task.body[0].bias, stride=2, padding=1).relu()  # [4, 3, 3, 2]
    expected = []
    for image, label in zip(features, classes, strict=True):
        weights = task.head.weight[label] / 6  # the score is linear in the mean of six positions
        coarse = (weights[:, None, None] * image).sum(0).relu()
        fine = F.interpolate(coarse[None, None], (6, 4), mode="bilinear")[0, 0]
        expected.append(fine / fine.max() if fine.max() > 0 else fine)
    assert torch.allclose(maps, torch.stack(expected), atol=1e-6) and maps.max() == 1
    assert all(parameter.grad is None for parameter in task.parameters())


@pytest.mark.parametrize(
    ("model", "options", "expected"),
    [
        ("resnet20", {"depth": 8, "width": 4}, lambda task, images: task.forward_features(images)),
        ("convnet", {"channels": [4, 8]}, lambda task, images: task.convolutions[1][:3](task.convolutions[0](images))),
        ("resnet18", {"depth": 10}, lambda task, images: task.network.layer3(early(task.network, images))),
        ("efficientnet-lite0", {"network": "test_efficientnet"}, lambda task, images: task.forward_features(images)),
        ("torchvision", {"network": "squeezenet1_1"}, lambda task, images: task.network.features(images)),
        ("torchvision", {"network": "densenet121"}, lambda task, images: task.network.features(images).relu()),
        ("torchvision", {"network": "convnext_tiny"}, lambda task, images: task.network.features(images)),
    ],
    ids=["resnet20", "convnet", "resnet18", "lite0", "squeezenet", "densenet", "convnext"],
)
def test_the_feature_map_is_the_last_with_several_positions(model: str, options: dict, expected) -> None:
    size = 96 if "network" in options else 32
    task = zoo_package.create_model(model, ImageSpec(3, size, size, classes=("cat", "dog")), Recipe(), **options).eval()
    images = task.example_batch(2)["images"].float()
    features, scores = last_feature_map(task, images)
    assert torch.allclose(features, expected(task, task.normalize(images)), atol=1e-5)
    assert torch.allclose(scores, task(task.normalize(images)), atol=1e-5)


def early(network: nn.Module, images: Tensor) -> Tensor:
    """Up to the third stage, as the fourth has one position on images of 32 pixels."""
    return network.layer2(network.layer1(network.maxpool(network.relu(network.bn1(network.conv1(images))))))


@pytest.mark.parametrize(
    ("model", "options", "reason"),
    [
        ("mlp", {"hidden_sizes": [4]}, "no convolution"),
        ("vit", {"patch_size": 8, "embed_dim": 16, "depth": 1}, "that are no convolutions"),
        ("timm", {"network": "test_vit"}, "that are no convolutions"),
    ],
)
def test_a_network_without_a_last_feature_map_is_refused(model: str, options: dict, reason: str) -> None:
    spec = ImageSpec(3, 160, 160, classes=("cat", "dog")) if model == "timm" else SPEC
    task = zoo_package.create_model(model, spec, Recipe(), **options).eval()
    with pytest.raises(NoFeatureMap, match=reason):
        grad_cam(task, task.example_batch(1)["images"].float(), torch.tensor([0]))


def test_maps_lie_over_their_images() -> None:
    maps = np.random.default_rng(0).random((2, 2, 4, 5))
    images = np.random.default_rng(1).random((2, 4, 5, 3))
    with style():
        figure = draw_grad_cam(images, maps, ["one", "two"], ["predicted class", "true class"], "heading")
    drawn = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in drawn[:3]] == ["image", "predicted class", "true class"]
    overlay = np.asarray(drawn[4].images[0].get_array())
    assert overlay.shape == (4, 5, 3) and np.corrcoef(overlay[..., 1].ravel(), maps[1, 0].ravel())[0, 1] > 0.8


def test_files_and_test_images_are_drawn_and_linear_networks_refused(zoo, workplace: Path) -> None:
    assert zoo("train", "convnet", *QUICK, "--set", "model.channels=[4,4]", "--name", "first").code == 0
    Image.new("L", (8, 8), 90).save("gray one.png")
    answer = zoo("picture", "gradcam", "first", "gray one.png")
    assert answer.code == 0 and answer.out.startswith("first-gradcam.png: bright regions raise the class score")
    assert "next: zoo picture gradcam first 'gray one.png' --class " in answer.out
    assert zoo("picture", "gradcam", "first", "-o", "test.png").code == 0
    Path("gray one.png").rename(long := f"{'gray ' * 20}.png")
    (title,) = explain(scan(), RunFolder.find("first"), "gradcam", [long], "best", "", [], "").titles
    assert title.count("gray") == 20 and max(map(len, title.splitlines())) <= CHARACTERS, "nothing is cut off beside an image"
    assert zoo("picture", "gradcam", "first", "--class", "sven").is_one_line_error("no class 'sven'")
    assert zoo("train", "softmax", *QUICK, "--name", "linear").code == 0
    assert zoo("picture", "gradcam", "linear").is_one_line_error("linear has no convolution", "zoo picture saliency linear")
