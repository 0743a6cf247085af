"""Linear classifiers: softmax regression and the multiclass support vector machine."""

from __future__ import annotations

import math

from torch import Tensor, nn

from zoo.config.recipe import Recipe
from zoo.registry.entry import register_model
from zoo.spec import ImageSpec
from zoo.tasks.images import ImageModel

# a step of Adam would change a score by the learning rate times the number of pixels, and memorize photographs
RECIPE = {"epochs": 100, "batch_size": 128, "optimizer": "sgd", "lr": 0.5, "weight_decay": 1e-4, "schedule": "one-cycle"}


# no augmentation: a linear template cannot follow shifts
@register_model("svm", task="classification", summary="Linear multiclass SVM (Weston and Watkins 1999)", tags=["linear"],
                data="digits", augment="none", recipe={**RECIPE, "loss": "hinge"})  # fmt: skip
@register_model("softmax", task="classification", summary="Softmax regression: a linear classifier with cross-entropy",
                tags=["linear"], data="digits", augment="none", recipe=RECIPE)  # fmt: skip
class Linear(ImageModel):
    """Linear classifier of pixels; each row of weights is a template of its class.

    Standardized pixels are divided by the square root of their number, which makes the mean square of an image's norm 1: then one
    learning rate suits images of any size.
    """

    def __init__(self, spec: ImageSpec, recipe: Recipe | None = None) -> None:
        super().__init__(spec, recipe)
        channels, height, width = spec.shape
        self.linear = nn.Linear(channels * height * width, spec.outputs)
        nn.init.zeros_(self.linear.weight)  # the loss is convex, and so starts at ln(classes)
        nn.init.zeros_(self.linear.bias)

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.flatten(1)
        return self.linear(pixels / math.sqrt(pixels.shape[1]))

    def stages(self) -> dict[str, nn.Module]:
        return {"head": self.linear}
