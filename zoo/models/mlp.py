"""The multilayer perceptron."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from zoo.config.recipe import Recipe
from zoo.core.errors import UserError
from zoo.layers.activations import activation as make_activation
from zoo.layers.dropout import dropout as make_dropout
from zoo.layers.inits import initialize
from zoo.layers.norms import norm_1d
from zoo.registry.annotations import Activation
from zoo.registry.entry import register_model
from zoo.spec import ImageSpec
from zoo.tasks.images import ImageModel


@register_model(
    "mlp",
    task="classification",
    tags=["fully-connected"],
    data="digits",
    augment="light",  # not translation invariant: strong shifts hurt
    tiny={"hidden_sizes": [16]},
    recipe={
        "epochs": 20, "batch_size": 128, "optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.3, "schedule": "one-cycle",
    },
)  # fmt: skip
class MLP(ImageModel):
    """Multilayer perceptron: fully connected hidden layers.

    Args:
        hidden_sizes: width of each hidden layer, from input to output.
        activation: activation after each hidden layer.
        norm: normalization between layer and activation.
        init: initialization of hidden layers: torch, small-normal:STD, large-normal:STD, xavier, kaiming:in or kaiming:out.
        dropout: dropout probability after each hidden layer.
    """

    def __init__(
        self,
        spec: ImageSpec,
        recipe: Recipe | None = None,
        hidden_sizes: list[int] = [512, 256],  # noqa: B006
        activation: Activation = "relu",
        norm: Literal["none", "batch", "layer", "group"] = "none",
        init: str = "torch",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(spec, recipe)
        if not hidden_sizes or min(hidden_sizes) < 1:
            raise UserError(f"model.hidden_sizes={hidden_sizes}: give the width of at least one layer, as in [512,256]")
        channels, height, width = spec.shape
        widths = [channels * height * width, *hidden_sizes]
        self.hidden = nn.ModuleList(
            nn.Sequential(nn.Linear(before, after), norm_1d(norm, after), make_activation(activation), make_dropout(dropout))
            for before, after in zip(widths, widths[1:], strict=False)
        )
        self.head = nn.Linear(widths[-1], spec.outputs)
        initialize(self.hidden, init, activation)

    def forward(self, images: Tensor) -> Tensor:
        features = images.flatten(1)
        for layer in self.hidden:
            features = layer(features)
        return self.head(features)

    def stages(self) -> dict[str, nn.Module]:
        return {**{f"hidden{i}": layer for i, layer in enumerate(self.hidden, 1)}, "head": self.head}
