"""A building's viewpoints from above, with paths between them."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from zoo.datamodules.files.connectivity import Scan
from zoo.datamodules.worlds.rooms import AGENT, EXPERT

SIDE, MARGIN = 512, 24  # pixels
PAPER, EDGE, VIEWPOINT = "#ffffff", "#c8c8c8", "#8c8c8c"
DASH, GAP = 8, 5  # pixels
BESIDE, RING = 3, 10  # pixels: between two paths, and the radius around a goal


def draw_viewpoints(scan: Scan, expert: Tensor, agent: Tensor | None = None) -> Tensor:
    """The graph of a building from above, north on top, uint8 [3, SIDE, SIDE].

    A dashed line joins the viewpoints of an expert's path, up to a ring, a solid one those of an agent's, from a dot to a cross.
    """
    places = _places(scan)
    picture = Image.new("RGB", (SIDE, SIDE), PAPER)
    draw = ImageDraw.Draw(picture)
    for one, other in np.argwhere(np.triu(scan.adjacent | scan.adjacent.T)):
        draw.line((*places[one], *places[other]), EDGE, 1)
    for x, y in places:
        draw.ellipse((x - 2, y - 2, x + 2, y + 2), VIEWPOINT)
    way = places[expert.numpy()]
    for start, end in zip(way, way[1:], strict=False):
        _dashed(draw, start, end)
    x, y = way[-1]
    draw.ellipse((x - RING, y - RING, x + RING, y + RING), outline=EXPERT, width=2)
    if agent is None:
        x, y = way[0]
        draw.ellipse((x - 4, y - 4, x + 4, y + 4), EXPERT)
        return pil_to_tensor(picture)
    own = places[agent.numpy()] + BESIDE  # beside the expert's, which it may cover
    draw.line([tuple(place) for place in own], AGENT, 3)
    x, y = own[0]
    draw.ellipse((x - 5, y - 5, x + 5, y + 5), AGENT)
    x, y = own[-1]
    for turn in (5, -5):
        draw.line((x - 5, y - turn, x + 5, y + turn), AGENT, 3)
    return pil_to_tensor(picture)


def _places(scan: Scan) -> np.ndarray:
    """Where viewpoints are in the picture, in pixels to the right and down, [V, 2]."""
    plane = scan.positions[:, :2] * (1, -1)
    low, high = plane.min(0), plane.max(0)
    scale = (SIDE - 2 * MARGIN) / max(float((high - low).max()), 1e-6)
    return (plane - (low + high) / 2) * scale + SIDE / 2


def _dashed(draw: ImageDraw.ImageDraw, start: np.ndarray, end: np.ndarray) -> None:
    length = float(np.linalg.norm(end - start))
    for first in np.arange(0, length, DASH + GAP):
        ends = (start + (end - start) * min(place, length) / length for place in (first, first + DASH))
        draw.line([tuple(place) for place in ends], EXPERT, 2)
