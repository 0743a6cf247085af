"""The features of a network of images: its feature map, the input of its head, and how those of a frozen backbone are cached."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from zoo.config.recipe import Recipe
from zoo.core.errors import UserError
from zoo.core.fingerprint import fingerprint
from zoo.core.ranks import rank_zero_print
from zoo.registry.registry import current_registry
from zoo.spec import Spec
from zoo.tasks.task import Task


class FeatureModel(Task):
    """A network whose last stage, the head, is given features of the images."""

    def __init__(self, spec: Spec, recipe: Recipe | None = None) -> None:
        super().__init__(spec, recipe)
        self._after_features: tuple[nn.Module, ...] = ()  # a tuple, since its modules have their place already

    def feature_extractor(self) -> nn.Module:
        """The layers of ``forward_features`` as one module, which shares its parameters with this one.

        Raises:
            UserError: the network has no feature map.
        """
        raise UserError(f"{type(self).__name__} has no feature map: use a convolutional network or a transformer")

    def forward_features(self, images: Tensor) -> Tensor:
        """Feature map [N, features, rows, columns] of normalized images [N, C, H, W], without the head; as in timm.

        Raises:
            UserError: the network has no feature map.
        """
        return self.feature_extractor()(images)

    def head_names(self) -> set[str]:
        """The names of the head's weights in the state dict."""
        *_, head = self.stages().values()
        own = {id(parameter) for parameter in head.parameters()}
        return {name for name, parameter in self.named_parameters(remove_duplicate=False) if id(parameter) in own}

    def embed(self, images: Tensor) -> Tensor:
        """Features in front of the head, float32 [N, features], of pixels from 0 to 255, [N, C, H, W].

        Those of a head that takes a feature map or tokens are averaged over their positions.

        Raises:
            UserError: the network has none.
        """
        if self.one_pass:
            raise UserError(f"{type(self).__name__} has no features: it compares pixels")
        features = self._features(images).float()
        if features.ndim == 3:  # tokens [N, T, features]
            return features.mean(1)
        return features.flatten(2).mean(2) if features.ndim > 2 else features

    def prepare(self, data: Any) -> None:
        """Replace images by features if the backbone is frozen and they are the same in every epoch.

        Raises:
            UserError: the data mixes labels, and the loss takes one label per image.
        """
        recipe = self.recipe
        mixing = getattr(getattr(data, "augmentation", None), "mixing", ())
        if mixing and recipe.loss and "soft-targets" not in current_registry().find("loss", recipe.loss).tags:
            raise UserError(f"data.augment={data.augment}: recipe.loss={recipe.loss} takes one label per image: omit {mixing[0]}")
        if recipe.freeze != "backbone" or recipe.frozen_norms != "keep" or getattr(data, "augment", "") != "none":
            return
        if recipe.teacher:  # which needs the images
            return
        was_training = self.training
        self.eval()
        after = self._what_follows_the_features()
        if after:
            body = {name: value for name, value in self.state_dict().items() if name not in self.head_names()}
            body |= {"input_scale": self.input_scale, "input_shift": self.input_shift}
            data.cache_features(self._features, fingerprint(self, body))
        else:
            rank_zero_print(
                "features of the frozen backbone are not cached, and each epoch computes them again: this network does more with "
                "them than its last layers"
            )
        self._after_features = after
        self.train(was_training)

    def _features(self, images: Tensor) -> Tensor:
        """Input of the head for images [N, C, H, W], in evaluation."""
        *_, head = self.stages().values()
        given: list[Tensor] = []
        with head.register_forward_pre_hook(lambda module, inputs: given.append(inputs[0])):
            self(self.normalize(images.to(self.device)))
        return given[0]

    @torch.no_grad()
    def _what_follows_the_features(self) -> tuple[nn.Module, ...]:
        """The dropout in front of the head, the head, and the layers behind it, such as the pool of a convolutional head.

        Nothing if they do not give the same as the network, which then does more than that with the features.
        """
        *_, head = self.stages().values()
        seen: dict[nn.Module, tuple[Tensor, Tensor]] = {}

        def note(module: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> None:
            if module is head or head in seen or isinstance(module, nn.Dropout):
                seen[module] = inputs[0], out

        with ExitStack() as hooks:
            for module in self.modules():
                if module is head or next(module.children(), None) is None:
                    hooks.enter_context(module.register_forward_hook(note))
            logits = self(self.normalize(self.example_batch(2)["images"].to(self.device)))
        if head not in seen:
            return ()
        features, order = seen[head][0], [*seen]
        place = order.index(head)
        # in evaluation dropout hands on what it is given
        silencing = [module for module in order[:place] if seen[module][1].data_ptr() == features.data_ptr()]
        flatten = [nn.Flatten()] if seen[order[-1]][1].ndim > 2 else []
        values, after = features, (*silencing, *order[place:], *flatten)
        for module in after:
            values = module(values)
        return after if torch.equal(values, logits) else ()
