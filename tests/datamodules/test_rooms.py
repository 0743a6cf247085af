"""Houses, held against what one finds by walking and looking through them in small steps, and episodes in and out of them."""

from __future__ import annotations

import math
import random
import re
from collections import deque

import pytest
import torch

from zoo.core.errors import UserError
from zoo.datamodules.bases.navigation import Environments, EpisodeLoader
from zoo.datamodules.rooms import HELD_OUT_HOUSES, LONGEST, NEAREST, Rooms
from zoo.datamodules.worlds.rooms import (
    ACTIONS,
    COLORS,
    EYE,
    FOCAL,
    HEADINGS,
    KINDS,
    SIZE,
    THINGS,
    WIDTH,
    House,
    build_house,
    describe_path,
    draw_plan,
    find_ways,
    pose_places,
    rays,
    render,
)
from zoo.spec import IGNORE

HOUSES = [build_house(0, index) for index in range(6)]
VIEWS = render(HOUSES)
WAYS = Environments.with_goals(VIEWS, *find_ways(HOUSES))
STOP = len(ACTIONS) - 1


def moved(house: House, pose: int, action: int) -> int:
    """The rules of walking, for one pose."""
    cell, heading = divmod(pose, 4)
    if ACTIONS[action] == "forward":
        ahead = cell // SIZE + HEADINGS[heading][0], cell % SIZE + HEADINGS[heading][1]
        return 4 * (ahead[0] * SIZE + ahead[1]) + heading if house.is_free(ahead) else pose
    return 4 * cell + (heading + {"left": -1, "right": 1, "stop": 0}[ACTIONS[action]]) % 4


