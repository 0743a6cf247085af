"""The navigation task: follow an instruction through a world in first-person views, action by action."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.config.recipe import Recipe
from zoo.core.errors import UserError
from zoo.metrics.mean_loss import MeanLoss, proportion_error
from zoo.spec import END, IGNORE, SPECIAL_WORDS, NavigationSpec
from zoo.tasks.samples import SPLIT_NAMES, Samples, Scene, Turn, evenly_spread, require_some
from zoo.tasks.task import Task, compute_and_reset

Memory: TypeAlias = Any  # of the instruction: whatever a model reads it into
State: TypeAlias = Any  # of the way so far
EXAMPLE_WORDS, EXAMPLE_POSES, EXAMPLE_STEPS = 5, 8, 4
MOST_WALKED = 256  # test episodes of which those to show are chosen
SHOWN = 6  # of them in a report, half of them failures, as far as there are such
MOST_VIEWS = 8  # of an episode


@dataclass(frozen=True)
class Walk:
    """Trajectories of N agents over T steps.

    Attributes:
        poses: before each step and after the last, [N, T + 1]; an agent that has stopped stays.
        scores: of the actions at each step, [N, T, actions].
        walking: whether the agent had not stopped before each step, bool [N, T].
        stopped: whether the agent chose to stop, bool [N].
        length: of the path, in the unit of the spec, [N].
    """

    poses: Tensor
    scores: Tensor
    walking: Tensor
    stopped: Tensor
    length: Tensor

    @property
    def steps(self) -> Tensor:
        """The number of actions without the stop, [N]."""
        return self.walking.sum(1) - self.stopped.long()


@dataclass(frozen=True)
class Episode:
    """One walk through an unseen world of the test split.

    Attributes:
        index: of the episode in the split.
        instruction: in words.
        outcome: in words.
        poses: int64 [steps + 1], which the data can draw.
        views: images along the path, uint8 [n, C, H, W], at most ``MOST_VIEWS``; none where the data has features in their place.
    """

    index: int
    instruction: str
    outcome: str
    poses: Tensor
    views: Tensor


class NavigationAgent(Task):
    """Words and views in, scores for the next action out.

    A model implements ``encode_instruction``, ``extract_features``, ``forward`` and ``stages``. A batch is a dict in
    which each of N samples has a world of P poses: ``views``, [N, P, C, H, W], from each of them; ``moves``, int64 [N, P,
    actions], the pose after each action, or -1 where it cannot be taken; ``lengths``, [N, P, actions], of these moves;
    ``distance``, [N, P], that of a shortest path to the goal, and ``expert``, int64 [N, P], the action that begins it. They are
    indexed by row and pose, so they may be tables that are looked up only there. ``start``, int64 [N], is where one stands at
    first, ``path`` and ``actions``, [N, T], are the expert's way from there, behind whose end actions are ``IGNORE``. ``words``,
    int64 [N, L], is the instruction up to its ``END`` and padding. ``seen``, bool [N], says that the world is one of those in
    training, and ``counted`` which samples evaluation counts.

    An episode has at most ``spec.steps`` actions. Metrics of worlds that are unseen in training have plain names, those of seen
    ones end in ``_seen``.

    Args:
        forcing: what is imitated: ``teacher``, the expert's actions on the expert's way; or ``student``, the expert's actions
            wherever the agent's own samples lead it (Anderson et al. 2018, arXiv:1711.07280).
    """

    task = "navigation"
    use_command = "picture path {run}"
    monitor = "success"
    directions = {
        "success": "max", "spl": "max", "error": "min", "oracle_success": "max", "length": "min",
        "success_seen": "max", "spl_seen": "max", "error_seen": "min", "oracle_success_seen": "max", "length_seen": "min",
        "loss": "min",
    }  # fmt: skip

    def __init__(
        self, spec: NavigationSpec, recipe: Recipe | None = None, forcing: Literal["teacher", "student"] = "teacher"
    ) -> None:
        super().__init__(spec, recipe)
        self.forcing = forcing
        if spec.panoramic and self.recipe.label_smoothing:
            raise UserError(
                f"recipe.label_smoothing={self.recipe.label_smoothing}: actions to smooth over differ from place to place: use 0"
            )
        mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (spec.image.mean, spec.image.std))
        # not in the state dict: they are part of the spec
        largest = 1 if spec.panoramic else 255  # of a pixel; features are taken as they are
        self.register_buffer("input_scale", 1 / (largest * std), persistent=False)
        self.register_buffer("input_shift", -mean / std, persistent=False)
        self.means = nn.ModuleDict(
            {stage: nn.ModuleDict({name: MeanLoss() for name in self.directions}) for stage in ("val", "test")}
        )

    # ------------------------------------------------------------------ for models to implement

    def encode_instruction(self, words: Tensor) -> tuple[Memory, State]:
        """Encode instructions, int64 [N, L], into a memory to attend to and the initial state."""
        raise NotImplementedError

    def extract_features(self, views: Tensor) -> Tensor:
        """Features of views, normalized where they are pixels, [M, C, H, W], as [M, ...]."""
        raise NotImplementedError

    def forward(self, features: Tensor, previous: Tensor, memory: Memory, state: State) -> tuple[Tensor, State]:
        """Logits of the next action, [N, actions], and the new state.

        Args:
            features: of the current views, [N, ...].
            previous: the previous actions, int64 [N]; ``len(spec.actions)`` at the start.
            memory: of the instruction.
            state: after the previous actions.
        """
        raise NotImplementedError

    # ------------------------------------------------------------------ walking

    def encode_views(self, views: Tensor) -> Tensor:
        """Features of views as they are in batches, [M, C, H, W]."""
        return self.extract_features(views.to(self.input_scale.dtype) * self.input_scale + self.input_shift)

    def teacher_forced_scores(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits of the actions along the expert's path, [N, T, actions], given the expert's previous actions."""
        path, (memory, state) = batch["path"], self.encode_instruction(batch["words"])
        row = torch.arange(len(path), device=path.device)[:, None]
        features = self.encode_views(batch["views"][row, path].flatten(0, 1)).unflatten(0, path.shape)
        previous = self._no_action(path)
        scores = []
        for view, action in zip(features.unbind(1), batch["actions"].unbind(1), strict=True):
            decision, state = self(view, previous, memory, state)
            scores.append(decision)
            previous = action.clamp(min=0)  # behind the end nothing counts
        return _possible(torch.stack(scores, 1), batch["moves"][row, path])

    def walk(self, batch: dict[str, Tensor], sample: bool = False) -> Walk:
        """Act from the start until the stop, or for ``spec.steps`` steps.

        Actions are the most probable or, with ``sample``, drawn. It takes as many steps even if all have stopped, which saves a
        device sync.
        """
        memory, state = self.encode_instruction(batch["words"])
        pose, row = batch["start"], torch.arange(len(batch["start"]), device=batch["start"].device)
        stop = len(self.spec.actions) - 1
        previous, walking = self._no_action(batch["path"]), torch.ones_like(pose, dtype=torch.bool)
        poses, all_scores, all_walking, length = [pose], [], [], torch.zeros(len(pose), device=pose.device)
        for _ in range(self.spec.steps):
            scores, state = self(self.encode_views(batch["views"][row, pose]), previous, memory, state)
            moves, lengths = batch["moves"][row, pose], batch["lengths"][row, pose]
            scores = _possible(scores, moves)
            all_scores.append(scores)
            all_walking.append(walking)
            likelihood = scores.detach().float()
            if sample:  # the largest of the scores plus Gumbel noise is drawn by its probability
                likelihood = likelihood - torch.empty_like(likelihood).exponential_().log()
            action = torch.where(walking, likelihood.argmax(1), stop)
            walking = walking & (action != stop)
            pose = torch.where(walking, moves.gather(1, action[:, None])[:, 0], pose)
            length = length + lengths.gather(1, action[:, None])[:, 0] * walking
            poses.append(pose)
            previous = action
        return Walk(torch.stack(poses, 1), torch.stack(all_scores, 1), torch.stack(all_walking, 1), ~walking, length)

    def _no_action(self, path: Tensor) -> Tensor:
        return torch.full_like(path[:, 0], len(self.spec.actions))

    # ------------------------------------------------------------------ steps

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        if self.forcing == "student":
            walk = self.walk(batch, sample=True)
            row = torch.arange(len(walk.poses), device=walk.poses.device)[:, None]
            scores, targets = walk.scores, batch["expert"][row, walk.poses[:, :-1]].where(walk.walking, IGNORE)
        else:
            scores, targets = self.teacher_forced_scores(batch), batch["actions"]
        counted = targets != IGNORE
        loss = F.cross_entropy(scores.flatten(0, 1), targets.flatten(), label_smoothing=self.recipe.label_smoothing)
        agreed = ((scores.detach().argmax(2) == targets) & counted).sum() / counted.sum()
        return self.objective(loss, len(targets), accuracy=agreed * len(targets))

    def evaluation_step(self, stage: str, batch: dict[str, Tensor]) -> None:
        means, counted, seen = self.means[stage], batch["counted"], batch["seen"]
        targets = batch["actions"]
        losses = F.cross_entropy(
            self.teacher_forced_scores(batch).flatten(0, 1).float(), targets.flatten(), reduction="none", ignore_index=IGNORE
        )
        means["loss"].update(losses, ((targets != IGNORE) & (counted & ~seen)[:, None]).flatten())
        for name, values in episode_metrics(batch, self.walk(batch), self.spec).items():
            means[name].update(values, counted & ~seen)
            means[f"{name}_seen"].update(values, counted & seen)

    def compute_metrics(self, stage: str) -> dict[str, float]:
        values = compute_and_reset(self.means[stage])
        # a test of a few batches may have met no seen world
        return {name: value for name, value in values.items() if name == "loss" or not math.isnan(value)}

    def standard_error(self, value: float) -> float:
        return proportion_error(value, self.means["val"]["success"].samples) if self.monitor == "success" else 0.0

    # ------------------------------------------------------------------ episodes to show

    @torch.inference_mode()
    def walk_unseen(self, data: Any, split: str = "test") -> tuple[list[Episode], list[Episode]]:
        """Walk the first episodes in unseen worlds: those that succeed, and those that fail."""
        found: tuple[list[Episode], list[Episode]] = ([], [])
        first = 0
        for batch in self._batches(data, split):
            if first >= MOST_WALKED:
                break
            walk = self.walk(batch)
            metrics = {name: values.tolist() for name, values in episode_metrics(batch, walk, self.spec).items()}
            shortest = batch["distance"][torch.arange(len(walk.poses), device=self.device), batch["start"]].tolist()
            for row in (~batch["seen"]).nonzero()[:, 0].tolist():
                success, length, error = (metrics[name][row] for name in ("success", "length", "error"))
                outcome = f"{length:.3g} {self.spec.unit}, shortest path {shortest[row]:.3g}"
                if not success:
                    end = "stopped" if walk.stopped[row] else "ran out of steps,"
                    outcome += f"; {end} {error:.3g} {self.spec.unit} from the goal"
                poses = walk.poses[row, : int(walk.steps[row]) + 1].cpu()
                views = data.views_along(split, first + row, poses[evenly_spread(len(poses), MOST_VIEWS)])
                found[not success].append(Episode(first + row, data.instruction(split, first + row), outcome, poses, views))
            first += len(batch["seen"])
        return found

    @torch.inference_mode()
    def walk_split(self, data: Any, split: str) -> list[dict[str, Any]]:
        """Walk all episodes of a split; what ``data`` says of each path, in their order."""
        trajectories: list[dict[str, Any]] = []
        for batch in self._batches(data, split):
            walk = self.walk(batch)
            for poses, steps in zip(walk.poses.tolist(), walk.steps.tolist(), strict=True):
                trajectories.append(data.trajectory(split, len(trajectories), poses[: steps + 1]))
        return trajectories

    def _batches(self, data: Any, split: str) -> Iterator[dict[str, Tensor]]:
        """The batches of a split, on the device of the network."""
        data.environments = data.environments.to(self.device)  # once, and not with each batch
        for batch in data.build_loader(split):
            yield {name: value.to(self.device) for name, value in batch.items()}

    def report_samples(self, data: Any, split: str = "test") -> Samples:
        """Episodes in unseen worlds, from above: some that succeed and some that fail."""
        succeeded, failed = self.walk_unseen(data, split)
        total = len(succeeded) + len(failed)
        require_some([*succeeded, *failed], f"{SPLIT_NAMES[split]} episodes in unseen houses")
        few = min(len(failed), max(SHOWN // 2, SHOWN - len(succeeded)))
        scenes = []
        for episodes, most in ((succeeded, SHOWN - few), (failed, few)):
            for place in evenly_spread(len(episodes), most).tolist():
                episode = episodes[place]
                turn = Turn(episode.instruction or "(no instruction)", episode.outcome, episodes is succeeded)
                alt = f"A house from above, with a shortest path to the goal and the agent's: {episode.outcome}"
                scenes.append(Scene(data.draw_walk(split, episode.index, episode.poses), alt, turns=(turn,)))
        about = (
            f"{len(succeeded):,} of {total:,} {SPLIT_NAMES[split]} episodes in unseen houses succeed. Dashed is a shortest path "
            "to the goal, in the ring, orange the agent's own, from the dot to the cross; arrows are the directions it faces."
        )
        return Samples(about, scenes=scenes)

    # ------------------------------------------------------------------ checks

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int = 0) -> Tensor:
        """Probabilities of the first actions, [N, actions]."""
        memory, state = self.encode_instruction(batch["words"])
        row = torch.arange(len(batch["start"]), device=batch["start"].device)
        views, moves = (batch[name][row, batch["start"]] for name in ("views", "moves"))
        scores, _ = self(self.encode_views(views), self._no_action(batch["path"]), memory, state)
        return _possible(scores, moves).float().softmax(1)

    def example_batch(self, n: int, seed: int = 0) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)

        def numbers(low: int, high: int, *shape: int) -> Tensor:
            return torch.randint(low, high, (n, *shape), generator=generator)

        words = numbers(len(SPECIAL_WORDS), len(self.spec.vocabulary), EXAMPLE_WORDS)
        words[:, -1] = END
        actions, poses = len(self.spec.actions), EXAMPLE_POSES
        views = numbers(0, 256, poses, *self.spec.image.shape)
        return {
            "words": words,
            "views": views / 255 if self.spec.panoramic else views.to(torch.uint8),
            "moves": numbers(0, poses, poses, actions),
            "lengths": torch.ones(n, poses, actions),
            "distance": numbers(0, EXAMPLE_STEPS, poses),
            "expert": numbers(0, actions, poses),
            "start": numbers(0, poses),
            "path": numbers(0, poses, EXAMPLE_STEPS),
            "actions": numbers(0, actions, EXAMPLE_STEPS),
            "seen": torch.zeros(n, dtype=torch.bool),
            "counted": torch.ones(n, dtype=torch.bool),
        }


