"""Any image network of the zoo as the eye of a larger one: pixels in, a map of features out, frozen or trained."""

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
    """An image network without its head.

    Args:
        name: of a model for classification that has a feature map, as in ``resnet20``.
        spec: what the images are.
        recipe: of the whole training.
        options: of the network, as in ``{"width": 32}``.
        weights: initial weights: ``pretrained``, or the name or path of a run; empty is random initialization.
        frozen: nothing in it is trained, and its norms keep the statistics that they came with.

    Attributes:
        features: channels of the map.
        grid: rows and columns of the map.

    Raises:
        UserError: there is no such network, an option does not fit it, it has no feature map, or it is to be frozen and has
            learned nothing.
    """

    def __init__(
        self,
        name: str,
        spec: ImageSpec,
        recipe: Recipe,
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
        # in the state dict, since weights that were learned before bring statistics of their own
        self.register_buffer("input_scale", network.input_scale.clone())
        self.register_buffer("input_shift", network.input_shift.clone())
        if frozen:
            self.requires_grad_(False)
        self.train(False)
        with torch.no_grad():
            _, self.features, *grid = self._look(torch.zeros(1, *spec.shape)).shape
        self.grid: tuple[int, int] = tuple(grid)
        self.train(True)

    def forward(self, images: Tensor) -> Tensor:
        """Images [N, C, H, W] of values from 0 to 255 to a map [N, features, rows, columns]; kept features are one already."""
        are_features = self.frozen and images.shape[1:] == (self.features, *self.grid)
        return images.to(self.input_scale) if are_features else self._look(images)

    def _look(self, images: Tensor) -> Tensor:
        images = images.to(self.input_scale) * self.input_scale + self.input_shift
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return self.network(images)

    def train(self, mode: bool = True) -> ImageEncoder:
        return super().train(mode and not self.frozen)

    def load_pretrained(self, open_run: Callable[[str], nn.Module]) -> None:
        """Take over the weights that were asked for, with the statistics that their network normalizes images by.

        Args:
            open_run: gives the network of a run.

        Raises:
            UserError: it was not published with any, or the run's network is another.
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
        """Put features in place of the images of the data if they are the same in every epoch, computed once and kept."""
        if self.frozen and data.augment == "none":
            data.cache_features(self, self.identity)

    @property
    def identity(self) -> str:
        """A fingerprint of all that decides on its features: the network and its weights."""
        return fingerprint(self.network, self.state_dict())


def _image_network(name: str) -> Entry:
    registry = current_registry()
    networks = {entry.name: entry for entry in registry.models.values() if entry.task == "classification"}
    if name not in networks:
        raise UserError(f"model.encoder={name}: is no image network of the zoo{did_you_mean(name, networks)}")
    return networks[name]
