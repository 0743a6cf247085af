"""The world of arrows: one triangle on a dark ground, of any position, size, direction and color."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.core.randomness import derive_seed

SMALLEST, LARGEST = 0.14, 0.28  # length from the center to the tip, as a fraction of the image
EDGE = 0.29  # distance of a center from the border, at least
DARKEST = 120  # of the color channels, in levels of 255
GROUND, NOISE = (20, 70), 20  # levels of the ground, and the range of its noise
DRAWN_AT_ONCE = 512


class Arrows(NamedTuple):
    """N arrows: center and length as fractions of the image, direction in radians from the x axis towards y, color, and level of
    the ground.
    """

    x: Tensor
    y: Tensor
    length: Tensor
    angle: Tensor
    color: Tensor
    ground: Tensor


def draw_arrows(split: str, count: int) -> Arrows:
    """The arrows of a split, the same whenever as many are drawn."""
    generator = torch.Generator().manual_seed(derive_seed(0, "arrows", split))
    x, y, length, angle, ground = torch.rand(5, count, generator=generator)
    color = DARKEST + (255 - DARKEST) * torch.rand(count, 3, generator=generator)
    inner = 1 - 2 * EDGE
    return Arrows(
        EDGE + inner * x, EDGE + inner * y, SMALLEST + (LARGEST - SMALLEST) * length, 2 * math.pi * angle, color,
        GROUND[0] + (GROUND[1] - GROUND[0]) * ground,
    )  # fmt: skip


def render(arrows: Arrows, size: int, split: str) -> Tensor:
    """Pictures of the arrows, uint8 [N, 3, size, size], anti-aliased, with noise on the ground."""
    generator = torch.Generator().manual_seed(derive_seed(0, "arrows", split, "noise"))
    images = torch.empty(len(arrows.x), 3, size, size, dtype=torch.uint8)
    middles = (torch.arange(size) + 0.5) / size
    for start in range(0, len(images), DRAWN_AT_ONCE):
        part = Arrows(*(values[start : start + DRAWN_AT_ONCE] for values in arrows))
        x, y, length, angle, ground = (values[:, None, None] for values in (part.x, part.y, part.length, part.angle, part.ground))
        across, down = middles - x, middles[:, None] - y
        along = across * angle.cos() + down * angle.sin()
        aside = (down * angle.cos() - across * angle.sin()).abs()
        # a triangle with its tip at the length, its base behind the center at half of that, and half as wide as it is long
        distance = torch.maximum(-along - 0.5 * length, (0.5 * along + 1.5 * aside - 0.5 * length) / math.hypot(0.5, 1.5))
        covered = (0.5 - distance * size).clamp(0, 1)[:, None]
        noise = (torch.rand(len(part.x), 1, size, size, generator=generator) - 0.5) * NOISE
        paint = part.color[:, :, None, None]
        drawn = (ground[:, None] + noise) * (1 - covered) + paint * covered
        images[start : start + DRAWN_AT_ONCE] = drawn.round().clamp(0, 255).to(torch.uint8)
    return images
