"""Residual networks for small images, and their plain twins (He et al. 2015, section 4.2)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from zoo.config.recipe import Recipe
from zoo.core.errors import UserError
from zoo.layers.activations import activation as make_activation
from zoo.layers.dropout import dropout as make_dropout
from zoo.layers.inits import initialize
from zoo.layers.norms import norm_2d
from zoo.registry.annotations import Activation, Norm
from zoo.registry.entry import register_model
from zoo.spec import ImageSpec
from zoo.tasks.classification import Classifier

RESIDUAL = ["cnn", "residual"]
PLAIN = ["cnn"]
TINY = {"depth": 8, "width": 4}
RECIPE = {
    "epochs": 60,
    "batch_size": 128,
    "optimizer": "sgd",
    "lr": 0.2,
    "weight_decay": 5e-4,
    "schedule": "one-cycle",
}
PLAIN_RECIPE = {
    "epochs": 60,
    "batch_size": 128,
    "optimizer": "sgd",
    "lr": 0.1,
    "weight_decay": 1e-4,
    "schedule": "one-cycle",
}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and, in a residual network, a shortcut around them that has no parameters.

    Where the shape changes, the shortcut takes every second pixel and fills the new channels with zeros (option A of the paper).
    """

    def __init__(self, before: int, after: int, stride: int, shortcut: bool, activation: Activation, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.norm1 = norm_2d(norm, after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm2 = norm_2d(norm, after)
        self.activation = make_activation(activation)
        self.stride, self.shortcut = stride, shortcut
        # new channels on both sides of the old ones
        missing = after - before
        self.padding = (0, 0, 0, 0, missing // 2, missing - missing // 2)

    def forward(self, features: Tensor) -> Tensor:
        branch = self.activation(self.norm1(self.conv1(features)))
        branch = self.norm2(self.conv2(branch))
        if self.shortcut:
            if self.stride > 1 or any(self.padding):
                features = F.pad(features[:, :, :: self.stride, :: self.stride], self.padding)
            branch = branch + features
        return self.activation(branch)


@register_model("plain56", task="classification", depth=56, shortcuts=False, tags=PLAIN, data="digits", tiny=TINY,
                recipe=PLAIN_RECIPE, paper="1512.03385")  # fmt: skip
@register_model("plain20", task="classification", depth=20, shortcuts=False, tags=PLAIN, data="digits", tiny=TINY,
                recipe=PLAIN_RECIPE, paper="1512.03385")  # fmt: skip
@register_model("resnet110", task="classification", depth=110, tags=RESIDUAL, data="digits", tiny=TINY,
                recipe=RECIPE, paper="1512.03385")  # fmt: skip
@register_model("resnet56", task="classification", depth=56, tags=RESIDUAL, data="digits", tiny=TINY,
                recipe=RECIPE, paper="1512.03385")  # fmt: skip
@register_model("resnet44", task="classification", depth=44, tags=RESIDUAL, data="digits", tiny=TINY,
                recipe=RECIPE, paper="1512.03385")  # fmt: skip
@register_model("resnet32", task="classification", depth=32, tags=RESIDUAL, data="digits", tiny=TINY,
                recipe=RECIPE, paper="1512.03385")  # fmt: skip
@register_model("resnet20", task="classification", depth=20, tags=RESIDUAL, data="digits", tiny=TINY,
                recipe=RECIPE, paper="1512.03385")  # fmt: skip
class ResNet(Classifier):
    """Residual network for small images: three stages of basic blocks with identity shortcuts.

    Args:
        depth: layers with weights, 6n + 2: each stage has n blocks of two convolutions.
        width: channels of the first stage; the others have twice and four times as many.
        shortcuts: without them it is the plain network of the paper.
        activation: after each convolution, and after the sum with the shortcut.
        norm: between a convolution and its activation.
        init: of the convolutions: torch, small-normal:STD, large-normal:STD, xavier, kaiming:in or kaiming:out.
        zero_init_residual: each block's last norm starts at zero, so that a block starts as its shortcut (Goyal et al. 2017).
        dropout: share of the features in front of the head that are silenced in training.
    """

    channels_last = True

    def __init__(
        self,
        spec: ImageSpec,
        recipe: Recipe,
        depth: int = 20,
        width: int = 16,
        shortcuts: bool = True,
        activation: Activation = "relu",
        norm: Norm = "batch",
        init: str = "kaiming:out",
        zero_init_residual: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(spec, recipe)
        if depth < 8 or (depth - 2) % 6:
            raise UserError(f"model.depth={depth}: must be 6n + 2, as 8, 14, 20, 32, 44, 56 or 110")
        if width < 1:
            raise UserError(f"model.width={width}: must be at least 1")
        if zero_init_residual and (norm == "none" or not shortcuts):
            raise UserError("model.zero_init_residual=true: needs a norm to set to zero and a shortcut around it")
        smallest = 8 if norm == "instance" else 2  # one pixel, in the last stage, has no deviation
        spec.require_size(f"{'resnet' if shortcuts else 'plain'}{depth}", smallest)
        self.stem = nn.Sequential(
            nn.Conv2d(spec.channels, width, 3, padding=1, bias=False), norm_2d(norm, width), make_activation(activation)
        )

        def stage(before: int, after: int, stride: int) -> nn.Sequential:
            shapes = [(before, after, stride)] + [(after, after, 1)] * ((depth - 2) // 6 - 1)
            return nn.Sequential(*(BasicBlock(*shape, shortcuts, activation, norm) for shape in shapes))

        self.stage1 = stage(width, width, 1)
        self.stage2 = stage(width, 2 * width, 2)
        self.stage3 = stage(2 * width, 4 * width, 2)
        self.dropout = make_dropout(dropout)
        self.head = nn.Linear(4 * width, len(spec.classes))
        initialize([self.stem, self.stage1, self.stage2, self.stage3], init, activation)
        for module in self.modules():
            if zero_init_residual and isinstance(module, BasicBlock):
                nn.init.zeros_(module.norm2.weight)

    def forward(self, images: Tensor) -> Tensor:
        features = self.stage3(self.stage2(self.stage1(self.stem(images))))
        return self.head(self.dropout(features.mean((2, 3))))

    def feature_extractor(self) -> nn.Module:
        return nn.Sequential(self.stem, self.stage1, self.stage2, self.stage3)

    def stages(self) -> dict[str, nn.Module]:
        return {name: getattr(self, name) for name in ("stem", "stage1", "stage2", "stage3", "head")}
