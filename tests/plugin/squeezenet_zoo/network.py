"""SqueezeNet (Iandola et al. 2016), which is torchvision's."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models.squeezenet import SqueezeNet as TorchvisionSqueezeNet

from zoo import register_model
from zoo.config.recipe import Recipe
from zoo.spec import ImageSpec
from zoo.tasks.images import ImageModel


@register_model(
    "squeezenet",
    task="classification",
    version="1_1",
    tags=["cnn", "small"],
    data="stripes",
    recipe={"epochs": 10, "optimizer": "adamw", "lr": 1e-3, "schedule": "one-cycle"},
    paper="1602.07360",
)
class SqueezeNet(ImageModel):
    """SqueezeNet: fire modules that squeeze the channels before they widen them.

    Args:
        version: 1_0 or 1_1.
    """

    channels_last = True

    def __init__(self, spec: ImageSpec, recipe: Recipe, version: str = "1_0") -> None:
        super().__init__(spec, recipe)
        self.network = TorchvisionSqueezeNet(version, num_classes=spec.outputs, dropout=0.2)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)

    def stages(self) -> dict[str, nn.Module]:
        return {"features": self.network.features, "head": self.network.classifier}
