"""Residual networks for small images, and the plain networks they are compared with (He et al. 2015, section 4.2)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from zoo.config.options import require_positive
from zoo.config.recipe import Recipe
from zoo.core.errors import UserError
from zoo.layers.activations import activation as make_activation
from zoo.layers.dropout import dropout as make_dropout
from zoo.layers.inits import initialize
from zoo.layers.norms import norm_2d
from zoo.layers.stochastic_depth import drop_path, drop_path_rates
from zoo.registry.annotations import Activation, Norm
from zoo.registry.entry import register_model
from zoo.spec import ImageSpec
from zoo.tasks.images import ImageModel

RECIPE = {"epochs": 60, "batch_size": 128, "optimizer": "sgd", "lr": 0.2, "weight_decay": 5e-4, "schedule": "one-cycle"}
PAPER = {"data": "digits", "tiny": {"depth": 8, "width": 4}, "paper": "1512.03385"}
RESIDUAL = ["cnn", "residual"]
SMALL = {**PAPER, "tags": RESIDUAL, "recipe": RECIPE}
PLAIN = {**PAPER, "tags": ["cnn"], "recipe": {**RECIPE, "lr": 0.1, "weight_decay": 1e-4}, "shortcuts": False}


class BasicBlock(nn.Module):
    """Basic block: two 3x3 convolutions and, in a residual network, a parameter-free shortcut.

    Where the shape changes, the shortcut subsamples by 2 and zero-pads the channels (option A of the paper).
    """

    def __init__(
        self,
        before: int,
        after: int,
        stride: int,
        shortcut: bool,
        activation: Activation,
        norm: Norm,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.norm1 = norm_2d(norm, after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm2 = norm_2d(norm, after)
        self.activation = make_activation(activation)
        self.stride, self.shortcut, self.drop_path_rate = stride, shortcut, drop_path_rate
        added = after - before  # channels, half of them on each side
        self.padding = (0, 0, 0, 0, added // 2, added - added // 2)

    def forward(self, features: Tensor) -> Tensor:
        branch = self.activation(self.norm1(self.conv1(features)))
        branch = self.norm2(self.conv2(branch))
        if self.shortcut:
            if self.stride > 1 or any(self.padding):
                features = F.pad(features[:, :, :: self.stride, :: self.stride], self.padding)
            branch = drop_path(branch, self.drop_path_rate, self.training) + features
        return self.activation(branch)


@register_model("plain56", task="classification", summary="Plain 56-layer network: ResNet-56, no shortcuts", depth=56, **PLAIN)
@register_model("plain20", task="classification", summary="Plain 20-layer network: ResNet-20, no shortcuts", depth=20, **PLAIN)
@register_model("resnet110", task="classification", summary="ResNet-110 for small images (He et al. 2015)", depth=110, **SMALL)
@register_model("resnet56", task="classification", summary="ResNet-56 for small images (He et al. 2015)", depth=56, **SMALL)
@register_model("resnet44", task="classification", summary="ResNet-44 for small images (He et al. 2015)", depth=44, **SMALL)
@register_model("resnet32", task="classification", summary="ResNet-32 for small images (He et al. 2015)", depth=32, **SMALL)
@register_model("resnet20", task="classification", summary="ResNet-20 for small images (He et al. 2015)", depth=20, **SMALL)
class ResNet(ImageModel):
    """Residual network for small images: three stages of basic blocks (He et al. 2015, section 4.2).

    Args:
        depth: number of weight layers, 6n + 2, with n blocks per stage.
        width: channels of the first stage; they double at each later stage.
        shortcuts: residual connections; false gives the plain network of the paper.
        activation: activation after each convolution and each residual sum.
        norm: normalization between convolution and activation.
        init: initialization: torch, small-normal:STD, large-normal:STD, xavier, kaiming:in or kaiming:out.
        zero_init_residual: zero-initialize the last norm of each block, so that it starts as an identity (Goyal et al. 2017).
        dropout: dropout probability before the head.
        drop_path_rate: stochastic depth: drop probability of the last residual branch, to which it rises from the first.
    """

    channels_last = True

    def __init__(
        self,
        spec: ImageSpec,
        recipe: Recipe | None = None,
        depth: int = 20,
        width: int = 16,
        shortcuts: bool = True,
        activation: Activation = "relu",
        norm: Norm = "batch",
        init: str = "kaiming:out",
        zero_init_residual: bool = False,
        dropout: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__(spec, recipe)
        if depth < 8 or (depth - 2) % 6:
            raise UserError(f"model.depth={depth}: must be 6n + 2, such as 8, 14, 20, 32, 44, 56 or 110")
        require_positive(width=width)
        if zero_init_residual and (norm == "none" or not shortcuts):
            raise UserError("model.zero_init_residual=true: needs a norm to set to zero and a shortcut around it")
        if drop_path_rate and not shortcuts:
            raise UserError(f"model.drop_path_rate={drop_path_rate}: without shortcuts nothing goes around a dropped block")
        smallest = 8 if norm == "instance" else 2  # instance norm needs more than one pixel in the last stage
        spec.require_size(f"{'resnet' if shortcuts else 'plain'}{depth}", smallest)
        self.stem = nn.Sequential(
            nn.Conv2d(spec.channels, width, 3, padding=1, bias=False), norm_2d(norm, width), make_activation(activation)
        )

        blocks = (depth - 2) // 6
        rates = drop_path_rates(drop_path_rate, 3 * blocks)

        def stage(before: int, after: int, stride: int) -> nn.Sequential:
            shapes = [(before, after, stride)] + [(after, after, 1)] * (blocks - 1)
            return nn.Sequential(*(BasicBlock(*shape, shortcuts, activation, norm, next(rates)) for shape in shapes))

        self.stage1 = stage(width, width, 1)
        self.stage2 = stage(width, 2 * width, 2)
        self.stage3 = stage(2 * width, 4 * width, 2)
        self.dropout = make_dropout(dropout)
        self.head = nn.Linear(4 * width, spec.outputs)
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
