"""Softmax regression: the linear classifier."""

from __future__ import annotations

from torch import Tensor, nn

from zoo.recipe import Recipe
from zoo.registry import register_model
from zoo.spec import ImageSpec
from zoo.tasks.classification import Classifier


@register_model(
    "softmax",
    task="classification",
    tags=["linear"],
    data="digits",
    augment="none",  # a template cannot follow a picture that moves
    recipe={
        "epochs": 20, "batch_size": 128, "optimizer": "adamw", "lr": 3e-3, "weight_decay": 0.3, "schedule": "one-cycle",
    },
)  # fmt: skip
class Softmax(Classifier):
    """Softmax regression: one score a class, linear in the pixels; each row of weights is a template of its class."""

    def __init__(self, spec: ImageSpec, recipe: Recipe) -> None:
        super().__init__(spec, recipe)
        channels, height, width = spec.shape
        self.linear = nn.Linear(channels * height * width, len(spec.classes))
        nn.init.zeros_(self.linear.weight)  # the loss is convex, and so starts at ln(classes)
        nn.init.zeros_(self.linear.bias)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(images.flatten(1))

    def stages(self) -> dict[str, nn.Module]:
        return {"head": self.linear}
