"""Receptive fields held against the pixels that networks really look at: a pixel that is not a number spoils all that see it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.analysis.receptive_field import Axis, ReceptiveFields
from zoo.config.resolution import resolve
from zoo.registry.registry import scan
from zoo.spec import ImageSpec
from zoo.training.building import build_task

REGISTRY = scan()
IMAGE_MODELS = {name: entry for name, entry in REGISTRY.models.items() if entry.task == "classification"}
DISTINCT = {repr((e.class_name, {**e.defaults, **e.tiny})): name for name, e in IMAGE_MODELS.items()}
DEEPEST = {"vgg19-imagenet", "vgg19-bn-imagenet"}
HEIGHT, WIDTH = 32, 39


def spoiled(channels: int, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    """An image for each row and then for each column, in which that row or column is not a number."""
    images = torch.rand(height + width, channels, height, width, dtype=torch.float64)
    for row in range(height):
        images[row, :, row] = math.nan
    for column in range(width):
        images[height + column, :, :, column] = math.nan
    return images


def assert_sees_what_it_says(fields: ReceptiveFields, output: Tensor) -> int:
    """Each position of an output is spoiled by the pixels of its region, from the first to the last, and by no others.

    Returns:
        The number of positions whose region lies in the image; of others no more is asked than that they see nothing beyond it.
    """
    geometry, start, inside = fields.of(output), 0, 0
    assert geometry is not None
    for axis, side in zip(geometry, fields.sides, strict=True):
        seen = output[start : start + side].isnan()
        start += side
        seen = seen.flatten(1)[:, None] if axis.dim is None else seen.movedim(axis.dim, 1).reshape(side, seen.shape[axis.dim], -1)
        seen = seen.any(2)
        if axis.count != seen.shape[1]:  # merged with channels or with the other axis
            seen, axis = seen.any(1)[:, None], replace(axis, last=axis.last + (axis.count - 1) * axis.stride, count=1)
        for i, spoilers in enumerate(seen.T):
            pixels = spoilers.nonzero()[:, 0].tolist()
            first, last = axis.first + i * axis.stride, axis.last + i * axis.stride
            if first >= 0 and last < side or math.isinf(first):
                assert (pixels[0], pixels[-1]) == (max(first, 0), min(last, side - 1))
                inside += 1
            assert all(first <= pixel <= last for pixel in pixels)
        if axis.sees_all(side):
            assert seen[[0, -1]].all()
    return inside


def watch(network: nn.Module, images: Tensor) -> int:
    """Check the output of every module without children, and of the network; the number of positions that were checked."""
    outputs: list[Tensor] = []
    for module in network.modules():
        if not list(module.children()):  # a layer that works in place would overwrite what is kept
            module.register_forward_hook(lambda module, _, output: outputs.append(output.clone()))
    with torch.no_grad(), ReceptiveFields(images) as fields:
        outputs.append(network(images))
        return sum(assert_sees_what_it_says(fields, output) for output in outputs)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in DEEPEST else name for name in sorted(DISTINCT.values())]
)
def test_every_layer_of_every_model_sees_what_it_says(name: str) -> None:
    if "transformer" in REGISTRY.model(name).tags:
        pytest.skip("fused attention cannot be followed; the table, on the meta device, follows the products it consists of")
    if name == "torchvision":
        pytest.skip("the pools of its small network reach beyond the border (ceil_mode), which is followed to within a pixel")
    spec = ImageSpec(3, HEIGHT, WIDTH, classes=("a", "b"))
    run = resolve(REGISTRY, name, {}, [{"model": REGISTRY.model(name).tiny}])
    network = build_task(REGISTRY, run, spec).double().eval()
    if not list(network.parameters()):
        pytest.skip("it compares images with those that it remembers: there are no layers")
    assert watch(network, spoiled(3)) > 1


class Residual(nn.Sequential):
    def forward(self, images: Tensor) -> Tensor:
        return images + super().forward(images)


class Shift(nn.Module):
    """Steps and shifts that a module cannot express."""

    def forward(self, images: Tensor) -> Tensor:
        padded = F.pad(images, (3, 1, 2, 0))
        return torch.cat([padded[:, :, 1::2, 2::3], padded[:, :, :-1:2, :-2:3]], 1)


class Squeeze(nn.Module):
    """Squeeze and excitation (Hu et al. 2018): every position is scaled by a mean over all."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, channels)

    def forward(self, images: Tensor) -> Tensor:
        return images * self.linear(images.mean((2, 3))).sigmoid()[:, :, None, None]


