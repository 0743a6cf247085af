"""The linear classifier, with the cross-entropy of softmax regression or the hinge loss of a support vector machine."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from zoo.config.recipe import Recipe
from zoo.core.errors import UserError
from zoo.registry.entry import register_model
from zoo.spec import ImageSpec
from zoo.tasks.classification import Classifier

RECIPE = {"epochs": 30, "batch_size": 128, "optimizer": "adamw", "lr": 1e-2, "weight_decay": 1.0, "schedule": "one-cycle"}


# a template cannot follow a picture that moves: no augmentation
@register_model("svm", task="classification", loss="hinge", tags=["linear"], data="digits", augment="none", recipe=RECIPE)
@register_model("softmax", task="classification", tags=["linear"], data="digits", augment="none", recipe=RECIPE)
class Linear(Classifier):
    """Linear classifier: one score a class, linear in the pixels; each row of weights is a template of its class.

    Args:
        loss: cross-entropy, which makes it softmax regression; or hinge, which makes it a multiclass support vector machine.
    """

    def __init__(self, spec: ImageSpec, recipe: Recipe, loss: Literal["cross-entropy", "hinge"] = "cross-entropy") -> None:
        super().__init__(spec, recipe)
        self.is_hinge = loss == "hinge"
        if self.is_hinge and recipe.label_smoothing:
            raise UserError(f"recipe.label_smoothing={recipe.label_smoothing}: the hinge loss has no probabilities to smooth")
        channels, height, width = spec.shape
        self.linear = nn.Linear(channels * height * width, len(spec.classes))
        nn.init.zeros_(self.linear.weight)  # the loss is convex, and so starts at ln(classes)
        nn.init.zeros_(self.linear.bias)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(images.flatten(1))

    def stages(self) -> dict[str, nn.Module]:
        return {"head": self.linear}

    def prepare(self, data: Any) -> None:
        mixing = [name for name in ("mixup", "cutmix") if name in getattr(data, "augment", "")]
        if self.is_hinge and mixing:
            raise UserError(f"data.augment={data.augment}: the hinge loss takes one label an image: leave out {mixing[0]}")

    @property
    def is_cross_entropy(self) -> bool:
        return not self.is_hinge

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return hinge_losses(logits, targets).mean() if self.is_hinge else super().loss(logits, targets)

    def test_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        return hinge_losses(logits, labels.clamp(min=0)) if self.is_hinge else super().test_losses(logits, labels)


def hinge_losses(scores: Tensor, labels: Tensor) -> Tensor:
    """The sum over the wrong classes j of max(0, score_j - score_label + 1) for each sample, [N] (Weston and Watkins 1999).

    torch's own loss divides by the number of classes.
    """
    return F.multi_margin_loss(scores, labels, reduction="none") * scores.shape[1]
