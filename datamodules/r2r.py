"""Room-to-Room: instructions for paths through buildings that were photographed."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from zoo.core.errors import UserError
from zoo.core.files import expanded, files_below, require_folder
from zoo.core.randomness import derive_seed
from zoo.datamodules.bases.navigation import Episodes, NavigationData
from zoo.datamodules.bases.options import require_at_least
from zoo.datamodules.bases.viewpoints import ORIENTATION, TURN, ViewpointGraphs, facing
from zoo.datamodules.files.connectivity import Scan, read_scan
from zoo.datamodules.files.json_files import read_json
from zoo.datamodules.files.view_features import HEADINGS, feature_width, load_view_features
from zoo.datamodules.worlds.viewpoint_plan import draw_viewpoints
from zoo.registry.entry import register_data
from zoo.spec import IGNORE, SPECIAL_WORDS, ImageSpec, NavigationSpec
from zoo.text.tokenization import build_vocabulary, tokenize

MOST_NEIGHBORS = 15  # of a viewpoint; in the published graphs 13
ACTIONS = (*(f"neighbor {number}" for number in range(1, MOST_NEIGHBORS + 1)), "stop")
NEAR = 3.0  # meters from the goal at which an episode succeeds
SPLITS = ("train", "val_seen", "val_unseen")
OFFICIAL_TEST = "official_test"
FEATURES = "ResNet-152-imagenet.tsv"
SIMULATOR = "github.com/peteanderson80/Matterport3DSimulator"


@dataclass(frozen=True)
class Route:
    """A path of viewpoints with instructions; that of the official test is its start alone.

    Attributes:
        heading: at the start, in radians from north, clockwise.
    """

    path_id: int
    scan: str
    path: tuple[str, ...]
    heading: float
    instructions: tuple[str, ...]


def read_routes(path: Path) -> list[Route]:
    """The routes of a file of Room-to-Room.

    Raises:
        UserError: the file is missing or not laid out as published.
    """

    def parse(content: Any) -> list[Route]:
        routes = [
            Route(
                int(entry["path_id"]), entry["scan"], tuple(entry["path"]), float(entry["heading"]), tuple(entry["instructions"])
            )
            for entry in content
        ]
        for route in routes:
            if not route.path or not all(isinstance(text, str) for text in (route.scan, *route.path, *route.instructions)):
                raise TypeError(f"path_id {route.path_id} has no path, or instructions that are no texts")
        if not routes:
            raise ValueError("it has no paths")
        return routes

    return read_json(path, parse)


@register_data("r2r", task="navigation", tags=["local-files"], paper="1711.07280")
class R2R(NavigationData):
    """21,582 instructions for paths through 90 photographed buildings: Room-to-Room (Anderson et al. 2018).

    An agent goes from viewpoint to neighboring viewpoint of a graph. Its files lie anywhere below the folder: R2R_train.json,
    R2R_val_seen.json and R2R_val_unseen.json (or .json.gz), SCAN_connectivity.json of each building, and ResNet-152-imagenet.tsv,
    precomputed features of the views. Testing is on both validation files, as goals of the official test are not public; metrics
    of val_seen, whose buildings are in training, end in _seen. With R2R_test.json, paths for its instructions can be computed.

    Args:
        root: folder of the files.
        features: TSV file of precomputed features of views; empty for ResNet-152-imagenet.tsv below the folder.
        connectivity: folder of the graphs; empty for wherever they lie below the folder.
        validation: file whose metrics select the best checkpoint: val_unseen or val_seen.
        instructions: own; shuffled, permuted among the paths of each building; or none.
        min_count: occurrences in training instructions that a word needs to be in the vocabulary.
        max_length: words to which instructions are truncated.
        max_steps: steps of an agent after which an episode ends.
    """

    def __init__(
        self,
        batch_size: int,
        seed: int,
        root: str,
        features: str = "",
        connectivity: str = "",
        validation: Literal["val_unseen", "val_seen"] = "val_unseen",
        instructions: Literal["own", "shuffled", "none"] = "own",
        min_count: int = 5,
        max_length: int = 80,
        max_steps: int = 15,
    ) -> None:
        self.root = expanded(root)
        require_folder(f"data.root={self.root}", self.root)
        require_at_least(1, min_count=min_count, max_length=max_length)
        require_at_least(7, max_steps=max_steps)  # the longest paths have six, and the stop
        self.features, self.connectivity = features, connectivity
        self.validation, self.instructions = validation, instructions
        self.min_count, self.max_length, self.max_steps = min_count, max_length, max_steps
        super().__init__(batch_size, seed)
        self.first_seen = len(self._held_out)

    # ------------------------------------------------------------------ files

    @cached_property
    def _files(self) -> dict[str, Path]:
        """Files below the root by their names; the first of equal ones."""
        return {Path(path).name: Path(path) for path in sorted(files_below(self.root), reverse=True)}

    @cached_property
    def routes(self) -> dict[str, list[Route]]:
        """The routes of each file that is there: those for training and validation, and maybe those of the official test."""
        routes = {}
        for split in (*SPLITS, "test"):
            name = f"R2R_{split}.json"
            path = self._files.get(name) or self._files.get(f"{name}.gz")
            if path:
                routes[split] = read_routes(path)
            elif split in SPLITS:
                raise UserError(
                    f"data.root={self.root}: no {name} (or {name}.gz) is below it: tasks/R2R/data/download.sh of {SIMULATOR} "
                    "says where it is published"
                )
        return routes

    @cached_property
    def _features(self) -> Path:
        if self.features:
            return expanded(self.features)
        if FEATURES not in self._files:
            raise UserError(
                f"data.root={self.root}: no {FEATURES} is below it: {SIMULATOR} publishes it (README, Precomputing ResNet Image "
                "Features); unpack it there, or name it with --set data.features=FILE.tsv"
            )
        return self._files[FEATURES]

    @cached_property
    def _held_out(self) -> list[str]:
        return sorted({route.scan for routes in self.routes.values() for route in routes} - self._trained)

    @cached_property
    def _trained(self) -> set[str]:
        return {route.scan for route in self.routes["train"]}

    @cached_property
    def scans(self) -> list[Scan]:
        """The graphs of buildings, those that training does not see first."""
        return [self._read_scan(name) for name in (*self._held_out, *sorted(self._trained))]

    def _read_scan(self, scan: str) -> Scan:
        name = f"{scan}_connectivity.json"
        path = expanded(self.connectivity) / name if self.connectivity else self._files.get(name)
        if path is None or not path.is_file():
            option = f"data.connectivity={self.connectivity}" if self.connectivity else f"data.root={self.root}"
            raise UserError(
                f"{option}: no {name} is {'in' if self.connectivity else 'below'} it: {SIMULATOR} has the graphs in its folder "
                "connectivity; name that with --set data.connectivity=FOLDER"
            )
        return read_scan(path)

    # ------------------------------------------------------------------ what the base asks for

    def build_spec(self) -> NavigationSpec:
        words = (tokenize(text) for route in self.routes["train"] for text in route.instructions)
        vocabulary = build_vocabulary(words, self.min_count)
        views = ImageSpec(feature_width(self._features) + ORIENTATION, 1, len(ACTIONS), ())
        return NavigationSpec(
            views, vocabulary, ACTIONS, self.max_length + 1, self.max_steps,
            panoramic=True, success_distance=NEAR, requires_stop=False, unit="m",
        )  # fmt: skip

    def require_compatible(self, spec: NavigationSpec, name: str) -> None:
        """Encode words as the vocabulary of ``spec`` does, for a model that was trained with it.

        Raises:
            UserError: other actions or features.
        """
        if spec.panoramic:
            known = replace(self.spec, vocabulary=spec.vocabulary)
            if known != self.spec:
                self.spec = known
                if self.splits:
                    self.splits = self.load_episodes()
        super().require_compatible(spec, name)

    def load_environments(self) -> ViewpointGraphs:
        return ViewpointGraphs.build(self.scans, load_view_features(self._features), len(ACTIONS))

    def load_episodes(self) -> dict[str, Episodes]:
        parts = {"train": ("train",), "val": ("val_unseen", "val_seen"), "test": ("val_unseen", "val_seen")}
        if self.validation == "val_seen":
            parts["val"] = ("val_seen",)
        if "test" in self.routes:
            parts[OFFICIAL_TEST] = ("test",)  # whose paths are their starts: nothing can be measured on it
        self.sources = {split: [each for name in names for each in self._instructions_in(name)] for split, names in parts.items()}
        self.sources["val"].sort(key=lambda source: (source[0] == "val_seen", source[2]))  # its first batches have many routes
        return {split: self._encode(split) for split in parts}

    def _instructions_in(self, name: str) -> list[tuple[str, int, int]]:
        """File, route and number of each instruction in a file."""
        routes = self.routes[name]
        return [(name, index, number) for index, route in enumerate(routes) for number in range(len(route.instructions))]

    def _encode(self, split: str) -> Episodes:
        places = {scan.name: number for number, scan in enumerate(self.scans)}
        routes = [self.routes[name][index] for name, index, _ in self.sources[split]]
        ends = [(self._viewpoint(route, -1), self._viewpoint(route, 0)) for route in routes]
        goal, start = torch.tensor(ends).T
        start = HEADINGS * start + torch.from_numpy(facing(np.array([route.heading for route in routes])))
        environment = torch.tensor([places[route.scan] for route in routes])
        texts = [tokenize(route.instructions[told[2]]) for route, told in zip(routes, self.sources[split], strict=True)]
        if self.instructions == "none":
            texts = [[] for _ in texts]
        elif self.instructions == "shuffled":
            texts = [texts[row] for row in self._shuffled(environment.tolist(), split)]
        episodes = self.encode_episodes(environment, goal, start, [words[: self.max_length] for words in texts])
        # what selects the best checkpoint has the plain names
        apart = split == "test" or self.validation != "val_seen"
        return replace(episodes, seen=torch.tensor([name == "val_seen" and apart for name, *_ in self.sources[split]]))

    def _viewpoint(self, route: Route, place: int) -> int:
        numbers = self._numbers[route.scan]
        if route.path[place] not in numbers:
            graph = f"{route.scan}_connectivity.json"
            raise UserError(f"path_id {route.path_id}: viewpoint {route.path[place]} is missing or not included in {graph}")
        return numbers[route.path[place]]

    @cached_property
    def _numbers(self) -> dict[str, dict[str, int]]:
        return {scan.name: scan.number_of for scan in self.scans}

    def _shuffled(self, environment: list[int], split: str) -> list[int]:
        """For each row another one of the same building, drawn."""
        draw = random.Random(derive_seed(self.seed, "shuffled", split))
        rows: dict[int, list[int]] = {}
        for row, place in enumerate(environment):
            rows.setdefault(place, []).append(row)
        dealt = {place: iter(draw.sample(members, len(members))) for place, members in rows.items()}
        return [next(dealt[place]) for place in environment]

    def _with_statistics(self) -> ImageSpec:
        return self.spec.image  # features are used as they are

    def views_along(self, split: str, episode: int, poses: Tensor) -> Tensor:
        return torch.zeros(0, 3, 1, 1, dtype=torch.uint8)

    def trajectory(self, split: str, episode: int, poses: list[int]) -> dict[str, Any]:
        """A path as the leaderboard takes it: viewpoints with heading and elevation in radians."""
        name, index, number = self.sources[split][episode]
        route = self.routes[name][index]
        viewpoints = self.scans[int(self.splits[split].environment[episode])].viewpoints
        path = [[viewpoints[pose // HEADINGS], pose % HEADINGS * TURN, 0.0] for pose in poses]
        return {"instr_id": f"{route.path_id}_{number}", "trajectory": path}

    def draw_walk(self, split: str, episode: int, poses: Tensor | None = None) -> Tensor:
        """Draw the viewpoints of an episode's building from above, with a shortest path and, if given, that of an agent."""
        episodes = self.splits[split]
        expert = episodes.path[episode][episodes.actions[episode] != IGNORE]
        scan = self.scans[int(episodes.environment[episode])]
        return draw_viewpoints(scan, expert // HEADINGS, None if poses is None else poses // HEADINGS)

    def summarize(self) -> dict[str, Any]:
        paths = self.splits["train"]
        shortest = self.environments.lookup(paths.environment, paths.goal)["distance"][torch.arange(len(paths)), paths.start]
        unknown = (paths.words == SPECIAL_WORDS.index("<unknown>")).sum() / paths.num_words.sum()
        return {
            **super().summarize(),
            "buildings": {"train": len(self._trained), "held out": len(self._held_out)},
            "viewpoints": sum(len(scan.viewpoints) for scan in self.scans),
            "shortest path": f"{float(shortest.mean()):.1f} m on average, at most {float(shortest.max()):.1f} m",
            "unknown words": f"{float(unknown):.1%} in training",
        }
