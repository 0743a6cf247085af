"""Grad-CAM (Selvaraju et al. 2017): where the last convolutional features raise the score of a class."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.core.errors import UserError
from zoo.pictures.explained import explain
from zoo.pictures.figure import SEQUENTIAL, Picture
from zoo.pictures.maps import draw_maps, draw_scale
from zoo.registry.registry import Registry
from zoo.tasks.images import ImageModel
from zoo.training.run_folder import RunFolder

TILE = 1.9  # inches per side
OPACITY = 0.55  # of the map over the image


class NoFeatureMap(UserError):
    """A network without a last feature map of convolutions."""


def gradcam(
    registry: Registry,
    runs: list[RunFolder],
    images: Sequence[str] = (),
    checkpoint: str = "best",
    data: str = "",
    settings: Sequence[str] = (),
    class_name: str = "",
) -> Picture:
    """Draw Grad-CAM over images, for the predicted class and, of test images, the true one, or for ``class_name``."""
    folder = runs[0]
    found = explain(registry, folder, "gradcam", images, checkpoint, data, settings, class_name)
    columns = {class_name or "predicted class": found.classes}
    labels = found.shown.labels
    if labels is not None and labels.ndim == 1 and not class_name:  # one class an image
        columns["true class"] = labels.to(found.task.device)
    try:
        maps = torch.stack([grad_cam(found.task, found.pixels, classes) for classes in columns.values()], 1)
    except NoFeatureMap as error:
        raise UserError(f"{folder.name} {error}: zoo picture saliency {folder.name}") from None
    whose = "the predicted and the true class" if len(columns) > 1 else found.whose
    return Picture(
        draw_grad_cam(found.rgb, maps.cpu().numpy(), found.titles, list(columns), f"{folder.path.name}: Grad-CAM for {whose}"),
        "bright regions raise the class score: check whether they are the object, or what happens to be around it",
        found.again,
    )


def grad_cam(task: ImageModel, images: Tensor, classes: Tensor) -> Tensor:
    """Grad-CAM of the last feature map, at the size of the images, [n, H, W] (section 3, equations 1 and 2).

    Each map is divided by its maximum, and zero where no feature raises the score.

    Args:
        images: pixels from 0 to 255, float [n, C, H, W].
        classes: int64 [n].

    Raises:
        NoFeatureMap: the network has none.
    """
    with torch.enable_grad():
        features, scores = last_feature_map(task, images)
        gradients = torch.autograd.grad(scores.gather(1, classes[:, None]).sum(), features)[0]
    weights = gradients.mean((2, 3), keepdim=True)
    maps = (weights * features.detach()).sum(1, keepdim=True).relu()
    maps = F.interpolate(maps, images.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    return maps / maps.amax((1, 2), keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)


def last_feature_map(task: ImageModel, images: Tensor) -> tuple[Tensor, Tensor]:
    """What the last convolution with several positions leads to in front of the pooling, [n, C, h, w], and the class scores.

    That is the output of the last module with as many positions: of the norm, activation or block that the convolution is in.

    Raises:
        NoFeatureMap: there is no such convolution, or tokens follow it.
    """
    outputs: list[tuple[nn.Module, Tensor]] = []

    def note(module: nn.Module, _: object, out: object) -> None:
        if isinstance(out, Tensor):
            outputs.append((module, out))

    *_, head = task.stages().values()
    before_head: list[int] = []
    with ExitStack() as hooks:
        for module in task.modules():
            hooks.enter_context(module.register_forward_hook(note))
        hooks.enter_context(head.register_forward_pre_hook(lambda *_: before_head.append(len(outputs))))
        scores = task(task.normalize(images.detach().clone().requires_grad_()))
    outputs = outputs[: next(iter(before_head), None)]
    spatial = [i for i, (module, out) in enumerate(outputs) if isinstance(module, nn.Conv2d) and _positions(out) > 1]
    if not spatial:
        raise NoFeatureMap("has no convolution with several positions")
    features = outputs[spatial[-1]][1]
    for module, out in outputs[spatial[-1] + 1 :]:
        if "Pool" in type(module).__name__ and _positions(out) > 1:
            break
        if out.ndim == 4 and out.shape[2:] == features.shape[2:]:
            features = out
        elif _are_tokens(out, features):
            raise NoFeatureMap("has layers between its last convolution and its head that are no convolutions")
    return features, scores


def _positions(out: Tensor) -> int:
    return out.shape[2] * out.shape[3] if out.ndim == 4 else 0


def _are_tokens(out: Tensor, features: Tensor) -> bool:
    """Whether an output has positions in other places than a feature map: of a transformer, or of another resolution."""
    if out.ndim == 3:
        return out.shape[1] >= _positions(features)
    is_channels_last = out.ndim == 4 and out.shape[1:3] == features.shape[2:]
    return out.ndim == 4 and not is_channels_last and _positions(out) > 1


def draw_grad_cam(images: np.ndarray, maps: np.ndarray, titles: Sequence[str], map_titles: Sequence[str], heading: str) -> Figure:
    """Draw each image next to its maps, which lie over it.

    Args:
        images: RGB in [0, 1], [n, H, W, 3].
        maps: from 0 to 1, [n, maps, H, W].
        titles: to the left of each image; map_titles: above the first row.
    """
    colored = colormaps[SEQUENTIAL](maps)[..., :3]
    gray = images[:, None].mean(-1, keepdims=True)  # colors are those of the map
    overlays = OPACITY * colored + (1 - OPACITY) * gray
    figure, grid = draw_maps(images, overlays, np.ones(maps.shape[:2]), titles, map_titles, heading, TILE)
    draw_scale(figure, grid, 1, "Grad-CAM relative to the maximum of each map", is_exceeded=False)
    return figure
