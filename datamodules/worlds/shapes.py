"""The world of shapes: scenes of a few objects, each a function of (seed, split, index) alone, and images of them in batches.

A scene belongs to one split by a hash of what is in it, so no two splits share an image, whatever their seeds and sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from zoo.core.randomness import derive_seed

SIDE = 64  # of the plane in which objects lie, in its own units: pixels of an image of this size
SIZES = {"small": 6, "large": 10}  # half of the side of the box around the object
COLORS = {
    "red": (230, 40, 40),
    "green": (50, 200, 60),
    "blue": (50, 90, 250),
    "yellow": (245, 235, 50),
    "purple": (175, 60, 220),
    "orange": (250, 145, 25),
    "white": (245, 245, 245),
}
TEXTURES = ("plain", "striped", "dotted")
SHAPES = ("circle", "square", "triangle", "cross")
SPLITS = ("train", "val", "test")
MOST = 5  # objects in a scene
MARGIN = 4  # by which any two objects differ both in x and in y, so that of each pair one is visibly left of, and one above
GAP = 2  # between the boxes of two objects
TRIES = 24  # places that are looked at for an object before the scene is given up
DRAWN_AT_ONCE = 256  # images, so that the canvas stays in the cache
DARKENING = 0.75  # of the paint in stripes and dots
RIM = 1.2  # along its edge an object is plain, so that no texture blurs the shape
GROUND_NOISE = 24  # range of the noise on the ground, in levels of 255


class Thing(NamedTuple):
    """One object of a scene in words, with its center in the plane: x to the right, y downwards."""

    size: str
    color: str
    texture: str
    shape: str
    x: int
    y: int


@dataclass(frozen=True)
class Scenes:
    """N scenes. The objects of a scene are int64 [N, MOST], of which the first ``count`` are there; others are zero.

    They stand in the order of salience: large before small, then from left to right. ``size``, ``color``, ``texture`` and
    ``shape`` are places in the lists above. ``key``, int64 [N], seeds the ground and the words.
    """

    size: Tensor
    color: Tensor
    texture: Tensor
    shape: Tensor
    x: Tensor
    y: Tensor
    count: Tensor
    key: Tensor

    def __len__(self) -> int:
        return len(self.count)

    def __getitem__(self, which: slice | Tensor) -> Scenes:
        return Scenes(**{field.name: getattr(self, field.name)[which] for field in fields(self)})

    def things(self) -> list[tuple[Thing, ...]]:
        """Each scene as the objects that are in it."""
        words = [tuple(SIZES), tuple(COLORS), TEXTURES, SHAPES]
        columns = [getattr(self, name).tolist() for name in Thing._fields]
        scenes = []
        for place, count in enumerate(self.count.tolist()):
            rows = zip(*(column[place][:count] for column in columns), strict=True)
            scenes.append(tuple(Thing(*(names[i] for names, i in zip(words, row[:4], strict=True)), *row[4:]) for row in rows))
        return scenes


def draw_scenes(seed: int, split: str, indices: Sequence[int], fewest: int = 1, most: int = MOST) -> Scenes:
    """The scenes at these places of a split: each the same whichever others are drawn with it.

    Args:
        split: one of ``SPLITS``.
        fewest, most: bounds of the number of objects, 1 to ``MOST``; four and five come less often, as there is not always room.
    """
    start = np.uint64(derive_seed(seed, "shapes", split))
    keys = _hash(start + np.asarray(indices, np.uint64) * _STEP)
    if not len(keys):
        return Scenes(*(torch.zeros(0, MOST, dtype=torch.int64) for _ in Thing._fields), *torch.zeros(2, 0, dtype=torch.int64))
    missing = np.arange(len(keys))
    found: dict[str, np.ndarray] = {}
    while len(missing):  # a third of the scenes that come out belong to this split
        drawn = _propose(keys[missing], fewest, most)
        taken = drawn.pop("whole") & (_fingerprints(drawn) % np.uint64(len(SPLITS)) == np.uint64(SPLITS.index(split)))
        for name, values in drawn.items():
            found.setdefault(name, np.zeros((len(keys), *values.shape[1:]), np.int64))[missing[taken]] = values[taken]
        missing = missing[~taken]
        keys[missing] = _hash(keys[missing])
    tensors = {name: torch.from_numpy(values) for name, values in found.items()}
    return Scenes(**tensors, key=torch.from_numpy((keys >> np.uint64(1)).astype(np.int64)))


_STEP = np.uint64(0x9E3779B97F4A7C15)


def _hash(values: np.ndarray) -> np.ndarray:
    """The output function of SplitMix64 (Steele, Lea and Flood 2014): uint64 to uint64, one to one, with all bits mixed."""
    values = values + _STEP
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _propose(keys: np.ndarray, fewest: int, most: int) -> dict[str, np.ndarray]:
    """A scene for each key, and whether it came out ``whole``: whether a place was found for all objects."""
    attributes = {"size": len(SIZES), "color": len(COLORS), "texture": len(TEXTURES), "shape": len(SHAPES)}
    bits = _hash(keys[:, None] + np.arange(1, 2 + MOST * (len(attributes) + 2 * TRIES), dtype=np.uint64) * _STEP)
    fractions = (bits >> np.uint64(11)) * 2.0**-53  # in [0, 1)
    count = fewest + (fractions[:, 0] * (most - fewest + 1)).astype(np.int64)
    rest = fractions[:, 1:].reshape(len(keys), MOST, -1)
    scene = {name: (rest[:, :, i] * number).astype(np.int64) for i, (name, number) in enumerate(attributes.items())}
    half = np.array(list(SIZES.values()))[scene["size"]]
    room = SIDE - 1 - 2 * half[:, :, None] - 2
    tries = rest[:, :, len(attributes) :].reshape(len(keys), MOST, 2, TRIES)
    candidates = half[:, :, None, None] + 1 + (tries * (room[..., None] + 1)).astype(np.int64)
    places = np.zeros((len(keys), 2, MOST), np.int64)
    whole = np.ones(len(keys), bool)
    for k in range(most):
        offsets = np.abs(candidates[:, k, :, None, :] - places[:, :, :k, None])  # [n, 2, k, TRIES]
        apart = offsets.max(1) >= half[:, :k, None] + half[:, k, None, None] + GAP
        free = (apart & (offsets.min(1) >= MARGIN)).all(1)
        whole &= free.any(1) | (k >= count)
        places[:, :, k] = candidates[np.arange(len(keys)), k, :, free.argmax(1)]
    scene |= {"x": places[:, 0], "y": places[:, 1]}
    there = np.arange(MOST) < count[:, None]
    salience = np.where(there, scene["size"] * SIDE - scene["x"], -SIDE)
    order = np.argsort(-salience, axis=1, kind="stable")
    scene = {name: np.where(there, np.take_along_axis(values, order, 1), 0) for name, values in scene.items()}
    return scene | {"count": count, "whole": whole}


def _fingerprints(scene: dict[str, np.ndarray]) -> np.ndarray:
    """A hash of what is in each scene, uint64 [n]: the same for the same objects, in whatever order."""
    objects = np.zeros(scene["x"].shape, np.uint64)
    for name in Thing._fields:
        objects = _hash(objects + scene[name].astype(np.uint64))
    there = np.arange(MOST) < scene["count"][:, None]
    return _hash(np.where(there, objects, np.uint64(0)).sum(1))


def render(scenes: Scenes, size: int = SIDE) -> Tensor:
    """Pictures of the scenes, uint8 [N, 3, size, size]: anti-aliased objects on a dark ground with a gradient and noise."""
    images = torch.empty(len(scenes), 3, size, size, dtype=torch.uint8)
    for start in range(0, len(scenes), DRAWN_AT_ONCE):
        part = slice(start, start + DRAWN_AT_ONCE)
        images[part] = _draw(scenes[part], size)
    return images


def _draw(scenes: Scenes, size: int) -> Tensor:
    inks = _inks(size)
    half = inks.shape[-1] // 2  # the canvas has a border of this width: an object's square may reach beyond the image
    wide = size + 2 * half
    canvas = torch.zeros(len(scenes), 3, wide, wide)
    canvas[:, :, half:-half, half:-half] = _ground(scenes.key, size)[:, None]
    canvas = canvas.view(len(scenes), 3, -1)
    colors = torch.tensor(list(COLORS.values()), dtype=torch.float32)
    reach = torch.arange(2 * half + 1)
    square = (reach[:, None] * wide + reach).flatten()  # pixels of a square at the upper left corner
    for k in range(MOST):
        rows = (scenes.count > k).nonzero()[:, 0]
        if not len(rows):
            break
        x, y = ((getattr(scenes, axis)[rows, k] * size + size // 2) // SIDE for axis in "xy")
        pixels = (y * wide + x)[:, None] + square
        ink = inks[:, scenes.shape[rows, k], scenes.size[rows, k], scenes.texture[rows, k]].flatten(2)[:, :, None]
        paint = colors[scenes.color[rows, k]][:, :, None]
        under = canvas[rows[:, None, None], torch.arange(3)[:, None], pixels[:, None]]
        over = under * (1 - ink[0]) + paint * ink[1]
        canvas[rows[:, None, None], torch.arange(3)[:, None], pixels[:, None]] = over
    canvas = canvas.view(len(scenes), 3, wide, wide)[:, :, half:-half, half:-half]
    return canvas.round().clamp(0, 255).to(torch.uint8)


def _ground(keys: Tensor, size: int) -> Tensor:
    """Dark gray of a level, a slope and noise of its own for each image: [n, size, size] in levels of 255."""
    words = -(-size * size // 8)  # each hash gives eight bytes of noise
    bits = _hash(keys.numpy().astype(np.uint64)[:, None] + np.arange(1, words + 4, dtype=np.uint64) * _STEP)
    level, down, right = torch.from_numpy((bits[:, -3:] >> np.uint64(11)) * 2.0**-53).float().T[:, :, None, None]
    noise = torch.from_numpy(bits[:, :words].copy().view(np.uint8)[:, : size * size])
    along = torch.linspace(-1, 1, size)
    ground = 35 + 30 * level + 20 * (down - 0.5) * along[:, None] + 20 * (right - 0.5) * along
    return ground + (noise.view(-1, size, size).float() / 255 - 0.5) * GROUND_NOISE


@lru_cache(maxsize=4)
def _inks(size: int) -> Tensor:
    """How each kind of object covers a square around it: [2, shapes, sizes, textures, side, side], each value in [0, 1].

    The first is the fraction of a pixel that the object covers, the second that times how bright its paint is there.
    """
    scale = size / SIDE
    half = int(max(SIZES.values()) * scale) + 1
    along = torch.arange(-half, half + 1, dtype=torch.float32)
    y, x = torch.meshgrid(along, along, indexing="ij")
    kinds = [
        torch.stack([_covered(edge), _covered(edge) * (1 - DARKENING * _covered(torch.maximum(dark, edge + RIM * scale)))])
        for shape in SHAPES
        for radius in SIZES.values()
        for edge in [_distance(shape, x, y, radius * scale)]
        for texture in TEXTURES
        for dark in [_distance_to_texture(texture, x, y, scale)]
    ]
    return torch.stack(kinds, 1).view(2, len(SHAPES), len(SIZES), len(TEXTURES), *x.shape)


def _covered(distance: Tensor) -> Tensor:
    """The fraction of a pixel that lies inside, from the signed distance of its center to the edge, in pixels."""
    return (0.5 - distance).clamp(0, 1)


def _distance(shape: str, x: Tensor, y: Tensor, radius: float) -> Tensor:
    """Signed distance to the edge of a shape around the origin, negative inside; beyond corners a lower bound of it."""
    if shape == "circle":
        return torch.hypot(x, y) - radius
    if shape == "square":
        return torch.maximum(x.abs(), y.abs()) - 0.9 * radius
    if shape == "triangle":  # from the tip at the top to the base at 0.8 of the radius; the sides fall by 2 on 1
        return torch.maximum(y - 0.8 * radius, (2 * x.abs() - (y + radius)) / 5**0.5)
    arm = 0.42 * radius
    across = torch.maximum(x.abs() - radius, y.abs() - arm)
    return torch.minimum(across, torch.maximum(y.abs() - radius, x.abs() - arm))


def _distance_to_texture(texture: str, x: Tensor, y: Tensor, scale: float) -> Tensor:
    """Signed distance to the edge of the dark parts, negative inside them: vertical stripes, or dots on a grid."""
    if texture == "plain":
        return torch.ones_like(x)
    period = (4 if texture == "striped" else 5) * scale
    x, y = ((axis + period / 2).remainder(period) - period / 2 for axis in (x, y))
    return x.abs() - period / 4 if texture == "striped" else torch.hypot(x, y) - 0.29 * period
