"""Houses that are made from a seed, with instructions in words: data for agents that follow instructions."""

from __future__ import annotations

import random
from typing import Any, Literal

import torch
from torch import Tensor

from zoo.core.randomness import derive_seed
from zoo.datamodules.bases.navigation import Environments, Episodes, NavigationData
from zoo.datamodules.bases.options import require_at_least
from zoo.datamodules.worlds.rooms import (
    ACTIONS,
    HEIGHT,
    STOP,
    THINGS,
    WIDTH,
    WORDS,
    House,
    build_house,
    describe_path,
    draw_plan,
    draw_walk,
    find_ways,
    render,
)
from zoo.registry.entry import register_data
from zoo.spec import IGNORE, SPECIAL_WORDS, ImageSpec, NavigationSpec

LONGEST = 20  # actions of a shortest way, without the stop
NEAREST = 2
STEPS = 30  # that an agent may take
LONGEST_TOLD = 64  # words
HELD_OUT_HOUSES = {"val": 40, "test": 40}
HELD_OUT_STARTS = 3  # in each of them
SEEN_STARTS = 120  # in houses of the training, one in each of the first, for validation and again for the test


@register_data("rooms", task="navigation", tags=["offline"], tiny={"num_houses": 8, "num_starts": 8})
class Rooms(NavigationData):
    """Small houses with instructions to follow: through colored doors to a ball, a box or a cone, seen from inside.

    From each start there is an instruction to each of the six objects of the house, so an agent that ignores them succeeds in
    at most one of six episodes. Half of the validation and test episodes are in houses that training never sees.

    Args:
        num_houses: number of training houses; others are held out for validation and test.
        num_starts: start positions in each house, with six instructions each.
        instructions: own; shuffled, permuted among the episodes of each start; or none.
    """

    def __init__(
        self,
        batch_size: int,
        seed: int,
        num_houses: int = 200,
        num_starts: int = 24,
        instructions: Literal["own", "shuffled", "none"] = "own",
    ) -> None:
        super().__init__(batch_size, seed)
        require_at_least(1, num_houses=num_houses, num_starts=num_starts)
        self.num_starts, self.instructions = num_starts, instructions
        self.first_seen = sum(HELD_OUT_HOUSES.values())  # held-out houses are the same however many there are for training
        self.count = self.first_seen + num_houses
        self.houses: list[House] = []

    def build_spec(self) -> NavigationSpec:
        return NavigationSpec(ImageSpec(3, HEIGHT, WIDTH, ()), (*SPECIAL_WORDS, *WORDS), ACTIONS, LONGEST_TOLD, STEPS)

    def load_environments(self) -> Environments:
        self.houses = [build_house(self.seed, index) for index in range(self.count)]
        return Environments.with_goals(render(self.houses), *find_ways(self.houses))

    def load_episodes(self) -> dict[str, Episodes]:
        starts = [self._starts(index) for index in range(self.count)]
        seen = range(self.first_seen, min(self.first_seen + SEEN_STARTS, self.count))
        left = {house: starts[house][len(HELD_OUT_HOUSES) :][: self.num_starts] for house in range(self.first_seen, self.count)}
        splits = {"train": self._episodes([(house, start) for house in left for start in left[house]], "train")}
        first = 0
        for number, (name, held_out) in enumerate(HELD_OUT_HOUSES.items()):
            chosen = [(house, start) for house in range(first, first + held_out) for start in starts[house][:HELD_OUT_STARTS]]
            chosen += [(house, start) for house in seen for start in starts[house][number : number + 1]]
            splits[name] = self._episodes(chosen, name)
            first += held_out
        return splits

    def _starts(self, house: int) -> list[int]:
        """Poses that are neither too near to any thing nor too far from it, in an order that is drawn."""
        steps = self.environments.steps[house]
        fitting = ((steps >= NEAREST) & (steps <= LONGEST)).all(0).nonzero()[:, 0].tolist()
        random.Random(derive_seed(self.seed, "starts", house)).shuffle(fitting)
        return fitting

    def _episodes(self, starts: list[tuple[int, int]], split: str) -> Episodes:
        house, start = torch.tensor(starts).repeat_interleave(THINGS, 0).T
        thing = torch.arange(THINGS).repeat(len(starts))
        instructions = self._instructions(house, thing, start)
        if self.instructions == "shuffled":
            generator = torch.Generator().manual_seed(derive_seed(self.seed, "shuffled", split))
            order = torch.rand(len(starts), THINGS, generator=generator).argsort(1)
            rows = (order + THINGS * torch.arange(len(starts))[:, None]).flatten()
            instructions = [instructions[row] for row in rows.tolist()]
        return self.encode_episodes(house, thing, start, instructions)

    def _instructions(self, house: Tensor, thing: Tensor, start: Tensor) -> list[list[str]]:
        if self.instructions == "none":
            return [[]] * len(house)
        things = [list(one.things) for one in self.houses]
        path, actions = self.environments.follow(house, thing, start)
        instructions = []
        for house_index, thing_index, poses, done in zip(*(part.tolist() for part in (house, thing, path, actions)), strict=True):
            names = [ACTIONS[action] for action in done[: done.index(ACTIONS.index(STOP))]]
            draw = random.Random(derive_seed(self.seed, "words", house_index, poses[0], thing_index))
            way = self.houses[house_index], things[house_index][thing_index], poses[: len(names)]
            instructions.append(describe_path(*way, names, draw))
        return instructions

    def summarize(self) -> dict[str, Any]:
        houses = {"train": self.count - self.first_seen, **HELD_OUT_HOUSES}
        return {**super().summarize(), "houses": houses, "chance": f"1 in {THINGS}"}

    def draw_walk(self, split: str, episode: int, poses: Tensor | None = None) -> Tensor:
        """Draw an episode's house from above, with the path of the expert and, if its poses are given, that of an agent."""
        episodes = self.splits[split]
        expert = episodes.path[episode][episodes.actions[episode] != IGNORE]
        return draw_walk(draw_plan(self.houses[episodes.environment[episode]]), expert, poses)
