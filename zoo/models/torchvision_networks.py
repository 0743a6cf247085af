"""The ImageNet-size networks: torchvision's own, so that its published weights load with ``strict=True``."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.models.resnet import ResNet as TorchvisionResNet
from torchvision.models.vgg import VGG as TorchvisionVGG
from torchvision.models.vgg import cfgs as vgg_layers
from torchvision.models.vgg import make_layers
from torchvision.models.vision_transformer import VisionTransformer as TorchvisionVisionTransformer

from zoo.config.recipe import Recipe
from zoo.core.errors import UserError
from zoo.layers.attention import require_heads
from zoo.layers.dropout import dropout as make_dropout
from zoo.layers.inits import begin_head
from zoo.layers.norms import norm_2d
from zoo.registry.annotations import Norm
from zoo.registry.entry import register_model
from zoo.spec import ImageSpec
from zoo.tasks.classification import Classifier, in_color

# depth -> block and blocks a stage (He et al. 2015, table 1); 10 and 14 are the smallest of each kind
RESNETS = {
    10: (BasicBlock, [1, 1, 1, 1]),
    14: (Bottleneck, [1, 1, 1, 1]),
    18: (BasicBlock, [2, 2, 2, 2]),
    34: (BasicBlock, [3, 4, 6, 3]),
    50: (Bottleneck, [3, 4, 6, 3]),
    101: (Bottleneck, [3, 4, 23, 3]),
    152: (Bottleneck, [3, 8, 36, 3]),
}
VGGS = {11: "A", 13: "B", 16: "D", 19: "E"}  # torchvision's names for the columns of the paper's table 1
RESIDUAL = ["cnn", "residual", "imagenet"]
IMAGENET = ["cnn", "imagenet"]
TRANSFORMER = ["transformer", "attention", "imagenet"]
TINY_VIT = {"embed_dim": 16, "depth": 1, "num_heads": 2}
DIGITS = {"size": 32}
# torchvision's reference recipe: 90 epochs, 0.1 for a global batch of 256, down by ten every 30 epochs
RESNET_RECIPE = {
    "epochs": 90,
    "batch_size": 64,
    "optimizer": "sgd",
    "lr": 0.1,
    "lr_base_batch_size": 256,
    "weight_decay": 1e-4,
    "schedule": "cosine",
    "warmup_epochs": 5,
}
VGG_RECIPE = {
    "epochs": 90,
    "batch_size": 64,
    "optimizer": "sgd",
    "lr": 0.01,
    "lr_base_batch_size": 256,
    "weight_decay": 5e-4,
    "schedule": "cosine",
    "warmup_epochs": 5,
    "gradient_clip_val": 1.0,
}

# Dosovitskiy et al. 2020, table 3 and appendix B.1: AdamW in place of Adam with the same decoupled decay
VIT_RECIPE = {
    "epochs": 300,
    "batch_size": 64,
    "optimizer": "adamw",
    "lr": 3e-3,
    "lr_base_batch_size": 4096,
    "weight_decay": 0.3,
    "schedule": "cosine",
    "warmup_epochs": 30,
    "gradient_clip_val": 1.0,
}


class ImageNetClassifier(Classifier):
    """A network that expects color: gray images are given three equal channels."""

    channels_last = True
    network: nn.Module

    def forward(self, images: Tensor) -> Tensor:
        return self.network(in_color(images))


@register_model("resnet152", task="classification", depth=152, tags=RESIDUAL, data="digits", data_options=DIGITS,
                tiny={"depth": 14}, recipe=RESNET_RECIPE, paper="1512.03385")  # fmt: skip
@register_model("resnet101", task="classification", depth=101, tags=RESIDUAL, data="digits", data_options=DIGITS,
                tiny={"depth": 14}, recipe=RESNET_RECIPE, paper="1512.03385")  # fmt: skip
@register_model("resnet50", task="classification", depth=50, tags=RESIDUAL, data="digits", data_options=DIGITS,
                tiny={"depth": 14}, recipe=RESNET_RECIPE, paper="1512.03385")  # fmt: skip
@register_model("resnet34", task="classification", depth=34, tags=RESIDUAL, data="digits", data_options=DIGITS,
                tiny={"depth": 10}, recipe=RESNET_RECIPE, paper="1512.03385")  # fmt: skip
@register_model("resnet18", task="classification", depth=18, tags=RESIDUAL, data="digits", data_options=DIGITS,
                tiny={"depth": 10}, recipe=RESNET_RECIPE, paper="1512.03385")  # fmt: skip
class ImageNetResNet(ImageNetClassifier):
    """torchvision's residual network for images of ImageNet's size.

    Args:
        depth: 18, 34, 50, 101 or 152; 10 and 14 are small ones with one block a stage.
        norm: after each convolution; published weights have batch.
        zero_init_residual: each block's last norm starts at zero, so that a block starts as its shortcut (Goyal et al. 2017).
    """

    def __init__(
        self, spec: ImageSpec, recipe: Recipe, depth: int = 18, norm: Norm = "batch", zero_init_residual: bool = False
    ) -> None:
        super().__init__(spec, recipe)
        if depth not in RESNETS:
            raise UserError(f"model.depth={depth}: known are {', '.join(map(str, RESNETS))}")
        spec.require_size(f"resnet{depth}", 64 if norm == "instance" else 32)  # one pixel has no deviation
        if zero_init_residual and norm == "none":
            raise UserError("model.zero_init_residual=true: needs a norm to set to zero")
        self.network = TorchvisionResNet(
            *RESNETS[depth],
            num_classes=len(spec.classes),
            norm_layer=partial(norm_2d, norm),
            zero_init_residual=zero_init_residual,
        )

    def stages(self) -> dict[str, nn.Module]:
        network = self.network
        stem = nn.ModuleList([network.conv1, network.bn1])
        layers = {name: getattr(network, name) for name in ("layer1", "layer2", "layer3", "layer4")}
        return {"stem": stem, **layers, "head": network.fc}

    def feature_extractor(self) -> nn.Module:
        network = self.network
        stem = nn.Sequential(network.conv1, network.bn1, network.relu, network.maxpool)
        return nn.Sequential(stem, network.layer1, network.layer2, network.layer3, network.layer4)


@register_model("vgg19-bn-imagenet", task="classification", depth=19, batch_norm=True, tags=IMAGENET, data="digits",
                data_options=DIGITS, tiny={"depth": 11, "hidden_size": 16}, recipe=VGG_RECIPE, paper="1409.1556")  # fmt: skip
@register_model("vgg16-bn-imagenet", task="classification", depth=16, batch_norm=True, tags=IMAGENET, data="digits",
                data_options=DIGITS, tiny={"depth": 11, "hidden_size": 16}, recipe=VGG_RECIPE, paper="1409.1556")  # fmt: skip
@register_model("vgg13-bn-imagenet", task="classification", depth=13, batch_norm=True, tags=IMAGENET, data="digits",
                data_options=DIGITS, tiny={"depth": 11, "hidden_size": 16}, recipe=VGG_RECIPE, paper="1409.1556")  # fmt: skip
@register_model("vgg11-bn-imagenet", task="classification", depth=11, batch_norm=True, tags=IMAGENET, data="digits",
                data_options=DIGITS, tiny={"depth": 11, "hidden_size": 16}, recipe=VGG_RECIPE, paper="1409.1556")  # fmt: skip
@register_model("vgg19-imagenet", task="classification", depth=19, tags=IMAGENET, data="digits", data_options=DIGITS,
                tiny={"depth": 11, "hidden_size": 16}, recipe=VGG_RECIPE, paper="1409.1556")  # fmt: skip
@register_model("vgg16-imagenet", task="classification", depth=16, tags=IMAGENET, data="digits", data_options=DIGITS,
                tiny={"depth": 11, "hidden_size": 16}, recipe=VGG_RECIPE, paper="1409.1556")  # fmt: skip
@register_model("vgg13-imagenet", task="classification", depth=13, tags=IMAGENET, data="digits", data_options=DIGITS,
                tiny={"depth": 11, "hidden_size": 16}, recipe=VGG_RECIPE, paper="1409.1556")  # fmt: skip
@register_model("vgg11-imagenet", task="classification", depth=11, tags=IMAGENET, data="digits", data_options=DIGITS,
                tiny={"depth": 11, "hidden_size": 16}, recipe=VGG_RECIPE, paper="1409.1556")  # fmt: skip
class ImageNetVGG(ImageNetClassifier):
    """torchvision's VGG for images of ImageNet's size, with its three fully connected layers.

    Args:
        depth: 11, 13, 16 or 19.
        batch_norm: after each convolution.
        hidden_size: width of the two hidden fully connected layers; published weights have 4096.
        dropout: share of their units that are silenced in training.
    """

    def __init__(
        self,
        spec: ImageSpec,
        recipe: Recipe,
        depth: int = 16,
        batch_norm: bool = False,
        hidden_size: int = 4096,
        dropout: float = 0.5,
    ) -> None:
        super().__init__(spec, recipe)
        if depth not in VGGS:
            raise UserError(f"model.depth={depth}: a VGG has {', '.join(map(str, VGGS))} layers")
        if hidden_size < 1:
            raise UserError(f"model.hidden_size={hidden_size}: must be at least 1")
        spec.require_size(f"vgg{depth}-imagenet", 32)
        features = make_layers(vgg_layers[VGGS[depth]], batch_norm=batch_norm)
        self.network = TorchvisionVGG(features, num_classes=len(spec.classes), dropout=make_dropout(dropout).p)
        if hidden_size != 4096:
            classifier = self.network.classifier
            classifier[0] = nn.Linear(classifier[0].in_features, hidden_size)
            classifier[3] = nn.Linear(hidden_size, hidden_size)
            classifier[6] = nn.Linear(hidden_size, len(spec.classes))

    def stages(self) -> dict[str, nn.Module]:
        blocks: list[nn.ModuleList] = [nn.ModuleList()]
        for layer in self.network.features:
            blocks[-1].append(layer)
            if isinstance(layer, nn.MaxPool2d):
                blocks.append(nn.ModuleList())
        stages = {f"block{i}": block for i, block in enumerate(blocks, 1) if len(block)}
        return {**stages, "hidden": self.network.classifier[:-1], "head": self.network.classifier[-1]}

    def feature_extractor(self) -> nn.Module:
        return self.network.features


@register_model("vit-l16-imagenet", task="classification", embed_dim=1024, depth=24, num_heads=16, tags=TRANSFORMER,
                data="digits", data_options=DIGITS, tiny=TINY_VIT, recipe=VIT_RECIPE, paper="2010.11929")  # fmt: skip
@register_model("vit-b16-imagenet", task="classification", tags=TRANSFORMER, data="digits", data_options=DIGITS,
                tiny=TINY_VIT, recipe=VIT_RECIPE, paper="2010.11929")  # fmt: skip
class ImageNetVisionTransformer(ImageNetClassifier):
    """torchvision's vision transformer for images of ImageNet's size, with a class token and learned positions.

    Args:
        patch_size: pixels a side of a patch; must divide the sides of the image.
        embed_dim: numbers that stand for a patch; each block's perceptron has four times as many.
        depth: transformer blocks.
        num_heads: of the attention in each block; must divide the width.
        dropout: share of the features that are silenced in training.
    """

    channels_last = False

    def __init__(
        self,
        spec: ImageSpec,
        recipe: Recipe,
        patch_size: int = 16,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(spec, recipe)
        spec.require_patches("vit", patch_size)
        require_heads(embed_dim, num_heads)
        if spec.height != spec.width:
            raise UserError(f"this network takes square images, not {spec.height}x{spec.width}; vit takes any that patches fill")
        if depth < 1:
            raise UserError(f"model.depth={depth}: must be at least 1")
        self.network = TorchvisionVisionTransformer(
            spec.height,
            patch_size,
            depth,
            num_heads,
            embed_dim,
            4 * embed_dim,
            make_dropout(dropout).p,
            num_classes=len(spec.classes),
        )
        begin_head(self.network.heads.head)

    def stages(self) -> dict[str, nn.Module]:
        network, encoder = self.network, self.network.encoder
        embedding = nn.ModuleList([network.conv_proj, nn.ParameterList([network.class_token, encoder.pos_embedding])])
        blocks = {f"block{i}": block for i, block in enumerate(encoder.layers, 1)}
        return {"embedding": embedding, **blocks, "norm": encoder.ln, "head": network.heads.head}
