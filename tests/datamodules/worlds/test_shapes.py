"""Scenes of shapes and their pictures, held against a slow drawing and against plain geometry."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import fields

import pytest
import torch

from zoo.datamodules.worlds.shapes import COLORS, MOST, SHAPES, SIZES, SPLITS, TEXTURES, Scenes, Thing, draw_scenes, render


def scene_of(*things: Thing, key: int = 1) -> Scenes:
    """One scene with these things."""
    words = [tuple(SIZES), tuple(COLORS), TEXTURES, SHAPES]
    rows = [[names.index(word) for names, word in zip(words, thing[:4], strict=True)] + list(thing[4:]) for thing in things]
    rows += [[0] * 6] * (MOST - len(things))
    return Scenes(*torch.tensor(rows).T[:, None], count=torch.tensor([len(things)]), key=torch.tensor([key]))


def same(one: Scenes, other: Scenes) -> bool:
    return all(torch.equal(getattr(one, field.name), getattr(other, field.name)) for field in fields(one))


def inside(shape: str, x: float, y: float, radius: float, inset: float = 0) -> bool:
    """Whether a point is within a shape around the origin, by so much."""
    if shape == "circle":
        return math.hypot(x, y) < radius - inset
    if shape == "square":
        return abs(x) < 0.9 * radius - inset and abs(y) < 0.9 * radius - inset
    if shape == "cross":
        return any(abs(a) < radius - inset and abs(b) < 0.42 * radius - inset for a, b in ((x, y), (y, x)))
    corners = [(0, -radius), (0.9 * radius, 0.8 * radius), (-0.9 * radius, 0.8 * radius)]
    for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
        if ((bx - ax) * (y - ay) - (by - ay) * (x - ax)) / math.hypot(bx - ax, by - ay) < inset:
            return False
    return True


def is_dark(texture: str, x: float, y: float) -> bool:
    """Stripes of two units, four apart; dots of radius 1.45, five apart; one of each on the origin."""
    if texture == "striped":
        return abs(x - 4 * round(x / 4)) < 1
    return texture == "dotted" and math.hypot(x - 5 * round(x / 5), y - 5 * round(y / 5)) < 1.45


def slow_drawing(thing: Thing, ground: torch.Tensor, fine: int = 4) -> torch.Tensor:
    """Each pixel as the mean of fine x fine points."""
    size = ground.shape[-1]
    scale = size / 64
    picture = ground.clone().double()
    center = [(place * size + size // 2) // 64 for place in (thing.x, thing.y)]
    paint = torch.tensor(COLORS[thing.color], dtype=torch.float64)
    radius = SIZES[thing.size]
    for row in range(size):
        for column in range(size):
            total = torch.zeros(3, dtype=torch.float64)
            for i in range(fine):
                for j in range(fine):
                    x = (column - center[0] + (i + 0.5) / fine - 0.5) / scale
                    y = (row - center[1] + (j + 0.5) / fine - 0.5) / scale
                    if not inside(thing.shape, x, y, radius):
                        total += ground[:, row, column]
                    elif is_dark(thing.texture, x, y) and inside(thing.shape, x, y, radius, inset=1.2):
                        total += paint * 0.25
                    else:
                        total += paint
            picture[:, row, column] = total / fine**2
    return picture


@pytest.mark.parametrize(
    ("thing", "size"),
    [
        (Thing("large", "red", "plain", "circle", 20, 30), 64),
        (Thing("small", "blue", "plain", "square", 40, 9), 64),
        (Thing("large", "white", "striped", "triangle", 31, 33), 64),
        (Thing("small", "yellow", "plain", "triangle", 55, 55), 64),
        (Thing("large", "purple", "dotted", "cross", 50, 12), 64),
        (Thing("large", "green", "dotted", "square", 12, 50), 80),
        (Thing("small", "orange", "striped", "circle", 8, 8), 32),
    ],
)
def test_a_thing_is_drawn_as_a_slow_drawing_has_it(thing, size):
    scene = scene_of(thing)
    empty = Scenes(**{field.name: getattr(scene, field.name) for field in fields(scene)} | {"count": torch.tensor([0])})
    ground = render(empty, size)[0]
    difference = (render(scene, size)[0] - slow_drawing(thing, ground)).abs()
    touched = (render(scene, size)[0] != ground).any(0)
    # both smooth the edges, one by distance and one by counting points: a few pixels at corners differ by a part of a pixel
    assert difference[:, touched].mean() < 7
    assert (difference.amax(0) > 64).sum() <= 0.06 * touched.sum()
    assert not difference[:, ~touched].any()


def test_a_scene_and_its_picture_do_not_depend_on_what_is_drawn_with_them():
    together = draw_scenes(3, "val", range(600))
    pictures = render(together)
    assert same(together, draw_scenes(3, "val", range(600)))
    some = [599, 0, 300, 7]
    alone = draw_scenes(3, "val", some)
    assert same(alone, together[torch.tensor(some)]) and torch.equal(render(alone), pictures[some])
    assert same(draw_scenes(3, "val", range(250, 260)), together[250:260])
    assert len(draw_scenes(3, "val", [])) == len(render(draw_scenes(3, "val", []))) == 0
    other = draw_scenes(4, "val", range(600))
    assert not same(other, together) and not torch.equal(render(other), pictures)


def test_splits_share_no_picture_though_there_are_few_to_draw():
    contents = {}
    for split, seed in zip(SPLITS, (0, 0, 1), strict=True):  # the test of one seed with the training of another
        things = draw_scenes(seed, split, range(10_000), most=1).things()
        contents[split] = {frozenset(scene) for scene in things}
        assert len(contents[split]) < len(things)  # the same scene comes twice in a split
    assert not contents["train"] & contents["test"] and not contents["train"] & contents["val"]
    assert not contents["val"] & contents["test"]


def test_the_same_things_belong_to_one_split_in_whatever_order():
    for split in SPLITS:
        for other in SPLITS:
            if split < other:
                mine, theirs = ({frozenset(s) for s in draw_scenes(5, name, range(3000)).things()} for name in (split, other))
                assert not mine & theirs


def test_things_lie_apart_inside_the_picture_in_the_order_of_salience():
    scenes = draw_scenes(0, "train", range(3000))
    for things in scenes.things():
        assert list(things) == sorted(things, key=lambda thing: (thing.size == "small", thing.x))
        for i, one in enumerate(things):
            assert all(SIZES[one.size] < place < 63 - SIZES[one.size] for place in (one.x, one.y))
            for other in things[:i]:
                across, down = abs(one.x - other.x), abs(one.y - other.y)
                assert min(across, down) >= 4 and max(across, down) >= SIZES[one.size] + SIZES[other.size] + 2


def test_objects_do_not_touch_in_the_picture():
    scenes = draw_scenes(1, "train", range(200), fewest=2)
    for place, things in enumerate(scenes.things()):
        drawn = []
        for thing in things:
            alone, empty = scene_of(thing, key=scenes.key[place].item()), scene_of(key=scenes.key[place].item())
            drawn.append((render(alone) != render(empty))[0].any(0))
        assert torch.stack(drawn).sum(0).max() == 1


@pytest.mark.parametrize(("fewest", "most"), [(1, 5), (3, 5), (1, 1), (5, 5)])
def test_numbers_of_objects_are_those_asked_for(fewest, most):
    counts = Counter(draw_scenes(0, "test", range(1000), fewest, most).count.tolist())
    assert sorted(counts) == list(range(fewest, most + 1))
    assert all(often > 50 for often in counts.values())


def test_each_value_of_each_attribute_is_about_as_frequent():
    things = [thing for scene in draw_scenes(2, "train", range(4000)).things() for thing in scene]
    for place, values in enumerate((SIZES, COLORS, TEXTURES, SHAPES)):
        counts = Counter(thing[place] for thing in things)
        assert set(counts) == set(values)
        smallest_share = 0.85 if place else 0.7  # large ones find a place less often
        assert min(counts.values()) > smallest_share * len(things) / len(values)


def test_the_ground_is_dark_noisy_and_another_in_each_picture():
    empty = [render(scene_of(key=key))[0].float() for key in range(20)]
    for ground in empty:
        assert ground.min() > 0 and ground.max() < 105 and 3 < ground.std() < 25
        assert torch.equal(ground[0], ground[1]) and torch.equal(ground[0], ground[2])  # gray
        assert (ground[0, 1:] - ground[0, :-1]).abs().mean() > 2
    assert len({tuple(ground[0].flatten().tolist()) for ground in empty}) == 20
