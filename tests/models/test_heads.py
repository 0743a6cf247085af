"""Heads of networks that libraries made for ImageNet's thousand classes, at the start of a training on a few."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from zoo.config.recipe import Recipe
from zoo.registry.registry import scan
from zoo.spec import ImageSpec

SPEC = ImageSpec(3, 64, 64, tuple("0123456789"))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("efficientnet-lite0", {}),
        ("timm", {"network": "efficientnet_lite0"}),
        ("torchvision", {"network": "efficientnet_b0"}),
        ("torchvision", {"network": "squeezenet1_1"}),
        ("torchvision", {"network": "mobilenet_v3_small"}),
    ],
)
def test_untrained_a_network_is_sure_of_nothing(name: str, options: dict[str, str]) -> None:
    torch.manual_seed(0)
    network = scan().model(name).load()(SPEC, Recipe(), **options).train()
    with torch.no_grad():
        loss = F.cross_entropy(network(torch.randn(20, 3, 64, 64)), torch.arange(20) % 10)
    assert abs(loss.item() - math.log(10)) < 0.5


def test_a_head_that_a_library_starts_at_zero_lets_the_rest_learn_in_the_first_step() -> None:
    network = scan().model("torchvision").load()(SPEC, Recipe(), network="vit_b_16")
    F.cross_entropy(network(torch.randn(2, 3, 64, 64)), torch.tensor([0, 1])).backward()
    assert all(parameter.grad.count_nonzero() for parameter in network.network.conv_proj.parameters())
