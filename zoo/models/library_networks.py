"""Any network of torchvision or timm, by its name there; its stages are derived from its modules."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from torch import Tensor, nn

from zoo.config.recipe import Recipe
from zoo.core.errors import UserError, did_you_mean, one_line, unknown
from zoo.layers.inits import reset_head
from zoo.layers.stochastic_depth import checked_rate
from zoo.registry.entry import register_model
from zoo.spec import ImageSpec
from zoo.tasks.images import ImageModel
from zoo.tasks.library import LibraryModel
from zoo.tasks.pixels import in_color

IMAGENET_STATISTICS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of torchvision's weights (torchvision.transforms._presets)
# of the functions that build networks: what follows from the data, and what loads weights
NOT_ARGUMENTS = {
    "num_classes", "in_chans", "img_size", "image_size", "input_size", "weights", "progress", "features_only", "aux_logits",
}  # fmt: skip
OTHER_ARGUMENTS = {"MobileNetV3": {"width_mult", "reduced_tail", "dilated"}}  # of the functions, beside those of the class
# names of sequential containers in torchvision and timm
CONTAINERS = {"features", "layers", "blocks", "stages", "encoder", "trunk_output", "levels"}
RECIPE = {"epochs": 60, "batch_size": 64, "lr": 1e-3, "weight_decay": 0.05, "schedule": "one-cycle", "gradient_clip_val": 1.0}
COMMON = {"tags": ["cnn", "imagenet", "library"], "data": "digits", "data_options": {"size": 32}, "recipe": RECIPE}


class LibraryNetwork(ImageModel):
    """Network of a library; gray images are repeated over three channels."""

    channels_last = True
    repeats_gray = True
    size_of_files = 224
    network: nn.Module
    head: str  # name of the output layer

    def forward(self, images: Tensor) -> Tensor:
        return self.network(in_color(images))

    def stages(self) -> dict[str, nn.Module]:
        return stages_of(self.network, self.head)

    def _what_follows_the_features(self) -> tuple[nn.Module, ...]:
        after = super()._what_follows_the_features()
        is_dropped = any(isinstance(module, nn.Dropout) for module in after)
        # some of timm's networks drop features by a function, which no hook can see
        return () if getattr(self.network, "drop_rate", 0) and not is_dropped else after

    def _build(self, title: str, create: Callable[..., nn.Module], arguments: dict[str, Any], **derived: Any) -> nn.Module:
        """Build the network with the user's arguments and those that follow from the data.

        Raises:
            UserError: the network has no such argument, or the library refuses its value.
        """
        factory = NOT_ARGUMENTS | set(inspect.signature(create).parameters)
        if refused := [name for name in arguments if name in factory and name != "kwargs"]:
            raise UserError(f"model.{refused[0]}: is not an argument that {title} takes from its user: omit it")
        for name, value in arguments.items():  # whose range the libraries check in the first step
            if ("drop" in name or name == "stochastic_depth_prob") and isinstance(value, (int, float)):
                checked_rate(value, name)
        try:
            return create(**arguments, **derived)
        except TypeError as error:
            _require_taken(title, create(**derived), arguments)
            raise UserError(f"{title} with {arguments}: {one_line(error, 200)}") from None
        except (AssertionError, ValueError, RuntimeError) as error:
            size = f"{self.spec.height}x{self.spec.width}"
            raise UserError(f"model.network={title.partition(' ')[2]} for images of {size}: {one_line(error, 200)}") from None


@register_model("torchvision", task="classification", tiny={"network": "squeezenet1_1"}, **COMMON)
class TorchvisionNetwork(LibraryNetwork):
    """Any classification network of torchvision: with a new head for the classes of the data.

    Args:
        network: name in torchvision, as in resnet50, convnext_tiny or swin_t.
        network_args: its arguments there, as in {"stochastic_depth_prob": 0.2}; model.stochastic_depth_prob=0.2 sets one.
    """

    statistics_of_files = IMAGENET_STATISTICS
    left_out = ("aux1.", "aux2.", "AuxLogits.")  # auxiliary classifiers

    def __init__(
        self,
        spec: ImageSpec,
        recipe: Recipe | None = None,
        network: str = "resnet18",
        network_args: dict[str, Any] = {},  # noqa: B006
    ) -> None:
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
        create = models.get_model_builder(network)
        options = {name: value for name, value in options.items() if name not in network_args}
        self.network = self._build(f"torchvision's {network}", create, network_args, num_classes=spec.outputs, **options)
        constructed = options | dict.fromkeys({"init_weights"} & set(options), False)
        _require_taken(f"torchvision's {network}", self.network, network_args)  # some, as ConvNeXt, take any in silence
        self.library_model = LibraryModel("torchvision", network, {**constructed, **network_args})
        self.head = _last_layer(self.network, spec.outputs)
        reset_head(self.network.get_submodule(self.head))

    def converted_weights(self, state: dict[str, Tensor]) -> dict[str, Tensor] | None:
        if not self.library_model.name.startswith("vit_") or "encoder.pos_embedding" not in state:
            return None
        from torchvision.models.vision_transformer import interpolate_embeddings

        return dict(interpolate_embeddings(self.network.image_size, self.network.patch_size, OrderedDict(state)))


@register_model("timm", task="classification", tiny={"network": "test_efficientnet"}, **COMMON)
class TimmNetwork(LibraryNetwork):
    """Any network of timm: with a new head for the classes of the data.

    Args:
        network: name in timm, with or without a pretrained tag, as in resnet50 or vit_base_patch16_224.augreg_in1k.
        network_args: its arguments there, as in {"drop_path_rate": 0.1}; model.drop_path_rate=0.1 sets one.
    """

    def __init__(
        self,
        spec: ImageSpec,
        recipe: Recipe | None = None,
        network: str = "resnet18",
        network_args: dict[str, Any] = {},  # noqa: B006
    ) -> None:
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
        create = partial(timm.create_model, name)
        self.network = self._build(f"timm's {network}", create, network_args, num_classes=spec.outputs, **size)
        self.library_model = LibraryModel("timm", name, {**size, **network_args})
        head = self.network.get_classifier() if hasattr(self.network, "get_classifier") else None
        names = [name for name, module in self.network.named_modules() if module is head]
        if not isinstance(head, (nn.Linear, nn.Conv2d)) or not names:
            raise UserError(f"model.network={network}: its head is not a single layer")
        self.head = names[0]
        reset_head(head)
        self.pretrained_cfg = config
        if config and len(config.mean) == 3:
            self.statistics_of_files = tuple(config.mean), tuple(config.std)

    def converted_weights(self, state: dict[str, Tensor]) -> dict[str, Tensor] | None:
        import timm

        head = state.get(f"{self.head}.weight")
        classes = 0 if head is None else len(head)
        offset = (
            self.pretrained_cfg.label_offset or 0 if self.pretrained_cfg else 0
        )  # of weights with a background class in front
        offset = offset if offset and classes == self.pretrained_cfg.num_classes + offset else 0
        published = {"state_dict": state, "num_classes": classes - offset, "label_offset": offset}
        options = {**self.library_model.arguments, "num_classes": classes - offset}
        try:
            name = self.library_model.name
            return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=published, **options).state_dict()
        except Exception:  # weights of another network raise almost any, and are refused by name
            return None


def _require_taken(title: str, network: nn.Module, arguments: Iterable[str]) -> None:
    """Refuse arguments that the class of a network does not name.

    Raises:
        UserError: with the nearest ones that it does.
    """
    parameters = inspect.signature(type(network).__init__).parameters
    named = {name for name, each in parameters.items() if each.kind is not each.VAR_KEYWORD}
    taken = sorted((named | OTHER_ARGUMENTS.get(type(network).__name__, set())) - NOT_ARGUMENTS - {"self"})
    for name in arguments:
        if name not in taken:
            raise unknown(f"argument of {title}", name, [*taken, "network"])


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
