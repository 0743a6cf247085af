"""The values of a feature map that each norm averages over (Wu and He 2018, figure 2), found from the norms' own gradients."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from mpl_toolkits.mplot3d import Axes3D

from zoo.layers.norms import norm_2d
from zoo.pictures.figure import COLORS, Picture
from zoo.registry.annotations import Norm
from zoo.registry.registry import Registry
from zoo.training.run_folder import RunFolder

SAMPLES, CHANNELS, POSITIONS = 4, 6, 5
NORMS: tuple[Norm, ...] = ("batch", "layer", "instance", "group")


def norm_axes(registry: Registry, runs: list[RunFolder]) -> Picture:
    """Draw a feature map as a block of samples, channels and positions for each norm."""
    figure = Figure((11.4, 3.3), layout="constrained")
    for place, name in enumerate(NORMS, 1):
        axes = cast(Axes3D, figure.add_subplot(1, len(NORMS), place, projection="3d"))
        shared = averaged_with(name)[:, ::-1]  # the first channel in front
        colors = np.where(shared.transpose(1, 0, 2), to_hex(COLORS[0]), "#dddddd")
        axes.voxels(np.ones(colors.shape, dtype=bool), facecolors=colors, edgecolor="white", linewidth=0.5, shade=False)
        axes.set(title=f"{name} norm", xlabel="channels", ylabel="samples", zlabel="positions", xticks=[], yticks=[], zticks=[])
        for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
            axis.labelpad = -14
        axes.set_box_aspect((CHANNELS, SAMPLES, POSITIONS), zoom=1.05)
        axes.view_init(elev=22, azim=35)
    return Picture(
        figure,
        "blue values share one mean and one standard deviation. Only batch norm goes through the samples: its outputs depend on "
        "the other images of the batch, so it needs running statistics for testing, and large batches",
        "zoo train convnet --set model.norm=group",
    )


def averaged_with(name: Norm) -> np.ndarray:
    """The values that share statistics with that of the first sample, channel and position: bool, [samples, channels, positions].

    They are those on which the normalized value depends.
    """
    norm = norm_2d(name, CHANNELS)
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(SAMPLES, CHANNELS, POSITIONS, 1, dtype=torch.float64, generator=generator).requires_grad_()
    (gradient,) = torch.autograd.grad(norm.double()(values)[0, 0, 0, 0], values)
    return gradient[..., 0].ne(0).numpy()
