"""A small convolutional network for regression."""

from __future__ import annotations

from torch import Tensor, nn

from squeezenet_zoo.coverage import CoverageRegressor
from zoo import ImageSpec, Recipe, register_model


@register_model(
    "conv-regressor",
    task="coverage",
    tags=["cnn", "small"],
    tiny={"channels": 4},
    data="bright-shares",
    recipe={"epochs": 10, "lr": 0.01, "schedule": "one-cycle"},
)
class ConvRegressor(CoverageRegressor):
    """Two convolutions, averaged over all places.

    Args:
        channels: of each convolution.
    """

    channels_last = True

    def __init__(self, spec: ImageSpec, recipe: Recipe, channels: int = 16) -> None:
        super().__init__(spec, recipe)
        self.body = nn.Sequential(
            nn.Conv2d(spec.channels, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()
        )
        self.head = nn.Linear(channels, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images).mean((2, 3)))[:, 0]

    def stages(self) -> dict[str, nn.Module]:
        return {"body": self.body, "head": self.head}