class Patches(nn.Module):
    """A vision transformer of one layer: patches, a class token, attention."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 8, stride=8)
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.linear = nn.Linear(8, 8)
        self.attention = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)

    def tokens(self, images: Tensor) -> Tensor:
        return self.linear(self.embed(images).flatten(2).transpose(1, 2))

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.tokens(images)
        return self.attention(torch.cat([self.token.expand(len(tokens), -1, -1), tokens], 1))[:, 0]


NETWORKS = {
    "dilated": nn.Sequential(nn.Conv2d(3, 4, 3, dilation=4, padding=4), nn.Conv2d(4, 4, (3, 5), dilation=(2, 1), stride=(1, 2))),
    "pooling": nn.Sequential(nn.AvgPool2d(3, 2, padding=1), nn.MaxPool2d((2, 3), (1, 2)), nn.MaxPool2d(3, 2, 1, ceil_mode=True)),
    "groups": nn.Sequential(nn.Conv2d(3, 6, 5, groups=3, padding="same"), nn.Conv2d(6, 2, 4, stride=3)),
    "residual": nn.Sequential(nn.Conv2d(3, 4, 3), Residual(nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 5, padding=2))),
    "shift": nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), Shift(), nn.Conv2d(8, 2, 3)),
    "adaptive": nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveAvgPool2d((8, 13)), nn.AdaptiveMaxPool2d((4, 1))),
    "squeeze": nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), Squeeze(4), nn.Conv2d(4, 4, 3)),
    "flat": nn.Sequential(nn.Conv2d(3, 4, 3, stride=4), nn.Flatten(), nn.ReLU(), nn.Linear(4 * 8 * 10, 5), nn.ReLU()),
    "valid": nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1)),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_operations_see_what_they_say(name: str) -> None:
    assert watch(NETWORKS[name].double().eval(), spoiled(3)) > 10


def test_a_token_sees_its_patch_until_attention_shows_it_all() -> None:
    network, images = Patches().double().eval(), spoiled(3, 32, 40)
    with torch.no_grad():
        rows, columns = network.tokens(images).isnan().any(2).view(72, 4, 5).split([32, 40])
        assert torch.equal(rows, (torch.arange(32) // 8)[:, None, None].expand(32, 4, 5) == torch.arange(4)[None, :, None])
        assert torch.equal(columns, (torch.arange(40) // 8)[:, None, None].expand(40, 4, 5) == torch.arange(5)[None, None])
        assert network(images).isnan().all()
    one = torch.empty(1, 3, 32, 40, device="meta")
    network.float().to("meta")
    with torch.no_grad(), ReceptiveFields(one) as fields:
        assert fields.of(network.tokens(one)) == (Axis(1, 4, 8, 0, 7), Axis(1, 5, 8, 0, 7))
        assert all(axis.sees_all(side) for axis, side in zip(fields.of(network(one)), (32, 40), strict=True))


def test_three_convolutions_of_three_see_seven() -> None:
    images = torch.empty(1, 1, 20, 20, device="meta")
    with torch.device("meta"):
        network = nn.Sequential(*(nn.Conv2d(1, 1, 3) for _ in range(3)))
    with torch.no_grad(), ReceptiveFields(images) as fields:
        axes = fields.of(network(images))
    assert [(axis.last - axis.first + 1, axis.stride, axis.count) for axis in axes] == [(7, 1, 14)] * 2


class Upscale(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return F.interpolate(images, scale_factor=2) + 1


class Written(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        canvas = torch.zeros(1, 3, 64, 64)
        canvas[:, :, 8:40, 8:48] = images
        return canvas + 1


@pytest.mark.parametrize("network", [Upscale(), Written(), nn.ConvTranspose2d(3, 2, 2, stride=2), nn.PixelUnshuffle(2)])
def test_what_cannot_be_followed_is_not_guessed(network: nn.Module) -> None:
    images = torch.rand(1, 3, 32, 40)
    with torch.no_grad(), ReceptiveFields(images) as fields:
        output = network(images)
        assert fields.of(output) is None and fields.of(output + output) is None
