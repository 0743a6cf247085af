"""Any network of torchvision or timm, by its name there; its stages are derived from its modules."""

from __future__ import annotations

from torch import Tensor, nn

from zoo.config.recipe import Recipe
from zoo.core.errors import UserError, did_you_mean, one_line
from zoo.layers.inits import reset_head
from zoo.registry.entry import register_model
from zoo.spec import ImageSpec
from zoo.tasks.classification import Classifier, in_color
from zoo.tasks.library import LibraryModel

IMAGENET_STATISTICS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of torchvision's weights (torchvision.transforms._presets)
# names of sequential containers in torchvision and timm
CONTAINERS = {"features", "layers", "blocks", "stages", "encoder", "trunk_output", "levels"}
RECIPE = {"epochs": 60, "batch_size": 64, "lr": 1e-3, "weight_decay": 0.05, "schedule": "one-cycle", "gradient_clip_val": 1.0}
COMMON = {"tags": ["cnn", "imagenet", "library"], "data": "digits", "data_options": {"size": 32}, "recipe": RECIPE}


class LibraryNetwork(Classifier):
    """Network of a library; gray images are repeated over three channels."""

    channels_last = True
    size_of_files = 224
    network: nn.Module
    head: str  # name of the output layer

    def forward(self, images: Tensor) -> Tensor:
        return self.network(in_color(images))

    def stages(self) -> dict[str, nn.Module]:
        return stages_of(self.network, self.head)


@register_model("torchvision", task="classification", tiny={"network": "squeezenet1_1"}, **COMMON)
class TorchvisionNetwork(LibraryNetwork):
    """Any classification network of torchvision: with a new head for the classes of the data.

    Args:
        network: name in torchvision, as in resnet50, convnext_tiny or swin_t.
    """

    statistics_of_files = IMAGENET_STATISTICS
    left_out = ("aux1.", "aux2.", "AuxLogits.")  # auxiliary classifiers

    def __init__(self, spec: ImageSpec, recipe: Recipe | None = None, network: str = "resnet18") -> None:
        super().__init__(spec, recipe)
        from torchvision import models

        known = models.list_models(module=models)
        if network not in known:
            raise UserError(f"model.network={network}: torchvision has no such network{did_you_mean(network, known)}")
        spec.require_size(f"torchvision's {network}", 32)
        auxiliary = {"googlenet", "inception_v3"}
        # their weights expect another normalization; transform_input converts from ImageNet's, as in torchvision
        options = {"aux_logits": False, "transform_input": True, "init_weights": True} if network in auxiliary else {}
        if network.startswith("vit_"):
            options = {"image_size": _square_side(spec, network)}
        if network.startswith("maxvit"):
            options = {"input_size": (spec.height, spec.width)}
        try:
            self.network = models.get_model(network, weights=None, num_classes=len(spec.classes), **options)
        except (ValueError, RuntimeError) as error:
            raise UserError(f"model.network={network} for images of {spec.height}x{spec.width}: {one_line(error, 200)}") from None
        self.library_model = LibraryModel("torchvision", network, options | dict.fromkeys({"init_weights"} & set(options), False))
        self.head = _last_layer(self.network, len(spec.classes))
        reset_head(self.network.get_submodule(self.head))


@register_model("timm", task="classification", tiny={"network": "test_efficientnet"}, **COMMON)
class TimmNetwork(LibraryNetwork):
    """Any network of timm: with a new head for the classes of the data.

    Args:
        network: name in timm, with or without a pretrained tag, as in resnet50 or vit_base_patch16_224.augreg_in1k.
    """

    def __init__(self, spec: ImageSpec, recipe: Recipe | None = None, network: str = "resnet18") -> None:
        super().__init__(spec, recipe)
        try:
            import timm
        except ImportError:
            raise UserError("timm's networks need timm, which is not installed: pip install 'bestiary[timm]'") from None
        name = network.partition(".")[0]
        if not timm.is_model(name):
            raise UserError(f"model.network={network}: timm has no such network{did_you_mean(name, timm.list_models())}")
        spec.require_size(f"timm's {network}", 32)
        config = timm.get_pretrained_cfg(network, allow_unregistered=True)
        size = {"img_size": _square_side(spec, network)} if config and config.fixed_input_size else {}
        try:
            self.network = timm.create_model(name, pretrained=False, num_classes=len(spec.classes), **size)
        except (AssertionError, ValueError, RuntimeError) as error:
            raise UserError(f"model.network={network} for images of {spec.height}x{spec.width}: {one_line(error, 200)}") from None
        self.library_model = LibraryModel("timm", name, size)
        head = self.network.get_classifier() if hasattr(self.network, "get_classifier") else None
        names = [name for name, module in self.network.named_modules() if module is head]
        if not isinstance(head, (nn.Linear, nn.Conv2d)) or not names:
            raise UserError(f"model.network={network}: its head is not a single layer")
        self.head = names[0]
        reset_head(head)
        if config and len(config.mean) == 3:
            self.statistics_of_files = tuple(config.mean), tuple(config.std)


def stages_of(network: nn.Module, head: str) -> dict[str, nn.Module]:
    """Stages of a network from input to output, by module name; ``head`` is the last.

    Sequential containers and whatever contains the head are split into their children; all else is one stage. Parameters outside
    of them, as class tokens are, make the first stage, ``tokens``.
    """
    stages: dict[str, nn.Module] = {}
    loose: list[nn.Parameter] = []

    def take(module: nn.Module, name: str) -> None:
        holds_head = head == name or head.startswith(f"{name}.") or not name
        if name == head or not (holds_head or name.rpartition(".")[2] in CONTAINERS):
            stages[name] = module
            return
        loose.extend(module.parameters(recurse=False))
        for child, part in module.named_children():
            if next(part.parameters(), None) is not None or next(part.buffers(), None) is not None:
                take(part, f"{name}.{child}" if name else child)

    take(network, "")
    first = {"tokens": nn.ParameterList(loose)} if loose else {}
    last = stages.pop(head)
    return {**first, **stages, "head": last}


def _last_layer(network: nn.Module, classes: int) -> str:
    """Name of the last layer with as many outputs as there are classes."""
    layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, (nn.Linear, nn.Conv2d))}
    return [name for name, layer in layers.items() if layer.weight.shape[0] == classes][-1]


def _square_side(spec: ImageSpec, network: str) -> int:
    if spec.height != spec.width:
        raise UserError(f"{network} needs square images, not {spec.height}x{spec.width}: resize them with --set data.size=224")
    return spec.height
