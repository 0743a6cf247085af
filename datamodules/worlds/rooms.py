"""Houses of four rooms with colored doors and things in them, seen from inside: views, ways, and instructions in words.

A house is a function of (seed, index). Who walks in it stands in the middle of a cell and looks along the grid, so a pose is a
number, ``4 * cell + heading``, and all that can be seen and done in a house fits in tables over its poses: the light rays of a
view cross the same cells wherever one stands.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby

import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from zoo.core.randomness import derive_seed

SIZE = 8  # cells a side, inside of the outer wall
POSES = 4 * SIZE**2
HEADINGS = ((-1, 0), (0, 1), (1, 0), (0, -1))  # (row, column) of a step north, east, south, west
COLORS = {
    "red": (220, 40, 40), "green": (40, 170, 60), "blue": (50, 90, 230), "yellow": (235, 205, 40), "purple": (160, 60, 200),
}  # fmt: skip
KINDS = ("ball", "box", "cone")
THINGS = 6  # in a house, no two alike
ACTIONS = FORWARD, LEFT, RIGHT, STOP = ("forward", "left", "right", "stop")

Cell = tuple[int, int]  # row and column, from the north-west


@dataclass(frozen=True)
class House:
    """Four rooms around a crossing of two walls.

    Attributes:
        walls: cells that are wall, besides those around the house.
        doors: cells in the walls that one can go through, each with the color of its frame.
        things: cells with something that stands in the way, each with its color and kind.
    """

    walls: frozenset[Cell]
    doors: dict[Cell, str]
    things: dict[Cell, tuple[str, str]]

    def is_free(self, cell: Cell) -> bool:
        """Whether one can stand there."""
        return all(0 <= place < SIZE for place in cell) and cell not in self.walls and cell not in self.things


def build_house(seed: int, index: int) -> House:
    """The house of that number."""
    draw = random.Random(derive_seed(seed, "house", index))
    while not _is_whole(house := _draw_house(draw)):
        pass
    return house


def _draw_house(draw: random.Random) -> House:
    row, column = (SIZE // 2 - draw.randrange(2) for _ in range(2))
    parts = [
        [(place, column) for place in range(row)], [(place, column) for place in range(row + 1, SIZE)],
        [(row, place) for place in range(column)], [(row, place) for place in range(column + 1, SIZE)],
    ]  # fmt: skip
    doorways = [draw.choice(part) for part in parts]
    if draw.randrange(2):  # three doors join four rooms as well
        doorways.remove(draw.choice(doorways))
    doors = dict(zip(doorways, draw.sample(list(COLORS), len(doorways)), strict=True))
    cells = {(i, j) for i in range(SIZE) for j in range(SIZE)}
    walls = frozenset(cell for part in parts for cell in part if cell not in doors) | {(row, column)}
    floor = [cell for cell in sorted(cells - walls - set(doors)) if not set(_around(cell)) & set(doors)]
    things = [(color, kind) for color in COLORS for kind in KINDS]
    return House(walls, doors, dict(zip(draw.sample(floor, THINGS), draw.sample(things, THINGS), strict=True)))


def _is_whole(house: House) -> bool:
    """Whether every free cell can be reached from every other, and each thing from one of them."""
    free = {(i, j) for i in range(SIZE) for j in range(SIZE) if house.is_free((i, j))}
    reached, waiting = set(), [min(free)]
    while waiting:
        cell = waiting.pop()
        if cell in free and cell not in reached:
            reached.add(cell)
            waiting += _around(cell)
    return reached == free and all(set(_around(thing)) & free for thing in house.things)


def _around(cell: Cell) -> list[Cell]:
    return [(cell[0] + down, cell[1] + right) for down, right in HEADINGS]


# ---------------------------------------------------------------------------------------------- ways


def find_ways(houses: Sequence[House]) -> tuple[Tensor, Tensor]:
    """Where actions lead in B houses, and which poses are goals.

    Returns:
        The pose after each action, int16 [B, POSES, actions], where a wall or a thing stops a step; and bool [B, THINGS, POSES],
        whether one stands before a thing and faces it.
    """
    free = torch.tensor([[house.is_free((i, j)) for i in range(SIZE) for j in range(SIZE)] for house in houses])
    poses = torch.arange(POSES)
    cell, heading = poses // 4, poses % 4
    down, right = torch.tensor(HEADINGS)[heading].T
    row, column = cell // SIZE + down, cell % SIZE + right
    inside = (row >= 0) & (row < SIZE) & (column >= 0) & (column < SIZE)
    ahead = (row * SIZE + column).clamp(0, SIZE**2 - 1)
    can_go = free[:, cell] & free[:, ahead] & inside
    turned = [4 * cell + (heading + turn) % 4 for turn in (-1, 1)]
    forward = torch.where(can_go, 4 * ahead + heading, poses)
    moves = torch.stack([forward, *(pose.expand_as(forward) for pose in (*turned, poses))], 2)
    things = torch.tensor([[i * SIZE + j for i, j in house.things] for house in houses])
    before = (ahead == things[:, :, None]) & inside & free[:, None, cell]
    return moves.short(), before


# ---------------------------------------------------------------------------------------------- views

HEIGHT, WIDTH = 24, 36  # pixels of a view
FOCAL = WIDTH / 2  # pixels: a view is ninety degrees wide
EYE = 0.5  # height of who looks; that of a room is 1, as is the side of a cell
WALL, SIDE_WALL, SEAM = (150, 146, 138), (120, 117, 110), 0.8
FLOOR, CEILING = (92, 76, 62), (206, 212, 220)
DARKER = 0.08  # light that is lost on the way of a cell's length
BORDERED = SIZE + 2
HOUSES_AT_ONCE = 16


@dataclass(frozen=True)
class Rays:
    """What the ray of each column of a view crosses, cell after cell, K of them; the eye's own cell is left out.

    Lengths are in cells. Depth is measured along the heading, as perspective wants it.

    Attributes:
        cells: places in the grid with its border, int64 [POSES, WIDTH, K].
        entry: depth at which a ray comes into a cell, [WIDTH, K].
        seam: how far from the middle of the face it comes in, [WIDTH, K], from -0.5 to 0.5.
        through_side: whether that face runs along the heading, bool [WIDTH, K].
        depth: of the plane through the middle of the cell that stands across the heading [0], or along it [1]; [2, WIDTH, K].
        across: where on that plane a ray meets it, from the middle, [2, WIDTH, K]; beyond 0.5 it passes by.
    """

    cells: Tensor
    entry: Tensor
    seam: Tensor
    through_side: Tensor
    depth: Tensor
    across: Tensor


@cache
def rays() -> Rays:
    """The rays of all poses."""
    slopes = (torch.arange(WIDTH) + 0.5 - WIDTH / 2) / FOCAL  # to the right, for each cell ahead
    borders = torch.arange(SIZE) + 0.5
    depths = torch.cat([borders.expand(WIDTH, -1), borders / slopes.abs()[:, None]], 1)
    through_side = torch.arange(2 * SIZE) >= SIZE
    entry, order = depths.sort(1)
    through_side = through_side[order]
    ahead, aside = (~through_side).cumsum(1), through_side.cumsum(1) * slopes.sign()[:, None]
    sideways = entry * slopes[:, None]
    seam = torch.where(through_side, entry - ahead, sideways - aside)
    depth = torch.stack([ahead.float(), aside / slopes[:, None]])
    across = torch.stack([ahead * slopes[:, None] - aside, aside / slopes[:, None] - ahead])
    across[1][aside == 0] = 1  # the plane through the eye cannot be seen

    poses = torch.arange(POSES)
    row, column, heading = poses // 4 // SIZE + 1, poses // 4 % SIZE + 1, poses % 4
    forward = torch.tensor(HEADINGS)[heading][:, :, None, None]
    right = torch.tensor(HEADINGS)[(heading + 1) % 4][:, :, None, None]
    offset = forward * ahead + right * aside.long()
    place = (torch.stack([row, column], 1)[:, :, None, None] + offset).clamp(0, BORDERED - 1)
    return Rays(place[:, 0] * BORDERED + place[:, 1], entry, seam, through_side, depth, across)


def render(houses: Sequence[House]) -> Tensor:
    """The view of every pose, uint8 [B, POSES, 3, HEIGHT, WIDTH]; black where one cannot stand."""
    return torch.cat([_render(houses[start : start + HOUSES_AT_ONCE]) for start in range(0, len(houses), HOUSES_AT_ONCE)])


def _render(houses: Sequence[House]) -> Tensor:
    ray = rays()
    walls, contents = zip(*map(_grids, houses), strict=True)
    walls, contents = torch.stack(walls), torch.stack(contents)
    # the first wall of each ray, [B, POSES, WIDTH]
    hit = walls.to(torch.uint8).index_select(1, ray.cells.flatten()).unflatten(1, ray.cells.shape).argmax(3)
    # a column of a bare room is one of a few, whichever house and pose it is seen from
    strips = _bare_columns(ray)
    number = hit + torch.arange(WIDTH) * strips.shape[1]
    views = strips.flatten(0, 1).index_select(0, number.flatten()).unflatten(0, hit.shape)
    for k in reversed(range(ray.entry.shape[1])):  # from afar, so that the near covers it
        content = contents.index_select(1, ray.cells[:, :, k].flatten()).view_as(hit).where(hit > k, 0)
        house, pose, column = content.nonzero(as_tuple=True)
        code = content[house, pose, column]
        along = (code >= FIRST_DOOR) & ((code - FIRST_DOOR) % 2 != pose % 2)  # a door whose wall runs along the heading
        depth, across = (table[along.long(), column, k] for table in (ray.depth, ray.across))
        seen = across.abs() <= 0.5
        house, pose, column, code, depth, across = (part[seen] for part in (house, pose, column, code, depth, across))
        covers = _shape(code, across, _height_at(depth))
        color = _shaded(PAINT[code], depth)
        views[house, pose, column] = torch.where(covers[:, None], color[:, :, None], views[house, pose, column])
    stands = torch.tensor([[house.is_free((i, j)) for i in range(SIZE) for j in range(SIZE)] for house in houses])
    views *= stands.repeat_interleave(4, 1)[:, :, None, None, None]
    return views.permute(0, 1, 3, 4, 2).contiguous()


# what a cell can hold besides walls, as a number: nothing, each kind of thing in each color, and doors, for each color one in a
# wall from west to east and one in a wall from north to south
FIRST_DOOR = 1 + len(KINDS) * len(COLORS)
PAINT = torch.tensor(
    [(0, 0, 0), *(color for _ in KINDS for color in COLORS.values()), *(c for c in COLORS.values() for _ in range(2))]
)


def _grids(house: House) -> tuple[Tensor, Tensor]:
    """Where walls are, bool, and what the cells hold, each [BORDERED ** 2]."""
    walls = torch.ones(BORDERED, BORDERED, dtype=torch.bool)
    walls[1:-1, 1:-1] = False
    contents = torch.zeros(BORDERED, BORDERED, dtype=torch.int64)
    for i, j in house.walls:
        walls[i + 1, j + 1] = True
    colors = list(COLORS)
    for (i, j), (color, kind) in house.things.items():
        contents[i + 1, j + 1] = 1 + KINDS.index(kind) * len(colors) + colors.index(color)
    for (i, j), color in house.doors.items():
        in_column = (i - 1, j) in house.walls or (i + 1, j) in house.walls
        contents[i + 1, j + 1] = FIRST_DOOR + 2 * colors.index(color) + in_column
    return walls.flatten(), contents.flatten()


def _height_at(depth: Tensor) -> Tensor:
    """Height above the floor that each row of a view shows at a depth, [..., HEIGHT]."""
    rows = torch.arange(HEIGHT) + 0.5 - HEIGHT / 2
    return EYE - rows * depth[..., None] / FOCAL


def _shaded(color: Tensor, depth: Tensor) -> Tensor:
    """Colors [..., 3] at a depth, uint8."""
    return (color / (1 + DARKER * depth[..., None])).to(torch.uint8)


def _bare_columns(ray: Rays) -> Tensor:
    """What each column of a view shows of wall, floor and ceiling if its ray's k-th cell is wall, uint8 [WIDTH, K, 3, HEIGHT]."""
    paint = torch.where(ray.through_side[..., None], torch.tensor(SIDE_WALL), torch.tensor(WALL)).float()
    paint *= torch.where(ray.seam.abs() > 0.45, SEAM, 1)[..., None]
    height = _height_at(ray.entry)
    is_wall = (height >= 0) & (height <= 1)
    rows = torch.arange(HEIGHT) + 0.5 - HEIGHT / 2
    beyond = _shaded(torch.where((rows > 0)[:, None], torch.tensor(FLOOR), torch.tensor(CEILING)), EYE * FOCAL / rows.abs())
    return torch.where(is_wall[:, :, None], _shaded(paint, ray.entry)[..., None], beyond.T)


