"""Any image network of the zoo as an encoder: images in, feature map out, frozen or trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from zoo.config.options import check_options
from zoo.config.recipe import Recipe
from zoo.core.errors import UserError, did_you_mean, one_line
from zoo.core.fingerprint import fingerprint
from zoo.registry.entry import Entry
from zoo.registry.registry import current_registry
from zoo.spec import ImageSpec

PRETRAINED = "pretrained"  # the weights that come with a model


class ImageEncoder(nn.Module):
    """Image network without its head.

    Args:
        name: classification model with a feature map, as in ``resnet20``.
        spec: image size and normalization.
        recipe: recipe of the whole training.
        options: options of the network, as in ``{"width": 32}``.
        weights: initial weights: ``pretrained``, or the name or path of a run; empty is random initialization.
        frozen: no training; norms keep their running statistics.

    Attributes:
        features: channels of the feature map.
        grid: rows and columns of the feature map.

    Raises:
        UserError: unknown network or option, no feature map, or frozen without pretrained weights.
    """

    def __init__(
        self,
        name: str,
        spec: ImageSpec,
        recipe: Recipe | None = None,
        options: dict[str, Any] | None = None,
        weights: str = "",
        frozen: bool = False,
    ) -> None:
        super().__init__()
        if frozen and not weights:
            raise UserError(
                "model.freeze_encoder=true: an encoder without pretrained weights cannot be frozen: set model.encoder_weights"
            )
        self.name, self.weights, self.frozen = name, weights, frozen
        self._build = lambda: _image_network(name).load()(
            replace(spec, classes=("any",)), recipe, **check_options(_image_network(name), options or {})
        )
        network = self._build()
        self.channels_last = network.channels_last
        self.network = network.feature_extractor()
        # in the state dict, as pretrained weights bring their own normalization
        self.register_buffer("input_scale", network.input_scale.clone())
        self.register_buffer("input_shift", network.input_shift.clone())
        if frozen:
            self.requires_grad_(False)
        self.train(False)
        with torch.no_grad():
            _, self.features, *grid = self._encode(torch.zeros(1, *spec.shape)).shape
        self.grid: tuple[int, int] = tuple(grid)
        self.train(True)

    def forward(self, images: Tensor) -> Tensor:
        """Images [N, C, H, W], 0 to 255, to feature maps [N, features, rows, columns]; cached features pass through."""
        are_features = self.frozen and images.shape[1:] == (self.features, *self.grid)
        return images.to(self.input_scale) if are_features else self._encode(images)

    def _encode(self, images: Tensor) -> Tensor:
        images = images.to(self.input_scale) * self.input_scale + self.input_shift
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return self.network(images)

    def train(self, mode: bool = True) -> ImageEncoder:
        return super().train(mode and not self.frozen)

    def load_pretrained(self, open_run: Callable[[str], nn.Module]) -> None:
        """Load the pretrained weights, with the normalization that belongs to them.

        Args:
            open_run: returns the network of a run.

        Raises:
            UserError: there are no pretrained weights, or the run has another network.
        """
        if not self.weights:
            return
        if self.weights == PRETRAINED:
            network = self._build()
            network.load_pretrained_weights()
        else:
            network = open_run(self.weights)
        try:
            self.network.load_state_dict(network.feature_extractor().state_dict())
        except (RuntimeError, AttributeError) as error:
            raise UserError(f"model.encoder_weights={self.weights}: does not fit {self.name}: {one_line(error, 150)}") from None
        self.input_scale.copy_(network.input_scale)
        self.input_shift.copy_(network.input_shift)

    def prepare(self, data: Any) -> None:
        """Replace the images of the data by cached features if the encoder is frozen and there is no augmentation."""
        if self.frozen and data.augment == "none":
            data.cache_features(self, self.identity)

    @property
    def identity(self) -> str:
        """Fingerprint of network and weights, the key of cached features."""
        return fingerprint(self.network, self.state_dict())


class EncodesImages:
    """Mixin of tasks with an ``ImageEncoder``: builds it, loads its weights and caches its features.

    Args:
        encoder: image network of the zoo, used without its head.
        encoder_options: options of the encoder, as in {"width": 32}; {} for its defaults.
        encoder_weights: initial weights: pretrained, a run, a trained model, a file or wandb:NAME:ALIAS; empty for random ones.
        freeze_encoder: keep the encoder fixed and compute the features of each image only once.
    """

    def __init__(
        self,
        spec: Any,
        recipe: Recipe | None = None,
        encoder: str = "convnet",
        encoder_options: dict[str, Any] = {"channels": [16, 32, 64], "norm": "batch"},  # noqa: B006
        encoder_weights: str = "",
        freeze_encoder: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(spec, recipe, **options)
        self.encoder = ImageEncoder(encoder, spec.image, self.recipe, encoder_options, encoder_weights, freeze_encoder)

    def load_pretrained(self, open_run: Callable[[str], nn.Module]) -> None:
        self.encoder.load_pretrained(open_run)

    def prepare(self, data: Any) -> None:
        self.encoder.prepare(data)


def _image_network(name: str) -> Entry:
    registry = current_registry()
    networks = {entry.name: entry for entry in registry.models.values() if entry.task == "classification"}
    if name not in networks:
        raise UserError(f"model.encoder={name}: not an image network of the zoo{did_you_mean(name, networks)}")
    return networks[name]
