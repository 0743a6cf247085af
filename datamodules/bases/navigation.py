"""The base of navigation data: environments that are graphs of poses, and episodes with instructions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from zoo.core.errors import UserError
from zoo.core.randomness import derive_seed
from zoo.core.violation import require
from zoo.datamodules.bases.data_module import DataModule, Preview
from zoo.datamodules.loading.loader import Batch, BatchLoader, placement
from zoo.datamodules.loading.pixels import channel_statistics
from zoo.datamodules.loading.splits import ImagesInMemory
from zoo.spec import END, IGNORE, PAD, ImageSpec, NavigationSpec

FAR = 1000  # longer than any path: from where the goal cannot be reached
POOL = 8  # batches whose episodes are put together by their lengths
DRAWN_VIEWS = 8
PREVIEWED = 6  # episodes
MEASURED = 32  # environments whose views make the statistics


@dataclass(frozen=True)
class Lookup:
    """What rows of a batch look up by their poses in a table of all environments: a tensor [N, P, ...] that is never made.

    Attributes:
        table: [entries, ...].
        first: the entry of each row's first pose, int64 [N].
        sharing: the number of consecutive poses that share an entry.
    """

    table: Tensor
    first: Tensor
    sharing: int = 1

    def __getitem__(self, index: Any) -> Any:
        """The entries of (rows, poses), broadcast, or for rows alone what these look up."""
        if not isinstance(index, tuple):
            return replace(self, first=self.first[index])
        row, pose = index
        return self.table[self.first[row] + pose // self.sharing]

    def __len__(self) -> int:
        return len(self.first)

    def to(self, device: torch.device, **options: Any) -> Lookup:
        """The same on a device, as Lightning moves what is in a batch."""
        return replace(self, table=self.table.to(device, **options), first=self.first.to(device, **options))


class Graphs(ABC):
    """Environments that are graphs of poses, with the shortest paths to their goals."""

    @property
    @abstractmethod
    def device(self) -> torch.device: ...

    @abstractmethod
    def to(self, device: torch.device) -> Self:
        """The same on a device."""

    @abstractmethod
    def lookup(self, environment: Tensor, goal: Tensor) -> dict[str, Any]:
        """``views``, ``moves``, ``lengths``, ``distance`` and ``expert`` for rows with these environments and goals, int64 [N].

        All are indexed by row and pose, as ``NavigationAgent`` describes them; ``distance`` is ``FAR`` where no path leads to the
        goal.
        """

    def rows(self, environment: Tensor, goal: Tensor) -> dict[str, Any]:
        """What a batch holds of ``lookup``."""
        return self.lookup(environment, goal)

    def follow(self, environment: Tensor, goal: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        """Poses and actions of a shortest path from each start, int64 [E, longest + 1]; ``IGNORE`` for actions after the stop.

        Raises:
            UserError: there is no path.
        """
        tables, row = self.lookup(environment, goal), torch.arange(len(start))
        if len(lost := (tables["distance"][row, start] >= FAR).nonzero()):
            episode = int(lost[0])
            raise UserError(f"episode {episode}: no path leads from pose {int(start[episode])} to goal {int(goal[episode])}")
        pose, poses, actions = start, [], []
        while True:
            moves = tables["moves"][row, pose].long()
            action = tables["expert"][row, pose].long()
            poses.append(pose)
            actions.append(action)
            if bool((action == moves.shape[1] - 1).all()):
                break
            pose = moves.gather(1, action[:, None])[:, 0]
        taken = torch.stack(actions, 1)
        stopped = (taken == moves.shape[1] - 1).cumsum(1)
        return torch.stack(poses, 1), taken.where(stopped <= 1, IGNORE)


@dataclass(frozen=True)
class Environments(Graphs):
    """B environments of P poses, with K goals each, in which every action takes one step.

    Attributes:
        views: uint8 [B, P, C, H, W].
        moves: the pose after each action, [B, P, actions]; the last action is to stop, and leads nowhere else.
        steps: the fewest actions, without the stop, to each goal, [B, K, P]; ``FAR`` from where there is no path.
        expert: the first action of a shortest path, [B, K, P].
    """

    views: Tensor
    moves: Tensor
    steps: Tensor
    expert: Tensor

    @classmethod
    def with_goals(cls, views: Tensor, moves: Tensor, at_goal: Tensor) -> Environments:
        """Environments with shortest paths to the poses that are true in ``at_goal``, bool [B, K, P]."""
        return cls(views, moves, *shortest_paths(moves, at_goal))

    @property
    def device(self) -> torch.device:
        return self.views.device

    def to(self, device: torch.device) -> Environments:
        return Environments(*(table.to(device) for table in vars(self).values()))

    def lookup(self, environment: Tensor, goal: Tensor) -> dict[str, Any]:
        count, poses, actions = self.moves.shape
        first, towards = environment * poses, (environment * self.steps.shape[1] + goal) * poses
        return {
            "views": Lookup(self.views.flatten(0, 1), first),
            "moves": Lookup(self.moves.flatten(0, 1), first),
            "lengths": Lookup(torch.ones(1, actions, device=self.device), torch.zeros_like(first), poses),
            "distance": Lookup(self.steps.flatten(), towards),
            "expert": Lookup(self.expert.flatten(), towards),
        }

    def rows(self, environment: Tensor, goal: Tensor) -> dict[str, Any]:
        # plain tensors, with which a step can be replayed from a file
        return {
            "views": self.views.index_select(0, environment),
            "moves": self.moves.index_select(0, environment).long(),
            "lengths": torch.ones((), device=self.device).expand(len(environment), *self.moves.shape[1:]),
            "distance": self.steps[environment, goal].long(),
            "expert": self.expert[environment, goal].long(),
        }


def shortest_paths(moves: Tensor, at_goal: Tensor) -> tuple[Tensor, Tensor]:
    """``steps`` and ``expert`` of environments, found from the goals backwards; of several best actions the first."""
    steps = torch.where(at_goal, 0, FAR)
    after = moves[:, None, :, :-1].long().expand(-1, at_goal.shape[1], -1, -1).flatten(2)
    while True:
        left = steps.gather(2, after).unflatten(2, (moves.shape[1], -1))
        nearer = torch.minimum(steps, left.min(3).values + 1)
        if torch.equal(nearer, steps):
            return steps.short(), torch.where(at_goal, moves.shape[2] - 1, left.argmin(3)).to(torch.int8)
        steps = nearer


@dataclass(frozen=True)
class Episodes:
    """E tasks to get from a start to a goal, one row each.

    Attributes:
        environment, goal, start: indices into the environments, int64 [E].
        words: the instruction, int64 [E, spec.length], and ``num_words``, the number of its words.
        path: the poses of a shortest path, int64 [E, longest + 1], the goal again after its end.
        actions: what is done there, the stop at the goal, and ``IGNORE`` after it.
        seen: whether evaluation counts it apart, among episodes in environments of the training, bool [E].
    """

    environment: Tensor
    goal: Tensor
    start: Tensor
    words: Tensor
    num_words: Tensor
    path: Tensor
    actions: Tensor
    seen: Tensor

    def __len__(self) -> int:
        return len(self.environment)

    def subset(self, indices: Tensor) -> Episodes:
        """Those rows, in that order."""
        return Episodes(*(column[indices] for column in vars(self).values()))


class EpisodeLoader(BatchLoader):
    """Episodes as batches for one process, as what Lightning takes for a dataloader.

    Every row of a batch holds its environment: ``views``, ``moves`` and ``lengths``, and towards its goal ``distance`` and
    ``expert``. Beside them are ``words``, ``start``, ``path``, ``actions`` and ``seen``; and ``counted``, false for rows that are
    there only to keep processes in step.

    Args:
        environments: of the episodes; may be on a device.
        episodes: the data.
        batch_size: episodes a batch.
        seed: of the order; None keeps it, for evaluation.
        **place: rank, world and position, as in ``BatchLoader``.
    """

    def __init__(
        self,
        environments: Graphs,
        episodes: Episodes,
        batch_size: int,
        seed: int | None = None,
        **place: Any,
    ) -> None:
        super().__init__(**place)
        self.environments, self.episodes, self.seed = environments, episodes, seed
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
        episodes, device = self.episodes, self.environments.device
        longest = int(self.lengths[indices].max())
        rows = {
            "words": episodes.words[indices, : int(episodes.num_words[indices].max())],
            "start": episodes.start[indices],
            "path": episodes.path[indices, :longest],
            "actions": episodes.actions[indices, :longest],
            "seen": episodes.seen[indices],
            "counted": torch.full((len(indices),), counted),
        }
        rows = {name: value.to(device, non_blocking=True) for name, value in rows.items()}
        place, goal = (part[indices].to(device, non_blocking=True) for part in (episodes.environment, episodes.goal))
        return {**rows, **self.environments.rows(place, goal)}


class NavigationData(DataModule):
    """Environments in which an agent follows instructions.

    A subclass implements ``build_spec``, ``load_environments`` and ``load_episodes``; ``draw_walk`` if it can draw environments.

    Args:
        batch_size: episodes a batch on each device.
        seed: of the order.

    Attributes:
        first_seen: the index of the first environment of the training. Those before it are held out: their episodes are
            evaluated apart from episodes in environments of the training.
    """

    task = "navigation"
    first_seen: int = 0

    def __init__(self, batch_size: int, seed: int) -> None:
        super().__init__()
        self.batch_size, self.seed = batch_size, seed
        self.spec = self.build_spec()

    # ------------------------------------------------------------------ what a subclass gives

    @abstractmethod
    def build_spec(self) -> NavigationSpec:
        """Views, words and actions, the stop last, without reading the views."""

    @abstractmethod
    def load_environments(self) -> Graphs:
        """All environments, those that are held out first."""

    @abstractmethod
    def load_episodes(self) -> dict[str, Episodes]:
        """The splits ``train``, ``val`` and ``test``, made by ``encode_episodes``."""

    def draw_walk(self, split: str, episode: int, poses: Tensor | None = None) -> Tensor:
        """Draw an episode with the path of the expert and, if its poses are given, that of an agent, uint8 [3, height, width].

        By default views along the path of one of them, side by side.
        """
        episodes = self.splits[split]
        path = episodes.path[episode][episodes.actions[episode] != IGNORE] if poses is None else poses
        shown = path[torch.linspace(0, len(path) - 1, DRAWN_VIEWS).long()]
        return torch.cat(tuple(self.views_along(split, episode, shown)), 2)

    def views_along(self, split: str, episode: int, poses: Tensor) -> Tensor:
        """The images from poses of an episode, uint8 [n, C, H, W]; none where there are only features."""
        return self.environments.views[self.splits[split].environment[episode], poses].cpu()

    def trajectory(self, split: str, episode: int, poses: list[int]) -> dict[str, Any]:
        """A path as plain data."""
        return {"episode": episode, "trajectory": poses}

    # ------------------------------------------------------------------ what the rest uses

    def encode_episodes(
        self, environment: Tensor, goal: Tensor, start: Tensor, instructions: Sequence[Sequence[str]]
    ) -> Episodes:
        """Episodes from indices, int64 [E], and the words of each instruction.

        Raises:
            UserError: a goal cannot be reached, or an instruction is longer than the spec says.
        """
        path, actions = self.environments.follow(environment, goal, start)
        words = torch.full((len(instructions), self.spec.length), PAD)
        for row, instruction in zip(words, instructions, strict=True):
            if len(instruction) >= self.spec.length:
                raise UserError(f"an instruction has {len(instruction)} words, but the spec allows {self.spec.length - 1}")
            row[: len(instruction) + 1] = torch.tensor([*self.spec.encode(instruction), END])
        seen = environment >= self.first_seen
        return Episodes(environment, goal, start, words, (words != PAD).sum(1), path, actions, seen)

    def require_compatible(self, spec: NavigationSpec, name: str) -> None:
        """Refuse to be data for a model that was trained with another ``spec``; ``name`` is this data's, for the message.

        Raises:
            UserError: other words, actions or views.
        """
        for what in ("vocabulary", "actions"):
            if getattr(spec, what) != getattr(self.spec, what):
                raise UserError(f"{name} and the model differ in {what}: test it on its own data")
        if spec.image.shape != self.spec.image.shape:
            raise UserError(f"{name} has views of {self.spec.image.shape}, the model takes {spec.image.shape}")

    def setup(self, stage: str | None = None) -> None:
        if not self.splits:
            self.environments = self.load_environments()
            self.splits = self.load_episodes()
            self.spec = replace(self.spec, image=self._with_statistics())

    def _with_statistics(self) -> ImageSpec:
        """Mean and standard deviation of the pixels of the first training environments, without black views."""
        views = self.environments.views[self.first_seen : self.first_seen + MEASURED].flatten(0, 1)
        mean, std = channel_statistics(ImagesInMemory(views[views.flatten(1).amax(1) > 0]))
        return replace(self.spec.image, mean=mean, std=std)

    def build_loader(self, split: str) -> EpisodeLoader:
        episodes = self.splits[split]
        if self.trainer is not None:
            self.environments = self.environments.to(self.trainer.strategy.root_device)
        seed, place = self.seed if split == "train" else None, placement(self.trainer, split == "train")
        return EpisodeLoader(self.environments, episodes, self.batch_size, seed, **place)

    def summarize(self) -> dict[str, Any]:
        """A summary of the data, once ``setup`` has run."""
        lengths = (self.splits["train"].actions != IGNORE).sum(1) - 1
        held_out = {name: ~self.splits[name].seen for name in ("val", "test")}
        return {
            "views": list(self.spec.image.shape),
            "episodes": {name: len(self.splits[name]) for name in ("train", "val", "test")},
            "unseen": {name: int(unseen.sum()) for name, unseen in held_out.items()},
            "vocabulary": len(self.spec.vocabulary),
            "actions": f"{lengths.double().mean():.1f} on average, at most {int(lengths.max())}",
            "instruction": self.instruction("train", 0),
        }

    def preview(self) -> Preview:
        chosen = torch.linspace(0, len(self.splits["train"]) - 1, PREVIEWED).long().tolist()
        numbers = [str(number) for number in range(1, len(chosen) + 1)]
        lines = [f"{number}  {self.instruction('train', index)}" for number, index in zip(numbers, chosen, strict=True)]
        images = torch.stack([self.draw_walk("train", index) for index in chosen])
        return Preview(lines, images, numbers, shows="environments, with the shortest paths that the instructions describe")

    def check_batch(self, batch: Batch) -> None:
        spec, words, path = self.spec, batch["words"], batch["path"]
        row = torch.arange(len(path))[:, None]
        views, moves = batch["views"][row, path], batch["moves"][row, path]
        require(
            tuple(views.shape[2:]) == spec.image.shape, f"views are {tuple(views.shape[2:])}, the spec has {spec.image.shape}"
        )
        require(
            moves.shape[2] == len(spec.actions), f"there are moves of {moves.shape[2]} actions, the spec has {len(spec.actions)}"
        )
        require(torch.equal(moves[:, :, -1], path), f"{spec.actions[-1]!r} must stay at its pose")
        if isinstance(tables := batch["moves"], Tensor):
            require(tables.min() >= -1 and tables.max() < tables.shape[1], "an action leads to a pose that does not exist")
        require(words.min() >= 0 and words.max() < len(spec.vocabulary), "a word is outside the vocabulary of the spec")
        require((words == END).sum(1).eq(1).all(), "an instruction does not end, or ends twice")
        self._check_expert(batch)

    def _check_expert(self, batch: Batch) -> None:
        """Check that the expert arrives by a shortest path."""
        row, pose, stop = torch.arange(len(batch["start"])), batch["start"], len(self.spec.actions) - 1
        steps = int((batch["actions"] != IGNORE).sum(1).max()) - 1
        require(steps < self.spec.steps, f"a goal is {steps} steps away, at most {self.spec.steps} are allowed")
        for _ in range(steps):
            action = batch["expert"][row, pose].long()[:, None]
            length, after = (batch[name][row, pose].gather(1, action)[:, 0] for name in ("lengths", "moves"))
            left = batch["distance"][row, pose].float() - length * (action[:, 0] != stop)
            require(after.min() >= 0, "an action of the expert cannot be taken")
            pose = after
            is_nearer = torch.isclose(batch["distance"][row, pose].float(), left, atol=1e-3)
            require(is_nearer.all(), "an action of the expert is not on a shortest path")
        require((batch["expert"][row, pose] == stop).all(), "the expert does not stop at the goal")

    def instruction(self, split: str, episode: int) -> str:
        """The instruction of an episode."""
        return " ".join(self.spec.decode(self.splits[split].words[episode].tolist()))