def _shape(code: Tensor, across: Tensor, height: Tensor) -> Tensor:
    """Whether contents cover points: ``across`` [n] from the middle of their plane, ``height`` [n, rows] above the floor."""
    across = across.abs()[:, None]
    above = height >= 0
    shapes = (
        torch.zeros_like(above),
        across**2 + (height - 0.33) ** 2 <= 0.33**2,
        above & (across <= 0.3) & (height <= 0.6),
        above & (across <= 0.36 * (1 - height / 0.8)),
        above & (height <= 1) & ((across >= 0.36) | (height >= 0.8)),
    )
    number = torch.where(code >= FIRST_DOOR, len(KINDS) + 1, (code + len(COLORS) - 1) // len(COLORS))
    return torch.stack(shapes)[number, torch.arange(len(code))]


# ---------------------------------------------------------------------------------------------- from above

PLAN_CELL = 32  # pixels a side
EXPERT, AGENT = "#404040", "#ffa90e"  # of paths on a plan
BESIDE, ARROW, RING = 4, 21, 13  # pixels: between two paths, of an arrow, and the radius around a goal


def draw_plan(house: House) -> Tensor:
    """The house from above, uint8 [3, side, side], north on top: ``PLAN_CELL`` pixels a cell, and half a cell of wall around."""
    walls, contents = (grid.view(BORDERED, BORDERED) for grid in _grids(house))
    places = (torch.arange(PLAN_CELL) + 0.5) / PLAN_CELL - 0.5
    across, height = places.repeat(PLAN_CELL, 1).flatten(), -places.repeat_interleave(PLAN_CELL) + 0.35
    plan = torch.empty(BORDERED, PLAN_CELL, BORDERED, PLAN_CELL, 3, dtype=torch.uint8)
    for i in range(BORDERED):
        for j in range(BORDERED):
            code, ground = contents[i, j], torch.tensor(SIDE_WALL if walls[i, j] else (244, 241, 236))
            covered = _shape(code.expand(PLAN_CELL**2), across, height[:, None])[:, 0]
            if code >= FIRST_DOOR:
                thickness = across if (code - FIRST_DOOR) % 2 else height - 0.35
                covered = thickness.abs() < 0.18
            pixels = torch.where(covered[:, None], PAINT[code], ground)
            plan[i, :, j] = pixels.view(PLAN_CELL, PLAN_CELL, 3).to(torch.uint8)
    half = PLAN_CELL // 2
    return plan.view(BORDERED * PLAN_CELL, -1, 3)[half:-half, half:-half].permute(2, 0, 1).contiguous()


def pose_places(poses: Tensor) -> tuple[Tensor, Tensor]:
    """Where on a plan poses are, in pixels to the right and down, float [..., 2], and the directions in which they look."""
    cell, heading = poses // 4, poses % 4
    places = torch.stack([cell % SIZE, cell // SIZE], -1) * PLAN_CELL + (PLAN_CELL - 0.5)
    return places, torch.tensor(HEADINGS).flip(1)[heading].float()


def draw_walk(plan: Tensor, expert: Tensor, agent: Tensor | None = None) -> Tensor:
    """A plan with the poses of an expert, dashed up to a ring, and of an agent, from a dot to a cross, uint8 [3, side, side]."""
    picture = Image.fromarray(plan.permute(1, 2, 0).numpy())
    draw = ImageDraw.Draw(picture)

    def cross(x: float, y: float, color: str) -> None:
        for turn in (5, -5):
            draw.line((x - 5, y - turn, x + 5, y + turn), color, 3)

    def arrow(x: float, y: float, heading: tuple[float, float], color: str) -> None:
        dx, dy = heading
        tip = x + ARROW * dx, y + ARROW * dy
        draw.line((x, y, *tip), color, 2)
        for side in (4, -4):
            draw.line((*tip, tip[0] - 6 * dx - side * dy, tip[1] - 6 * dy + side * dx), color, 2)

    places, headings = (part.tolist() for part in pose_places(expert))
    for (x, y), (to_x, to_y) in zip(places, places[1:], strict=False):
        for start, end in ((0, 0.3), (0.5, 0.8)):
            dash = (x + start * (to_x - x), y + start * (to_y - y), x + end * (to_x - x), y + end * (to_y - y))
            draw.line(dash, EXPERT, 2)
    x, y = places[-1]
    draw.ellipse((x - RING, y - RING, x + RING, y + RING), outline=EXPERT, width=2)
    if agent is None:
        arrow(*places[0], headings[0], EXPERT)
        return pil_to_tensor(picture)
    places, headings = (part.tolist() for part in pose_places(agent))
    shifted = [(x + BESIDE, y + BESIDE) for x, y in places]  # beside the expert's, which it may cover
    draw.line(shifted, AGENT, 3)
    x, y = places[0]
    draw.ellipse((x - 5, y - 5, x + 5, y + 5), AGENT)
    arrow(x, y, headings[0], AGENT)
    cross(*shifted[-1], AGENT)
    arrow(*shifted[-1], headings[-1], AGENT)
    return pil_to_tensor(picture)


# ---------------------------------------------------------------------------------------------- words

AHEAD = (("walk", "on"), ("go", "straight"), ("go", "ahead"))
TURN = {LEFT: (("turn", "left"), ("go", "left")), RIGHT: (("turn", "right"), ("go", "right"))}
AROUND = (("turn", "around"), ("turn", "back"))
PASS = (("go", "through"), ("walk", "through"), ("take",))
ARRIVE = (("stop", "at"), ("halt", "at"), ("go", "to"), ("wait", "by"))
JOIN = (("then",), ("and", "then"), ("and",))


def describe_path(house: House, thing: Cell, poses: Sequence[int], actions: Sequence[str], draw: random.Random) -> list[str]:
    """A way in words, as in "turn left then go through the red door and halt at the blue ball".

    Every door on the way is named and, on the way to it and to the thing, where one first turns; wordings are drawn.

    Args:
        poses: those in which the actions are taken, the first to the last before the stop.
        actions: without the stop.
    """
    parts: list[tuple[str, ...]] = []
    leg: list[str] = []
    for pose, action in zip(poses, actions, strict=True):
        leg.append(action)
        cell, heading = divmod(pose, 4)
        ahead = cell // SIZE + HEADINGS[heading][0], cell % SIZE + HEADINGS[heading][1]
        if action == FORWARD and ahead in house.doors:
            between = leg[1:-1] if parts else leg[:-1]  # the step out of a door says nothing
            parts += [*_turning(between, draw), (*draw.choice(PASS), "the", house.doors[ahead], "door")]
            leg = []
    parts += [*_turning(leg[1:] if parts else leg, draw), (*draw.choice(ARRIVE), "the", *house.things[thing])]
    return [word for number, part in enumerate(parts) for word in (*(draw.choice(JOIN) if number else ()), *part)]


def _turning(leg: list[str], draw: random.Random) -> Iterator[tuple[str, ...]]:
    """Where one first turns on a way that passes no door."""
    runs = [(action, len(list(run))) for action, run in groupby(leg)]
    turn, times = next(((action, times) for action, times in runs if action != FORWARD), ("", 0))
    if turn:
        if runs[0][0] == FORWARD:
            yield draw.choice(AHEAD)
        yield draw.choice(AROUND if times > 1 else TURN[turn])


PHRASES = (*AHEAD, *TURN[LEFT], *TURN[RIGHT], *AROUND, *PASS, *ARRIVE, *JOIN, ("the", "door"))
WORDS = tuple(sorted({*(word for phrase in PHRASES for word in phrase), *COLORS, *KINDS}))