def _possible(scores: Tensor, moves: Tensor) -> Tensor:
    """Scores of actions, the lowest there are where one cannot be taken: a finite one, so that what is not finite is a fault."""
    return scores.masked_fill(moves < 0, torch.finfo(scores.dtype).min)


def episode_metrics(batch: dict[str, Tensor], walk: Walk, spec: NavigationSpec) -> dict[str, Tensor]:
    """Metrics of each episode, float [N].

    ``success``, 1 or 0; ``spl``, success weighted by the length of the shortest path over that of the own, if it is longer
    (Anderson et al. 2018, "On evaluation of embodied navigation agents", arXiv:1807.06757); ``error``, the distance that is left
    to the goal; ``oracle_success``, whether any pose on the way was near enough to the goal; and ``length``, that of the path.
    """
    row = torch.arange(len(walk.poses), device=walk.poses.device)
    distance = batch["distance"][row[:, None], walk.poses].float()
    shortest = batch["distance"][row, batch["start"]].float()
    near = distance < spec.success_distance
    success = near[:, -1] & walk.stopped if spec.requires_stop else near[:, -1]
    ratio = torch.where(walk.length > shortest, shortest / walk.length, 1)
    return {
        "success": success.float(),
        "spl": success * ratio,
        "error": distance[:, -1],
        "oracle_success": near.any(1).float(),
        "length": walk.length.float(),
    }
