"""Saliency, held against gradients that are worked by hand: of a linear classifier, and of one that squares its pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import zoo as zoo_package
from zoo.config.recipe import Recipe
from zoo.pictures.figure import style
from zoo.pictures.saliency import draw_saliency, saliency_map, score_gradients, smooth_gradients
from zoo.spec import ImageSpec
from zoo.tasks.classification import Classifier

SPEC = ImageSpec(3, 4, 5, classes=("cat", "dog", "eel"), mean=(0.2, 0.5, 0.7), std=(0.1, 0.3, 0.25))
QUICK = ["--epochs", "1", "--set", "trainer.limit_train_batches=4", "--set", "trainer.accelerator=cpu"]
SCALE = 1 / (255 * np.array(SPEC.std)).reshape(3, 1, 1)  # what a step of one pixel is to the network


def images(n: int = 3) -> Tensor:
    return torch.randint(0, 256, (n, *SPEC.shape), generator=torch.Generator().manual_seed(0)).float()


def linear() -> Classifier:
    torch.manual_seed(0)
    task = zoo_package.create_model("softmax", SPEC, Recipe())
    nn.init.normal_(task.linear.weight)
    return task.eval()


class Squares(Classifier):
    """The score of a class is a weighted sum of squares, whose gradient is twice the weight times the pixel."""

    def __init__(self) -> None:
        super().__init__(SPEC, Recipe())
        self.weight = torch.randn(3, *SPEC.shape, generator=torch.Generator().manual_seed(1))

    def forward(self, images: Tensor) -> Tensor:
        return torch.einsum("nchw,kchw->nk", images**2, self.weight)


def test_the_gradient_of_a_linear_score_is_the_template_of_its_class_in_units_of_pixels() -> None:
    task, classes = linear(), torch.tensor([2, 0, 1])
    weights = task.linear.weight.detach().double().numpy().reshape(3, *SPEC.shape)
    expected = weights[[2, 0, 1]] / np.sqrt(weights[0].size) * SCALE
    assert np.allclose(score_gradients(task, images(), classes), expected, rtol=1e-5)
    # noise changes nothing about a slope that is the same everywhere
    assert np.allclose(smooth_gradients(task, images(), classes, samples=3), expected, rtol=1e-4)


def test_noise_is_averaged_over_samples_and_as_strong_as_the_image_has_range() -> None:
    task, classes, pixels = Squares(), torch.tensor([1, 1, 2]), images()
    pixels[1] = 200 + pixels[1] / 50  # an image of little range
    normalized = (pixels / 255 - torch.tensor(SPEC.mean).view(3, 1, 1)) / torch.tensor(SPEC.std).view(3, 1, 1)
    slope = 2 * task.weight[classes] * torch.from_numpy(SCALE)
    expected = slope * normalized
    assert torch.allclose(score_gradients(task, pixels, classes).double(), expected, rtol=1e-4, atol=1e-7)
    assert torch.equal(smooth_gradients(task, pixels, classes, noise=0.0, samples=2), score_gradients(task, pixels, classes))
    # what remains of the noise after averaging: its deviation in pixels, by the root of the number of samples
    for samples in (4, 64):
        remainder = (smooth_gradients(task, pixels, classes, samples, noise=0.2) - expected) / slope / torch.from_numpy(SCALE)
        for image, rest in zip(pixels, remainder, strict=True):
            deviation = 0.2 * float(image.max() - image.min())
            assert float(rest.std()) == pytest.approx(deviation / samples**0.5, rel=0.35)


def test_a_map_holds_the_largest_magnitude_of_the_channels() -> None:
    gradients = torch.tensor([[[[1.0, -2.0]], [[-3.0, 0.5]], [[2.0, 1.0]]]])
    assert saliency_map(gradients).tolist() == [[[3.0, 2.0]]]


def test_samples_of_a_batch_do_not_mix_and_weights_get_no_gradient() -> None:
    torch.manual_seed(0)
    task = zoo_package.create_model("resnet20", ImageSpec(3, 16, 16, classes=("cat", "dog")), Recipe(), depth=8, width=4).eval()
    task.requires_grad_(False)
    pixels = torch.rand(4, 3, 16, 16) * 255
    classes = torch.tensor([0, 1, 1, 0])
    with torch.no_grad():
        together = score_gradients(task, pixels, classes)
    alone = [score_gradients(task, pixels[i : i + 1], classes[i : i + 1])[0] for i in range(4)]
    assert torch.allclose(together, torch.stack(alone), rtol=1e-3, atol=1e-7) and together.abs().sum() > 0


@pytest.mark.parametrize("count", [1, 4, 5])
def test_every_image_has_its_two_maps_beside_it(count: int) -> None:
    maps = np.random.default_rng(0).random((count, 2, 4, 5))
    with style():
        figure = draw_saliency(np.zeros((count, 4, 5, 3)), maps, [f"image {i}" for i in range(count)], "heading")
    drawn = [axes for axes in figure.axes if axes.images]
    assert len(drawn) == 3 * count
    assert [axes.get_ylabel() for axes in drawn[::3]] == [f"image {i}" for i in range(count)]
    assert np.array_equal([axes.images[0].get_array() for axes in drawn[1::3]], maps[:, 0])
    assert np.array_equal([axes.images[0].get_array() for axes in drawn[2::3]], maps[:, 1])


def test_files_and_test_images_are_drawn_for_the_likeliest_class_or_another(zoo, workplace: Path) -> None:
    assert zoo("train", "softmax", *QUICK, "--name", "first").code == 0
    Image.new("L", (8, 8), 90).save("gray one.png")
    answer = zoo("picture", "saliency", "first", "gray one.png")
    assert answer.code == 0 and answer.out.startswith("first-saliency.png: bright pixels")
    assert "next: zoo picture saliency first 'gray one.png' --class " in answer.out
    assert zoo("picture", "saliency", "first", "--class", "7", "-o", "seven.png").code == 0
    assert Path("seven.png").is_file()
    for arguments, words in (
        (["--class", "sven"], ["no class 'sven'", "choose from 0, 1"]),
        (["gray one.png", "--data", "digits"], ["--data is for test images"]),
        (["absent.png"], ["absent.png: no such file"]),
    ):
        assert zoo("picture", "saliency", "first", *arguments).is_one_line_error(*words)
    assert zoo("picture", "confusion", "first", "--class", "7").is_one_line_error("confusion takes no --class")


def test_points_and_neighbors_have_none(zoo) -> None:
    assert zoo("train", "mlp", "--data", "blobs", *QUICK, "--name", "points").code == 0
    assert zoo("picture", "saliency", "points").is_one_line_error("points in the plane")
    assert zoo("train", "knn", "--name", "near").code == 0
    assert zoo("picture", "saliency", "near").is_one_line_error("near", "no gradients", "knn")
