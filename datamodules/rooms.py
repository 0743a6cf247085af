"""Ways through houses that are made from a seed, with instructions in words: data for agents that look and are told the way."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from zoo.core.errors import UserError
from zoo.core.randomness import derive_seed
from zoo.core.violation import require
from zoo.datamodules.bases.data_module import DataModule, Preview
from zoo.datamodules.loading.loader import Batch, BatchLoader, placement
from zoo.datamodules.loading.pixels import statistics_of_counts
from zoo.datamodules.worlds.rooms import (
    ACTIONS,
    HEIGHT,
    STOP,
    THINGS,
    WIDTH,
    WORDS,
    House,
    Ways,
    build_house,
    draw_plan,
    draw_walk,
    find_ways,
    render,
    tell_way,
)
from zoo.registry.entry import register_data
from zoo.spec import END, IGNORE, PAD, SPECIAL_WORDS, ImageSpec, NavigationSpec

PREVIEWED = 6  # episodes
LONGEST = 20  # actions of a shortest way, without the stop
NEAREST = 2
STEPS = 30  # that an agent may take
LONGEST_TOLD = 64  # words
HELD_OUT_HOUSES = {"val": 40, "test": 40}
HELD_OUT_STARTS = 3  # in each of them
SEEN_STARTS = 120  # in houses of the training, one in each of the first, for validation and again for the test
POOL = 8  # batches whose episodes are put together by their lengths
MEASURED = 32  # houses whose views make the statistics


@dataclass(frozen=True)
class Tables:
    """All that can be seen and done in B houses of P poses, with K things in each.

    Attributes:
        views: uint8 [B, P, 3, H, W].
        moves: the pose after each action, [B, P, actions].
        steps: the fewest actions, without the stop, to the goal, [B, K, P].
        expert: the best action, [B, K, P].
    """

    views: Tensor
    moves: Tensor
    steps: Tensor
    expert: Tensor

    def to(self, device: torch.device) -> Tables:
        """The same on a device."""
        return Tables(*(table.to(device) for table in vars(self).values()))


@dataclass(frozen=True)
class Episodes:
    """E tasks to get from a start to a thing, one row each; those of one start follow each other, a task for each thing.

    Attributes:
        house, thing, start: indices into the tables, int64 [E].
        words: the instruction, int64 [E, LONGEST_TOLD], and ``told``, how many words it has.
        path: the poses of a shortest way, int64 [E, LONGEST + 1], the goal again behind its end.
        actions: what is done there, the stop at the goal, and ``IGNORE`` behind it.
    """

    house: Tensor
    thing: Tensor
    start: Tensor
    words: Tensor
    told: Tensor
    path: Tensor
    actions: Tensor

    def __len__(self) -> int:
        return len(self.house)

    def subset(self, indices: Tensor) -> Episodes:
        """Those rows, in that order."""
        return Episodes(*(column[indices] for column in vars(self).values()))


class EpisodeLoader(BatchLoader):
    """Episodes as batches for one process, as what Lightning takes for a dataloader.

    Every row of a batch brings its world along: ``views`` [n, P, 3, H, W], ``moves`` [n, P, actions], and towards its goal
    ``steps`` and ``expert`` [n, P]. Beside them are ``words``, ``start``, ``path`` and ``actions``; ``seen``, whether the house
    is one of the training; and ``counted``, false for rows that are there only to keep processes in step.

    Args:
        tables, episodes: what there is, the tables perhaps on a device.
        first_seen: the index of the first house of the training; those before it are held out.
        batch_size: episodes a batch.
        seed: of the order; None keeps it, for evaluation.
        rank, world, position: see ``BatchLoader``.
    """

    def __init__(
        self,
        tables: Tables,
        episodes: Episodes,
        first_seen: int,
        batch_size: int,
        seed: int | None = None,
        **place: Any,
    ) -> None:
        super().__init__(**place)
        self.tables, self.episodes, self.first_seen, self.seed = tables, episodes, first_seen, seed
        self.batch_size = batch_size if seed is None else max(1, min(batch_size, len(episodes) // self.world))
        self.lengths = (episodes.actions != IGNORE).sum(1)

    def __len__(self) -> int:
        per_turn = self.batch_size * self.world
        return len(self.episodes) // per_turn if self.seed is not None else -(-len(self.episodes) // per_turn)

    def batches(self, epoch: int, first: int) -> Iterator[Batch]:
        if self.seed is None:
            parts = torch.arange(len(self.episodes)).split(self.batch_size)
            for turn in range(self.rank, len(self) * self.world, self.world):
                # sharded networks need all processes in step
                yield self._batch(parts[min(turn, len(parts) - 1)], counted=turn < len(parts))
            return
        for indices in self._order(epoch)[first:]:
            yield self._batch(indices[self.rank * self.batch_size :][: self.batch_size])

    def _order(self, epoch: int) -> list[Tensor]:
        """Indices for all processes together at each step of an epoch.

        Ways of about the same length go together, since a batch takes as long as its longest: half the time is saved.
        """
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", epoch))
        whole = self.batch_size * self.world
        order = torch.randperm(len(self.episodes), generator=generator)[: len(self) * whole]
        pools = (pool[self.lengths[pool].argsort(stable=True)] for pool in order.split(POOL * whole))
        batches = [batch for pool in pools for batch in pool.split(whole)]
        return [batches[index] for index in torch.randperm(len(batches), generator=generator)]

    def _batch(self, indices: Tensor, counted: bool = True) -> Batch:
        tables, episodes, device = self.tables, self.episodes, self.tables.views.device
        longest = int(self.lengths[indices].max())
        rows = {
            "words": episodes.words[indices, : int(episodes.told[indices].max())],
            "start": episodes.start[indices],
            "path": episodes.path[indices, :longest],
            "actions": episodes.actions[indices, :longest],
            "seen": episodes.house[indices] >= self.first_seen,
            "counted": torch.full((len(indices),), counted),
        }
        rows = {name: value.to(device, non_blocking=True) for name, value in rows.items()}
        house, thing = (part[indices].to(device, non_blocking=True) for part in (episodes.house, episodes.thing))
        return {
            **rows,
            "views": tables.views.index_select(0, house),
            "moves": tables.moves.index_select(0, house).long(),
            "steps": tables.steps[house, thing].long(),
            "expert": tables.expert[house, thing].long(),
        }


@register_data("rooms", task="navigation", tags=["offline"], tiny={"num_houses": 8, "num_starts": 8})
class Rooms(DataModule):
    """Small houses with instructions to follow: through colored doors to a ball, a box or a cone, seen from inside.

    From each start there is an instruction to each of the six things of the house, so whoever does not heed the words ends at the
    right one at most once in six times. Half of the episodes for validation and test lie in houses that training never sees.

    Args:
        num_houses: for training; others are held out for validation and test.
        num_starts: in each of them, with six instructions each.
        instructions: own; shuffled, dealt out anew among the things that can be reached from one start; or none.
    """

    task = "navigation"

    def __init__(
        self,
        batch_size: int,
        seed: int,
        num_houses: int = 200,
        num_starts: int = 24,
        instructions: Literal["own", "shuffled", "none"] = "own",
    ) -> None:
        super().__init__()
        if min(num_houses, num_starts) < 1:
            raise UserError(f"data.num_houses={num_houses}, data.num_starts={num_starts}: both must be at least 1")
        self.batch_size, self.seed, self.num_starts, self.instructions = batch_size, seed, num_starts, instructions
        self.first_seen = sum(HELD_OUT_HOUSES.values())  # held-out houses are the same however many there are for training
        self.count = self.first_seen + num_houses
        self.houses: list[House] = []
        self.splits: dict[str, Episodes] = {}
        image = ImageSpec(3, HEIGHT, WIDTH, ())
        self.spec = NavigationSpec(image, (*SPECIAL_WORDS, *WORDS), ACTIONS, LONGEST_TOLD, STEPS)

    def require_compatible(self, spec: NavigationSpec, name: str) -> None:
        """Be data for a model that was trained with ``spec``; ``name`` is this data's, for the message.

        Raises:
            UserError: other words, actions or views.
        """
        for what in ("vocabulary", "actions"):
            if getattr(spec, what) != getattr(self.spec, what):
                raise UserError(f"{name} has another {what.removesuffix('s')} than the model knows: test it on data like its own")
        if spec.image.shape != self.spec.image.shape:
            raise UserError(f"{name} has views of {self.spec.image.shape}, the model takes {spec.image.shape}")

    def setup(self, stage: str | None = None) -> None:
        if self.splits:
            return
        self.houses = [build_house(self.seed, index) for index in range(self.count)]
        ways, views = find_ways(self.houses), render(self.houses)
        self.tables = Tables(views, **vars(ways))
        starts = [self._starts(ways, index) for index in range(self.count)]
        seen = range(self.first_seen, min(self.first_seen + SEEN_STARTS, self.count))
        first = 0
        for number, (name, held_out) in enumerate(HELD_OUT_HOUSES.items()):
            chosen = [(house, start) for house in range(first, first + held_out) for start in starts[house][:HELD_OUT_STARTS]]
            chosen += [(house, start) for house in seen for start in starts[house][number : number + 1]]
            self.splits[name] = self._episodes(ways, chosen, name)
            first += held_out
        left = {house: starts[house][len(HELD_OUT_HOUSES) :][: self.num_starts] for house in range(self.first_seen, self.count)}
        self.splits["train"] = self._episodes(ways, [(house, start) for house in left for start in left[house]], "train")
        self.spec = replace(self.spec, image=self._with_statistics())

    def _starts(self, ways: Ways, house: int) -> list[int]:
        """Poses that are neither too near to any thing nor too far from it, in an order that is drawn."""
        steps = ways.steps[house]
        fitting = ((steps >= NEAREST) & (steps <= LONGEST)).all(0).nonzero()[:, 0].tolist()
        random.Random(derive_seed(self.seed, "starts", house)).shuffle(fitting)
        return fitting

    def _episodes(self, ways: Ways, starts: list[tuple[int, int]], split: str) -> Episodes:
        house, start = torch.tensor(starts).repeat_interleave(THINGS, 0).T
        thing = torch.arange(THINGS).repeat(len(starts))
        path, actions = _follow(ways, house, thing, start)
        words = self._instructions(house, thing, path, actions)
        if self.instructions == "shuffled":
            generator = torch.Generator().manual_seed(derive_seed(self.seed, "shuffled", split))
            order = torch.rand(len(starts), THINGS, generator=generator).argsort(1)
            words = words.unflatten(0, order.shape).gather(1, order[:, :, None].expand(-1, -1, LONGEST_TOLD)).flatten(0, 1)
        return Episodes(house, thing, start, words, (words != PAD).sum(1), path, actions)

    def _instructions(self, house: Tensor, thing: Tensor, path: Tensor, actions: Tensor) -> Tensor:
        words = torch.full((len(house), LONGEST_TOLD), PAD)
        if self.instructions == "none":
            words[:, 0] = END
            return words
        things = [list(one.things) for one in self.houses]
        rows = zip(words, *(part.tolist() for part in (house, thing, path, actions)), strict=True)
        for row, house_index, thing_index, poses, done in rows:
            names = [ACTIONS[action] for action in done[: done.index(ACTIONS.index(STOP))]]
            draw = random.Random(derive_seed(self.seed, "words", house_index, poses[0], thing_index))
            told = tell_way(self.houses[house_index], things[house_index][thing_index], poses[: len(names)], names, draw)
            row[: len(told) + 1] = torch.tensor([*self.spec.encode(told), END])
        return words

    def _with_statistics(self) -> ImageSpec:
        """Mean and standard deviation of the pixels of the first houses for training, where one can stand."""
        views = self.tables.views[self.first_seen : self.first_seen + MEASURED].flatten(0, 1)
        pixels = views[views.flatten(1).amax(1) > 0].transpose(0, 1).flatten(1)
        counts = torch.stack([torch.bincount(channel, minlength=256) for channel in pixels])
        mean, std = statistics_of_counts(counts)
        return replace(self.spec.image, mean=mean, std=std)

    # ------------------------------------------------------------------ batches

    def train_dataloader(self) -> EpisodeLoader:
        return self._loader("train", self.seed)

    def val_dataloader(self) -> EpisodeLoader:
        return self._loader("val")

    def test_dataloader(self) -> EpisodeLoader:
        return self._loader("test")

    def _loader(self, name: str, seed: int | None = None) -> EpisodeLoader:
        if self.trainer is not None:
            self.tables = self.tables.to(self.trainer.strategy.root_device)
        return EpisodeLoader(self.tables, self.splits[name], self.first_seen, self.batch_size, seed, **placement(self.trainer))

    # ------------------------------------------------------------------ to look at

    def summarize(self) -> dict[str, Any]:
        """What is there, once ``setup`` has run."""
        train = self.splits["train"]
        lengths = (train.actions != IGNORE).sum(1) - 1
        unseen = {name: int((split.house < self.first_seen).sum()) for name, split in self.splits.items() if name != "train"}
        return {
            "views": list(self.spec.image.shape),
            "houses": {"train": self.count - self.first_seen, **HELD_OUT_HOUSES},
            "episodes": {name: len(self.splits[name]) for name in ("train", "val", "test")},
            "unseen": unseen,
            "vocabulary": len(self.spec.vocabulary),
            "actions": f"{lengths.double().mean():.1f} on the shortest way, {int(lengths.max())} on the longest",
            "chance": f"1 in {THINGS}",
            "instruction": self.instruction("train", 0),
        }

    def preview(self) -> Preview:
        chosen = torch.linspace(0, len(self.splits["train"]) - 1, PREVIEWED).long().tolist()
        numbers = [str(number) for number in range(1, len(chosen) + 1)]
        lines = [f"{number}  {self.instruction('train', index)}" for number, index in zip(numbers, chosen, strict=True)]
        images = torch.stack([self.draw_walk("train", index) for index in chosen])
        return Preview(lines, images, numbers, shows="houses from above, with the shortest paths that the instructions describe")

    def check_batch(self, batch: Batch) -> None:
        spec, views, moves, words = self.spec, batch["views"], batch["moves"], batch["words"]
        poses, shape = views.shape[1], spec.image.shape
        require(tuple(views.shape[2:]) == shape, f"views are {tuple(views.shape[2:])}, the spec says {shape}")
        require(moves.shape[1:] == (poses, len(spec.actions)), f"moves are {tuple(moves.shape[1:])} for {poses} poses")
        require(moves.min() >= 0 and moves.max() < poses, "an action leads to a pose that does not exist")
        require((moves[:, :, -1] == torch.arange(poses)).all(), f"{spec.actions[-1]!r} is to stop, and leads elsewhere")
        require(words.min() >= 0 and words.max() < len(spec.vocabulary), "a word is outside the vocabulary of the spec")
        require((words == END).sum(1).eq(1).all(), "an instruction does not end, or ends twice")
        self._check_expert(batch)

    def _check_expert(self, batch: Batch) -> None:
        """Check that the expert arrives by a shortest path."""
        row, pose = torch.arange(len(batch["start"])), batch["start"]
        left = batch["steps"][row, pose]
        require((left < self.spec.steps).all(), f"a goal is {int(left.max())} steps away, and {self.spec.steps} may be taken")
        for _ in range(int(left.max())):
            pose = batch["moves"][row, pose, batch["expert"][row, pose]]
            left = (left - 1).clamp(min=0)
            require(torch.equal(batch["steps"][row, pose], left), "an action of the expert does not bring the goal nearer")
        require((batch["expert"][row, pose] == len(self.spec.actions) - 1).all(), "the expert does not stop at the goal")

    def instruction(self, split: str, episode: int) -> str:
        """What an episode is told."""
        return " ".join(self.spec.decode(self.splits[split].words[episode].tolist()))

    def draw_walk(self, split: str, episode: int, poses: Tensor | None = None) -> Tensor:
        """An episode's house from above with the expert's path and, given its poses, an agent's, uint8 [3, side, side]."""
        episodes = self.splits[split]
        expert = episodes.path[episode][episodes.actions[episode] != IGNORE]
        return draw_walk(draw_plan(self.houses[episodes.house[episode]]), expert, poses)


def _follow(ways: Ways, house: Tensor, thing: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """The expert's poses and actions from each start, int64 [E, LONGEST + 1]; ``IGNORE`` for actions behind the stop."""
    poses, actions = [start], []
    for _ in range(LONGEST + 1):
        actions.append(ways.expert[house, thing, poses[-1]].long())
        poses.append(ways.moves[house, poses[-1], actions[-1]].long())
    taken = torch.stack(actions, 1)
    stopped = (taken == ACTIONS.index(STOP)).cumsum(1)
    return torch.stack(poses[:-1], 1), taken.where(stopped.cumsum(1) <= 1, IGNORE)
