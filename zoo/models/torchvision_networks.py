"""Networks for ImageNet: torchvision's own, so that its weights load with ``strict=True``."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.models.resnet import ResNet as TorchvisionResNet
from torchvision.models.vgg import VGG as TorchvisionVGG
from torchvision.models.vgg import cfgs as vgg_layers
from torchvision.models.vgg import make_layers
from torchvision.models.vision_transformer import VisionTransformer as TorchvisionVisionTransformer

from zoo.config.options import require_positive
from zoo.config.recipe import Recipe
from zoo.core.errors import UserError
from zoo.layers.attention import require_heads
from zoo.layers.dropout import dropout as make_dropout
from zoo.layers.inits import reset_head
from zoo.layers.norms import norm_2d
from zoo.layers.stochastic_depth import drop_path_after, drop_path_rates
from zoo.registry.annotations import Norm
from zoo.registry.entry import register_model
from zoo.spec import ImageSpec
from zoo.tasks.images import ImageModel
from zoo.tasks.library import LibraryModel
from zoo.tasks.pixels import in_color

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
VITS = {  # torchvision's names, by patch size, width, depth and heads
    (16, 768, 12, 12): "vit_b_16",
    (32, 768, 12, 12): "vit_b_32",
    (16, 1024, 24, 16): "vit_l_16",
    (32, 1024, 24, 16): "vit_l_32",
    (14, 1280, 32, 16): "vit_h_14",
}
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
VGG_RECIPE = {**RESNET_RECIPE, "lr": 0.01, "weight_decay": 5e-4, "gradient_clip_val": 1.0}

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

DIGITS = {"data": "digits", "data_options": {"size": 32}}
RESNET = {
    **DIGITS,
    "tags": ["cnn", "residual", "imagenet"],
    "tiny": {"depth": 10},
    "recipe": RESNET_RECIPE,
    "paper": "1512.03385",
}
BOTTLENECK = {**RESNET, "tiny": {"depth": 14}}
TINY_VGG = {"depth": 11, "hidden_size": 16}
VGG = {**DIGITS, "tags": ["cnn", "imagenet"], "tiny": TINY_VGG, "recipe": VGG_RECIPE, "paper": "1409.1556"}
TINY_VIT = {"embed_dim": 16, "depth": 1, "num_heads": 2}
VIT = {**DIGITS, "tags": ["transformer", "attention", "imagenet"], "tiny": TINY_VIT, "recipe": VIT_RECIPE, "paper": "2010.11929"}


class ImageNetClassifier(ImageModel):
    """Network for color images; gray ones are repeated over three channels."""

    channels_last = True
    repeats_gray = True
    network: nn.Module

    def forward(self, images: Tensor) -> Tensor:
        return self.network(in_color(images))


@register_model("resnet152", task="classification", summary="ResNet-152 (He et al. 2015)", depth=152, **BOTTLENECK)
@register_model("resnet101", task="classification", summary="ResNet-101 (He et al. 2015)", depth=101, **BOTTLENECK)
@register_model("resnet50", task="classification", summary="ResNet-50 (He et al. 2015)", depth=50, **BOTTLENECK)
@register_model("resnet34", task="classification", summary="ResNet-34 (He et al. 2015)", depth=34, **RESNET)
@register_model("resnet18", task="classification", summary="ResNet-18 (He et al. 2015)", depth=18, **RESNET)
class ImageNetResNet(ImageNetClassifier):
    """ResNet of torchvision.

    Args:
        depth: 18, 34, 50, 101 or 152; 10 and 14 are small ones with one block a stage.
        norm: normalization after each convolution; pretrained weights have batch.
        zero_init_residual: zero-initialize the last norm of each block, so that it starts as an identity (Goyal et al. 2017).
        drop_path_rate: stochastic depth: drop probability of the last residual branch, to which it rises from the first.
    """

    def __init__(
        self,
        spec: ImageSpec,
        recipe: Recipe | None = None,
        depth: int = 18,
        norm: Norm = "batch",
        zero_init_residual: bool = False,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__(spec, recipe)
        if depth not in RESNETS:
            raise UserError(f"model.depth={depth}: choose from {', '.join(map(str, RESNETS))}")
        spec.require_size(f"resnet{depth}", 64 if norm == "instance" else 32)  # instance norm needs more than one pixel
        if zero_init_residual and norm == "none":
            raise UserError("model.zero_init_residual=true: needs a norm to set to zero")
        options = {"norm_layer": partial(norm_2d, norm), "zero_init_residual": zero_init_residual}
        self.network = TorchvisionResNet(*RESNETS[depth], num_classes=spec.outputs, **options)
        blocks = [block for layer in list(self.stages().values())[1:-1] for block in layer]
        for block, rate in zip(blocks, drop_path_rates(drop_path_rate, len(blocks)), strict=True):
            drop_path_after(block.bn3 if isinstance(block, Bottleneck) else block.bn2, rate)
        if norm == "batch" and depth >= 18:
            self.library_model = LibraryModel("torchvision", f"resnet{depth}")

    def stages(self) -> dict[str, nn.Module]:
        network = self.network
        stem = nn.ModuleList([network.conv1, network.bn1])
        layers = {name: getattr(network, name) for name in ("layer1", "layer2", "layer3", "layer4")}
        return {"stem": stem, **layers, "head": network.fc}

    def feature_extractor(self) -> nn.Module:
        network = self.network
        stem = nn.Sequential(network.conv1, network.bn1, network.relu, network.maxpool)
        return nn.Sequential(stem, network.layer1, network.layer2, network.layer3, network.layer4)


@register_model("vgg19-bn-imagenet", task="classification", summary="VGG-19 with batch norm", depth=19, batch_norm=True, **VGG)
@register_model("vgg16-bn-imagenet", task="classification", summary="VGG-16 with batch norm", depth=16, batch_norm=True, **VGG)
@register_model("vgg13-bn-imagenet", task="classification", summary="VGG-13 with batch norm", depth=13, batch_norm=True, **VGG)
@register_model("vgg11-bn-imagenet", task="classification", summary="VGG-11 with batch norm", depth=11, batch_norm=True, **VGG)
@register_model("vgg19-imagenet", task="classification", summary="VGG-19 (Simonyan and Zisserman 2014)", depth=19, **VGG)
@register_model("vgg16-imagenet", task="classification", summary="VGG-16 (Simonyan and Zisserman 2014)", depth=16, **VGG)
@register_model("vgg13-imagenet", task="classification", summary="VGG-13 (Simonyan and Zisserman 2014)", depth=13, **VGG)
@register_model("vgg11-imagenet", task="classification", summary="VGG-11 (Simonyan and Zisserman 2014)", depth=11, **VGG)
class ImageNetVGG(ImageNetClassifier):
    """VGG of torchvision, with its three fully connected layers.

    Args:
        depth: 11, 13, 16 or 19.
        batch_norm: batch norm after each convolution.
        hidden_size: width of the two fully connected hidden layers; pretrained weights have 4096.
        dropout: dropout probability of the hidden layers.
    """

    def __init__(
        self,
        spec: ImageSpec,
        recipe: Recipe | None = None,
        depth: int = 16,
        batch_norm: bool = False,
        hidden_size: int = 4096,
        dropout: float = 0.5,
    ) -> None:
        super().__init__(spec, recipe)
        if depth not in VGGS:
            raise UserError(f"model.depth={depth}: a VGG has {', '.join(map(str, VGGS))} layers")
        require_positive(hidden_size=hidden_size)
        spec.require_size(f"vgg{depth}-imagenet", 32)
        features = make_layers(vgg_layers[VGGS[depth]], batch_norm=batch_norm)
        is_published_size = hidden_size == 4096
        with nullcontext() if is_published_size else torch.device("meta"):  # layers of 120 million weights to be replaced
            self.network = TorchvisionVGG(features, num_classes=spec.outputs, dropout=make_dropout(dropout).p)
        if is_published_size:
            self.library_model = LibraryModel("torchvision", f"vgg{depth}{'_bn' if batch_norm else ''}")
        else:
            classifier = self.network.classifier
            classifier[0] = nn.Linear(classifier[0].in_features, hidden_size)
            classifier[3] = nn.Linear(hidden_size, hidden_size)
            classifier[6] = nn.Linear(hidden_size, spec.outputs)

    def stages(self) -> dict[str, nn.Module]:
        layers = self.network.features
        ends = [i for i, layer in enumerate(layers, 1) if isinstance(layer, nn.MaxPool2d)]
        stages = {f"block{i}": layers[start:end] for i, (start, end) in enumerate(pairwise([0, *ends]), 1)}
        return {**stages, "hidden": self.network.classifier[:-1], "head": self.network.classifier[-1]}

    def feature_extractor(self) -> nn.Module:
        return self.network.features


@register_model("vit-l16-imagenet", task="classification", summary="ViT-L/16 (Dosovitskiy et al. 2020)", embed_dim=1024, depth=24,
                num_heads=16, **VIT)  # fmt: skip
@register_model("vit-b16-imagenet", task="classification", summary="ViT-B/16 (Dosovitskiy et al. 2020)", **VIT)
class ImageNetVisionTransformer(ImageNetClassifier):
    """Vision transformer of torchvision, with a class token and learned position embeddings.

    Args:
        patch_size: side of a patch in pixels; must divide height and width of the image.
        embed_dim: dimensions of a patch embedding; the MLPs have four times as many.
        depth: number of transformer blocks.
        num_heads: attention heads of each block; must divide embed_dim.
        dropout: dropout probability.
        drop_path_rate: stochastic depth: drop probability of the last residual branch, to which it rises from the first.
    """

    channels_last = False

    def __init__(
        self,
        spec: ImageSpec,
        recipe: Recipe | None = None,
        patch_size: int = 16,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        dropout: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__(spec, recipe)
        spec.require_patches("vit", patch_size)
        require_heads(embed_dim, num_heads)
        if spec.height != spec.width:
            raise UserError(f"this network needs square images, not {spec.height}x{spec.width}; vit takes other shapes too")
        require_positive(depth=depth)
        sizes = spec.height, patch_size, depth, num_heads, embed_dim, 4 * embed_dim
        self.network = TorchvisionVisionTransformer(*sizes, make_dropout(dropout).p, num_classes=spec.outputs)
        for block, rate in zip(self.network.encoder.layers, drop_path_rates(drop_path_rate, depth), strict=True):
            drop_path_after(block.dropout, rate)
            drop_path_after(block.mlp, rate)
        if name := VITS.get((patch_size, embed_dim, depth, num_heads)):
            self.library_model = LibraryModel("torchvision", name, {"image_size": spec.height})
        reset_head(self.network.heads.head)

    def stages(self) -> dict[str, nn.Module]:
        network, encoder = self.network, self.network.encoder
        embedding = nn.ModuleList([network.conv_proj, nn.ParameterList([network.class_token, encoder.pos_embedding])])
        blocks = {f"block{i}": block for i, block in enumerate(encoder.layers, 1)}
        return {"embedding": embedding, **blocks, "norm": encoder.ln, "head": network.heads.head}
