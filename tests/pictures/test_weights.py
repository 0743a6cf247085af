"""Pictures of weights: what is shown are the network's own numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import zoo as bestiary
from zoo.pictures.kinds import write_picture
from zoo.pictures.weights import as_images, class_templates, first_filters
from zoo.registry.registry import scan
from zoo.spec import ImageSpec
from zoo.training.checkpoints import read_checkpoint
from zoo.training.run_folder import RunFolder

SMALL = ImageSpec(3, 32, 32, classes=tuple("0123456789"))
QUICK = ["--epochs", "1", "--set", "trainer.limit_train_batches=3", "--set", "trainer.accelerator=cpu"]


def test_templates_are_rows_of_the_weights_in_the_shape_of_an_image():
    task = bestiary.create_model("softmax", ImageSpec(3, 4, 5, classes=("a", "b")))
    torch.nn.init.normal_(task.linear.weight)
    templates = class_templates(task)
    for row in range(2):
        for channel in range(3):
            for y in range(4):
                expected = task.linear.weight[row, channel * 20 + y * 5 : channel * 20 + y * 5 + 5]
                assert torch.equal(templates[row, channel, y], expected)


@pytest.mark.parametrize("name", ["mlp", "convnet"])
def test_other_networks_have_no_templates(name):
    assert class_templates(bestiary.create_model(name, SMALL)) is None


@pytest.mark.parametrize(
    ("name", "key"),
    [("convnet", "convolutions.0.0.weight"), ("resnet20", "stem.0.weight"), ("vgg11", "blocks.0.0.weight"),
     ("resnet18", "network.conv1.weight"), ("vgg11-imagenet", "network.features.0.weight")],
)  # fmt: skip
def test_filters_are_the_weights_of_the_first_convolution(name, key):
    options = {"hidden_size": 8} if name == "vgg11-imagenet" else {}
    task = bestiary.create_model(name, SMALL, **options)
    assert torch.equal(first_filters(task), task.state_dict()[key])


def test_every_convolutional_network_of_the_zoo_has_filters_that_see_the_image():
    registry = scan()
    for name in [name for name, entry in registry.models.items() if "cnn" in entry.tags and entry.task == "classification"]:
        with torch.device("meta"):
            weights = first_filters(bestiary.create_model(name, SMALL))
        assert weights.shape[1] == 3, name


def test_colors_have_gray_for_zero_and_a_scale_for_each_image():
    weights = torch.zeros(2, 3, 1, 2)
    weights[0, :, 0, 0] = torch.tensor([2.0, -1.0, 0.0])
    weights[1, 2, 0, 1] = -8.0
    images = as_images(weights)
    assert images.shape == (2, 1, 2, 3)
    assert images[0, 0, 0].tolist() == [1.0, 0.25, 0.5] and images[1, 0, 1].tolist() == [0.5, 0.5, 0.0]
    assert (images[0, 0, 1] == 0.5).all()
    assert (as_images(torch.zeros(1, 3, 2, 2)) == 0.5).all()


def test_other_channels_stay_signed_and_apart():
    weights = torch.randn(4, 2, 3, 3)
    assert np.array_equal(as_images(weights), weights.reshape(8, 3, 3).numpy())


def test_a_trained_linear_classifier_is_drawn_with_its_own_colors(zoo):
    assert zoo("train", "softmax", *QUICK, "--name", "first").code == 0
    answer = zoo("picture", "templates", "first")
    assert answer.code == 0 and "first-templates.png: " in answer.out and "next: zoo picture confusion first" in answer.out
    weight = read_checkpoint(RunFolder.find("first").best)["state_dict"]["linear.weight"]
    with Image.open("first-templates.png") as picture:
        drawn = np.asarray(picture.convert("RGB")).astype(int)
    # the weight farthest from zero, a pixel of 16 x 16 on the sheet, has the color at the end of the scale
    farthest = weight.flatten()[weight.abs().argmax()]
    end_of_the_scale = [103, 0, 31] if farthest > 0 else [5, 48, 97]
    assert (np.abs(drawn - end_of_the_scale).sum(2) <= 6).sum() >= 16 * 16
    again = write_picture(scan(), "templates", ["first"], "again.png")[0]
    assert again.read_bytes() == Path("first-templates.png").read_bytes(), "equal figures are equal files"


def test_filters_of_a_run_and_of_a_model_as_it_starts(zoo):
    assert zoo("train", "convnet", *QUICK, "--name", "first").code == 0
    small = zoo("picture", "filters", "first")
    assert small.code == 0 and "filters of 3x3 are too small" in small.out and "noise" not in small.out
    assert "filters that look like noise are hardly trained" in zoo("picture", "filters", "resnet18").out
    assert zoo("picture", "filters", "convnet", "--set", "model.channels=[7]", "--data", "cifar10", "-o", "new.png").code == 0
    trained, untrained = (Image.open(name).size for name in ("first-filters.png", "new.png"))
    assert trained != untrained


def test_what_has_no_such_weights_is_refused_in_one_line(zoo, workplace):
    assert zoo("train", "mlp", *QUICK, "--name", "first").code == 0
    assert zoo("train", "softmax", "--data", "blobs", *QUICK, "--name", "points").code == 0
    cases = {
        ("templates", "first"): ["single linear layer", "first (mlp)", "softmax"],
        ("templates", "points"): ["points", "zoo picture regions points"],
        ("filters", "first"): ["no convolution", "zoo list cnn"],
        ("filters", "mlp"): ["no convolution", "zoo list cnn"],
        ("filters", "convnet", "--data", "blobs"): ["needs images"],
        ("filters", "convnet", "--data", "digit"): ["'digits'"],
        ("filters", "convnet", "--set", "model.chanels=[3]"): ["'channels'"],
        ("filters", "convnet", "--checkpoint", "last"): ["--checkpoint needs a run"],
        ("filters", "first", "--set", "model.hidden_sizes=[3]"): ["--set is for untrained models"],
        ("filters", "firs"): ["no run or model 'firs'", "'first'"],
    }
    for arguments, words in cases.items():
        answer = zoo("picture", *arguments)
        assert answer.is_one_line_error(*words), (arguments, answer)
    assert not list(workplace.glob("*.png"))
