"""Residual networks for small images, and their plain twins (He et al. 2015, section 4.2)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from zoo.errors import UserError
from zoo.recipe import Recipe
from zoo.registry import register_model
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

    def __init__(self, before: int, after: int, stride: int, shortcut: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        self.stride, self.shortcut = stride, shortcut
        # new channels on both sides of the old ones
        missing = after - before
        self.padding = (0, 0, 0, 0, missing // 2, missing - missing // 2)

    def forward(self, features: Tensor) -> Tensor:
        branch = F.relu(self.norm1(self.conv1(features)), inplace=True)
        branch = self.norm2(self.conv2(branch))
        if self.shortcut:
            if self.stride > 1 or any(self.padding):
                features = F.pad(features[:, :, :: self.stride, :: self.stride], self.padding)
            branch = branch + features
        return F.relu(branch, inplace=True)


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
    """

    channels_last = True

    def __init__(self, spec: ImageSpec, recipe: Recipe, depth: int = 20, width: int = 16, shortcuts: bool = True) -> None:
        super().__init__(spec, recipe)
        if depth < 8 or (depth - 2) % 6:
            raise UserError(f"model.depth={depth}: must be 6n + 2, as 8, 14, 20, 32, 44, 56 or 110")
        if width < 1:
            raise UserError(f"model.width={width}: must be at least 1")
        spec.require_size(f"{'resnet' if shortcuts else 'plain'}{depth}", 2)
        self.stem = nn.Sequential(
            nn.Conv2d(spec.channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        blocks = (depth - 2) // 6
        self.stage1 = self._stage(width, width, blocks, 1, shortcuts)
        self.stage2 = self._stage(width, 2 * width, blocks, 2, shortcuts)
        self.stage3 = self._stage(2 * width, 4 * width, blocks, 2, shortcuts)
        self.head = nn.Linear(4 * width, len(spec.classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @staticmethod
    def _stage(before: int, after: int, blocks: int, stride: int, shortcuts: bool) -> nn.Sequential:
        first = BasicBlock(before, after, stride, shortcuts)
        return nn.Sequential(first, *(BasicBlock(after, after, 1, shortcuts) for _ in range(blocks - 1)))

    def forward(self, images: Tensor) -> Tensor:
        features = self.stage3(self.stage2(self.stage1(self.stem(images))))
        return self.head(features.mean((2, 3)))

    def stages(self) -> dict[str, nn.Module]:
        return {name: getattr(self, name) for name in ("stem", "stage1", "stage2", "stage3", "head")}
