"""VGG for small images (Simonyan and Zisserman 2014, table 1): one linear layer after the convolutions."""

from __future__ import annotations

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

# depth -> convolutions a block; the depth counts the paper's three fully connected layers, of which one is left
CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
RECIPE = {
    "epochs": 40, "batch_size": 128, "optimizer": "sgd", "lr": 0.05, "weight_decay": 5e-4, "schedule": "one-cycle",
    "label_smoothing": 0.1,
}  # fmt: skip
BASE = {
    "tags": ["cnn"], "data": "digits", "data_options": {"size": 32}, "tiny": {"width": 4}, "recipe": RECIPE, "paper": "1409.1556",
}  # fmt: skip


@register_model("vgg19", task="classification", summary="VGG-19 for small images: batch norm, one linear layer", depth=19, **BASE)
@register_model("vgg16", task="classification", summary="VGG-16 for small images: batch norm, one linear layer", depth=16, **BASE)
@register_model("vgg13", task="classification", summary="VGG-13 for small images: batch norm, one linear layer", depth=13, **BASE)
@register_model("vgg11", task="classification", summary="VGG-11 for small images: batch norm, one linear layer", depth=11, **BASE)
class VGG(ImageModel):
    """VGG for small images: five blocks of 3x3 convolutions and max-pooling, and a linear head.

    Args:
        depth: 11, 13, 16 or 19, as the paper counts layers.
        width: channels of the first block; the others have 2, 4, 8 and 8 times as many.
        activation: activation after each convolution.
        norm: normalization between convolution and activation.
        init: initialization: torch, small-normal:STD, large-normal:STD, xavier, kaiming:in or kaiming:out.
        dropout: dropout probability before the head.
    """

    channels_last = True

    def __init__(
        self,
        spec: ImageSpec,
        recipe: Recipe | None = None,
        depth: int = 16,
        width: int = 64,
        activation: Activation = "relu",
        norm: Norm = "batch",
        init: str = "kaiming:out",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(spec, recipe)
        if depth not in CONVOLUTIONS:
            raise UserError(f"model.depth={depth}: a VGG has {', '.join(map(str, CONVOLUTIONS))} layers")
        require_positive(width=width)
        spec.require_size(f"vgg{depth}", 32)
        self.blocks = nn.ModuleList()
        channels = spec.channels
        for count, factor in zip(CONVOLUTIONS[depth], (1, 2, 4, 8, 8), strict=True):
            layers: list[nn.Module] = []
            for _ in range(count):
                # redundant before batch norm, the bias is part of the published parameter counts
                layers += [nn.Conv2d(channels, factor * width, 3, padding=1)]
                layers += [norm_2d(norm, factor * width), make_activation(activation)]
                channels = factor * width
            self.blocks.append(nn.Sequential(*layers, nn.MaxPool2d(2)))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = make_dropout(dropout)
        self.head = nn.Linear(channels, spec.outputs)
        initialize(self.blocks, init, activation)

    def forward(self, images: Tensor) -> Tensor:
        features = images
        for block in self.blocks:
            features = block(features)
        return self.head(self.dropout(self.pool(features).flatten(1)))

    def feature_extractor(self) -> nn.Module:
        return nn.Sequential(*self.blocks)

    def stages(self) -> dict[str, nn.Module]:
        return {**{f"block{i}": block for i, block in enumerate(self.blocks, 1)}, "head": self.head}
