"""The linear classifier: softmax regression, or with the hinge loss a support vector machine."""

from __future__ import annotations

from torch import Tensor, nn

from zoo.config.recipe import Recipe
from zoo.registry.entry import register_model
from zoo.spec import ImageSpec
from zoo.tasks.classification import Classifier

RECIPE = {"epochs": 30, "batch_size": 128, "optimizer": "adamw", "lr": 1e-2, "weight_decay": 1.0, "schedule": "one-cycle"}


# a template cannot follow a picture that moves: no augmentation
@register_model(
    "svm", task="classification", tags=["linear"], data="digits", augment="none", recipe={**RECIPE, "loss": "hinge"}
)  # fmt: skip
@register_model("softmax", task="classification", tags=["linear"], data="digits", augment="none", recipe=RECIPE)
class Linear(Classifier):
    """Linear classifier: one score a class, linear in the pixels; each row of weights is a template of its class."""

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