def free_poses(house: House) -> list[int]:
    return [pose for pose in range(4 * SIZE**2) if house.is_free(divmod(pose // 4, SIZE))]


# ---------------------------------------------------------------------------------------------- houses and ways


def test_a_house_is_a_function_of_seed_and_index() -> None:
    assert build_house(0, 3) == HOUSES[3] and build_house(1, 3) != HOUSES[3]
    assert len({repr(house) for house in HOUSES}) == len(HOUSES)


def test_every_house_has_four_rooms_doors_of_different_colors_and_things_no_two_alike() -> None:
    for index in range(200):
        house = build_house(7, index)
        assert len(house.doors) in (3, 4) and len(set(house.doors.values())) == len(house.doors)
        assert len(set(house.things.values())) == len(house.things) == THINGS
        assert all(color in COLORS and kind in KINDS for color, kind in house.things.values())
        rooms = 0
        left = {(i, j) for i in range(SIZE) for j in range(SIZE)} - house.walls - set(house.doors)
        while left:
            rooms, waiting = rooms + 1, [left.pop()]
            while waiting:
                i, j = waiting.pop()
                near = {(i + down, j + right) for down, right in HEADINGS} & left
                left -= near
                waiting += near
        assert rooms == 4 and not set(house.doors) & (house.walls | set(house.things))


def test_moves_follow_the_rules_and_ways_are_the_shortest() -> None:
    for number, house in enumerate(HOUSES):
        for pose in free_poses(house):
            assert WAYS.moves[number, pose].tolist() == [moved(house, pose, action) for action in range(len(ACTIONS))]
        for thing, cell in enumerate(house.things):
            found = fewest_steps(house, cell)
            steps, expert = WAYS.steps[number, thing].tolist(), WAYS.expert[number, thing].tolist()
            assert {pose: steps[pose] for pose in free_poses(house)} == found
            for pose, left in found.items():
                after = moved(house, pose, expert[pose])
                assert expert[pose] == STOP if left == 0 else found[after] == left - 1


def fewest_steps(house: House, thing: tuple[int, int]) -> dict[int, int]:
    """By a breadth-first search over the poses, from each of them forwards."""
    back: dict[int, list[int]] = {pose: [] for pose in free_poses(house)}
    for pose in back:
        for action in range(STOP):
            back[moved(house, pose, action)].append(pose)

    def faces(pose: int) -> bool:
        (i, j), (down, right) = divmod(pose // 4, SIZE), HEADINGS[pose % 4]
        return (i + down, j + right) == thing

    found = {pose: 0 for pose in back if faces(pose)}
    waiting = deque(found)
    while waiting:
        pose = waiting.popleft()
        for before in back[pose]:
            if before not in found:
                found[before] = found[pose] + 1
                waiting.append(before)
    return found


# ---------------------------------------------------------------------------------------------- views


def test_walls_are_where_a_ray_that_is_followed_in_small_steps_meets_them() -> None:
    ray, draw = rays(), random.Random(0)
    for _ in range(150):
        house = draw.choice(HOUSES)
        pose, column = draw.choice(free_poses(house)), draw.randrange(WIDTH)
        (row, place), heading = divmod(pose // 4, SIZE), pose % 4
        slope = (column + 0.5 - WIDTH / 2) / FOCAL
        down, right = HEADINGS[heading]
        aside = HEADINGS[(heading + 1) % 4]
        depth = 0.0
        while True:
            depth += 1e-3
            y = row + 0.5 + depth * (down + slope * aside[0])
            x = place + 0.5 + depth * (right + slope * aside[1])
            cell = math.floor(y), math.floor(x)
            if cell in house.walls or not all(0 <= part < SIZE for part in cell):
                break
        crossed = ray.cells[pose, column].tolist()
        wall = (cell[0] + 1) * (SIZE + 2) + cell[1] + 1
        assert ray.entry[column, crossed.index(wall)] == pytest.approx(depth, abs=2e-3)


def test_a_view_shows_a_wall_as_high_as_perspective_has_it_and_a_thing_where_it_stands() -> None:
    house = House(frozenset({(3, j) for j in range(SIZE)}), {}, {(5, 2): ("red", "box"), (4, 6): ("blue", "ball")})
    view = render([house])[0]
    # from (6, 0) north: the wall's face is 2.5 cells ahead
    north = view[4 * (6 * SIZE + 0)]
    column = north[:, :, WIDTH // 2].int()
    is_wall = (column.amax(0) - column.amin(0) < 20) & (column.amax(0) < 160)
    assert int(is_wall.sum()) == pytest.approx(2 * EYE * FOCAL / 2.5, abs=1)
    red = (view[..., 0, :, :].int() - view[..., 1, :, :].int() > 60).flatten(1).sum(1)
    # the box is straight ahead, two cells from (7, 2) looking north: 0.6 wide and high
    assert int(red[4 * (7 * SIZE + 2)]) == pytest.approx((0.6 * FOCAL / 2) ** 2, rel=0.3)
    assert red[4 * (7 * SIZE + 2) + 2] == 0, "looking away"
    assert (
        red[4 * (7 * SIZE + 1)] > 0
        and view[4 * (7 * SIZE + 1), 0, :, WIDTH // 2 :]
        .int()
        .sub(view[4 * (7 * SIZE + 1), 1, :, WIDTH // 2 :].int())
        .gt(60)
        .sum()
        == red[4 * (7 * SIZE + 1)]
    ), "a cell further west the box is in the right half"
    assert red[: 4 * 3 * SIZE].sum() == 0, "nothing is seen through the wall"
    assert not view[4 * (5 * SIZE + 2)].any(), "nobody stands where the box is"


def test_a_near_thing_hides_a_far_one_and_a_door_frames_what_is_behind_it() -> None:
    wall = frozenset((3, j) for j in range(SIZE) if j != 2)
    house = House(wall, {(3, 2): "green"}, {(1, 2): ("red", "ball"), (6, 5): ("blue", "box"), (6, 7): ("red", "cone")})
    view = render([house])[0].int()
    from_south = view[4 * (5 * SIZE + 2)]
    green = from_south[1] - from_south[0] > 60
    red = from_south[0] - from_south[1] > 60
    assert green.any() and red.any()
    rows, columns = red.nonzero(as_tuple=True)
    assert green[: rows.min()].any() and green[:, : columns.min()].any() and green[:, columns.max() + 1 :].any()
    behind = view[4 * (6 * SIZE + 3) + 1]
    assert (behind[2] - behind[0] > 60).any() and not (behind[0] - behind[1] > 60).any()
    # the same door seen along its wall has no width
    along = view[4 * (2 * SIZE + 0) + 1]
    assert (along[1] - along[0] > 60).sum() < green.sum() / 2


def test_the_plan_has_walls_doors_and_things_in_their_places() -> None:
    house = HOUSES[0]
    plan = draw_plan(house).int()
    assert plan.shape[1] == plan.shape[2]
    for (i, j), (color, _) in house.things.items():
        places, _ = pose_places(torch.tensor(4 * (i * SIZE + j)))
        x, y = places.round().int().tolist()
        assert plan[:, y, x].tolist() == list(COLORS[color])
    poses = torch.tensor([4 * 9, 4 * 9 + 1])
    places, looks = pose_places(poses)
    assert torch.equal(places[0], places[1]) and looks.tolist() == [[0, -1], [1, 0]]


# ---------------------------------------------------------------------------------------------- words


def test_a_way_is_told_by_its_doors_its_turns_and_its_end() -> None:
    house = House(frozenset({(3, 0), (3, 1), (3, 3)}), {(3, 2): "green"}, {(0, 0): ("red", "ball")})
    pose, actions = 4 * (5 * SIZE + 2) + 2, ["left", "left", *["forward"] * 5, "left", "forward"]
    poses = []
    for action in actions:
        poses.append(pose)
        pose = moved(house, pose, ACTIONS.index(action))
    told = {" ".join(describe_path(house, (0, 0), poses, actions, random.Random(seed))) for seed in range(300)}
    join = "(then|and|and then)"
    pattern = (
        f"turn (around|back) {join} (go through|walk through|take) the green door {join} (walk on|go straight|go ahead) {join} "
    )
    pattern += f"(turn|go) left {join} (stop at|halt at|go to|wait by) the red ball"
    assert len(told) > 100 and all(re.fullmatch(pattern, text) for text in told)


# ---------------------------------------------------------------------------------------------- episodes


@pytest.fixture(scope="module")
def data() -> Rooms:
    data = Rooms(16, 0, num_houses=5, num_starts=4)
    data.setup()
    return data


def test_every_start_has_an_instruction_to_each_thing_and_the_path_goes_there(data: Rooms) -> None:
    for split in data.splits.values():
        for first in range(0, len(split), THINGS):
            group = slice(first, first + THINGS)
            assert len(set(zip(split.environment[group].tolist(), split.start[group].tolist(), strict=True))) == 1
            assert split.goal[group].tolist() == list(range(THINGS))
        for episode in range(0, len(split), 7):
            house = data.houses[split.environment[episode]]
            pose, steps = int(split.start[episode]), 0
            for action, told in zip(split.actions[episode].tolist(), split.path[episode].tolist(), strict=True):
                assert pose == told
                if action == IGNORE:
                    break
                steps += action != STOP
                pose = moved(house, pose, action)
            assert NEAREST <= steps <= LONGEST
            assert steps == fewest_steps(house, list(house.things)[split.goal[episode]])[int(split.start[episode])]
            assert data.environments.steps[split.environment[episode], split.goal[episode], pose] == 0


def test_instructions_name_the_thing(data: Rooms) -> None:
    for name, split in data.splits.items():
        for episode in range(len(split)):
            thing = list(data.houses[split.environment[episode]].things.values())[split.goal[episode]]
            assert data.instruction(name, episode).endswith(" the " + " ".join(thing))


def test_unseen_houses_and_seen_ones_are_told_apart_and_no_start_is_in_two_splits(data: Rooms) -> None:
    keys = {}
    for name, split in data.splits.items():
        keys[name] = set(zip(split.environment.tolist(), split.start.tolist(), strict=True))
    assert not keys["train"] & keys["val"] and not keys["train"] & keys["test"] and not keys["val"] & keys["test"]
    houses = {name: {house for house, _ in pairs} for name, pairs in keys.items()}
    assert len(houses["val"] - houses["train"]) == HELD_OUT_HOUSES["val"]
    assert not (houses["val"] & houses["test"]) - houses["train"]
    for batch in data.val_dataloader():
        assert batch["counted"].all()
    seen = torch.cat([batch["seen"] for batch in data.val_dataloader()])
    assert torch.equal(seen, torch.tensor([house in houses["train"] for house in data.splits["val"].environment.tolist()]))


def test_held_out_houses_do_not_depend_on_the_number_for_training(data: Rooms) -> None:
    other = Rooms(16, 0, num_houses=2, num_starts=1)
    other.setup()
    unseen = other.splits["test"].environment < other.first_seen
    assert torch.equal(other.splits["test"].words[unseen], data.splits["test"].words[: int(unseen.sum())])


@pytest.mark.parametrize("world", [1, 2, 3])
def test_evaluation_sees_each_episode_once_on_any_number_of_processes(data: Rooms, world: int) -> None:
    split = data.splits["val"]
    loaders = [EpisodeLoader(data.environments, split, 64, rank=rank, world=world) for rank in range(world)]
    assert len({len(list(loader)) for loader in loaders}) == 1
    batches = [batch for loader in loaders for batch in loader]
    counted = torch.cat([batch["words"].new_full((len(batch["words"]),), 0) + batch["counted"] for batch in batches])
    assert int(counted.sum()) == len(split)
    starts = torch.cat([batch["start"][batch["counted"]] for batch in batches])
    assert torch.equal(starts.sort().values, split.start.sort().values)


def test_training_draws_each_episode_once_and_can_begin_anywhere(data: Rooms) -> None:
    loaders = [EpisodeLoader(data.environments, data.splits["train"], 16, 3, rank=rank, world=2) for rank in range(2)]
    per_rank = [list(loader) for loader in loaders]
    assert [len(batches) for batches in per_rank] == [len(loader) for loader in loaders] == [3, 3]
    whole = per_rank[0]
    loaders[0].position = lambda: (0, 2)
    (last,) = loaders[0]
    assert all(torch.equal(last[key], whole[2][key]) for key in last)
    loaders[0].position = lambda: (1, 0)
    assert not torch.equal(next(iter(loaders[0]))["start"], whole[0]["start"])


def test_shuffled_instructions_are_dealt_out_among_the_things_of_one_start(data: Rooms) -> None:
    shuffled = Rooms(16, 0, num_houses=5, num_starts=4, instructions="shuffled")
    shuffled.setup()
    own, other = data.splits["test"], shuffled.splits["test"]
    assert torch.equal(own.actions, other.actions) and torch.equal(own.start, other.start)
    groups = [sorted(map(tuple, split.words.unflatten(0, (-1, THINGS))[4].tolist())) for split in (own, other)]
    assert groups[0] == groups[1]
    right = (own.words == other.words).all(1).double().mean()
    assert float(right) == pytest.approx(1 / THINGS, abs=4 * math.sqrt(5 / 36 / len(own)))
    assert torch.equal(other.num_words, (other.words != 0).sum(1))


def test_none_says_nothing_and_other_mistakes_are_one_line(zoo) -> None:
    silent = Rooms(16, 0, num_houses=1, num_starts=1, instructions="none")
    silent.setup()
    assert silent.instruction("train", 0) == "" and silent.splits["train"].num_words.eq(1).all()
    assert zoo("data", "show", "rooms", "--measure", "--set", "data.num_houses=0").is_one_line_error("data.num_houses=0")
    assert zoo("train", "navigator", "--set", "data.instructions=shufled").is_one_line_error("shufled", "'shuffled'")
    with pytest.raises(UserError, match="differ in vocabulary"):
        from dataclasses import replace

        silent.require_compatible(replace(silent.spec, vocabulary=silent.spec.vocabulary[:-1]), "rooms")
