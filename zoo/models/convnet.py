"""A small convolutional network."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from zoo.config.options import require_positive
from zoo.config.recipe import Recipe
from zoo.core.errors import UserError
from zoo.layers.activations import activation as make_activation
from zoo.layers.dropout import dropout as make_dropout
from zoo.layers.inits import initialize
from zoo.layers.norms import norm_2d
from zoo.registry.annotations import Activation, Norm
from zoo.registry.entry import register_model
from zoo.spec import ImageSpec
from zoo.tasks.images import ImageModel


@register_model(
    "convnet",
    task="classification",
    tags=["cnn"],
    data="digits",
    tiny={"channels": [4, 8], "hidden_size": 16},
    recipe={
        "epochs": 30, "batch_size": 128, "optimizer": "adamw", "lr": 3e-3, "weight_decay": 0.05, "schedule": "one-cycle",
    },
)  # fmt: skip
class ConvNet(ImageModel):
    """Small convolutional network: blocks of 3x3 convolution, activation and 2x2 max-pooling, and one hidden layer.

    Args:
        channels: output channels of each convolution; each block halves the image.
        downsampling: pool, by max-pooling; or stride, by the convolution itself.
        hidden_size: width of the fully connected hidden layer.
        activation: activation after each convolution and the hidden layer.
        norm: normalization between convolution and activation.
        init: initialization of all but the head: torch, small-normal:STD, large-normal:STD, xavier, kaiming:in or kaiming:out.
        dropout: dropout probability before the head.
    """

    channels_last = True

    def __init__(
        self,
        spec: ImageSpec,
        recipe: Recipe | None = None,
        channels: list[int] = [32, 64, 128],  # noqa: B006
        downsampling: Literal["pool", "stride"] = "pool",
        hidden_size: int = 128,
        activation: Activation = "relu",
        norm: Norm = "none",
        init: str = "torch",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(spec, recipe)
        if not channels or min(channels) < 1:
            raise UserError(f"model.channels={channels}: give the channels of at least one convolution, as in [32,64,128]")
        require_positive(hidden_size=hidden_size)
        spec.require_size("convnet", 2 ** len(channels))
        pools = downsampling == "pool"
        self.convolutions = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, after, 3, stride=1 if pools else 2, padding=1),
                norm_2d(norm, after),
                make_activation(activation),
                *([nn.MaxPool2d(2)] if pools else []),
            )
            for before, after in zip([spec.channels, *channels], channels, strict=False)
        )
        shrinking = 2 ** len(channels)
        height, width = (side // shrinking if pools else -(-side // shrinking) for side in (spec.height, spec.width))
        self.hidden = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels[-1] * height * width, hidden_size),
            make_activation(activation),
            make_dropout(dropout),
        )
        self.head = nn.Linear(hidden_size, spec.outputs)
        initialize([self.convolutions, self.hidden], init, activation)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.hidden(self.forward_features(images)))

    def feature_extractor(self) -> nn.Module:
        return nn.Sequential(*self.convolutions)

    def stages(self) -> dict[str, nn.Module]:
        convolutions = {f"conv{i}": layer for i, layer in enumerate(self.convolutions, 1)}
        return {**convolutions, "hidden": self.hidden, "head": self.head}
