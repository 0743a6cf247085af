"""Environments that are graphs of viewpoints with panoramas: where one can go, what lies there, and shortest paths in meters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.core.errors import UserError
from zoo.datamodules.bases.navigation import FAR, Graphs, Lookup
from zoo.datamodules.files.connectivity import Scan
from zoo.datamodules.files.view_features import ELEVATIONS, HEADINGS, ViewFeatures

TURN = 2 * math.pi / HEADINGS  # between two headings
ORIENTATION = 4  # numbers: sine and cosine of heading and elevation


@dataclass(frozen=True)
class ViewpointGraphs(Graphs):
    """Buildings whose viewpoints, V in all of them together, are joined by a graph.

    A pose in a building is ``HEADINGS * viewpoint + heading``: one faces north (along y) or, clockwise, another multiple of 30
    degrees. An action goes to a neighbor, after which one faces as one went. Any viewpoint may be the goal.

    Attributes:
        first: index of the first viewpoint of each building, int64 [B]; ``sizes`` is the number of its viewpoints.
        pairs: index of each building's first pair of viewpoints, int64 [B].
        moves: the pose after each action, int64 [HEADINGS * V, actions]; -1 where there is none. The last action is to stop.
        lengths: of the moves, in meters, [V, actions].
        views: index of the view that is nearest to the direction of each action, int64 [V, actions]; -1 where there is none.
        headings, elevations: of that direction in radians, [V, actions].
        distance: in meters from each viewpoint, to each, [pairs], those to the same one after the other.
        expert: the action that begins a shortest path, int64 [pairs].
        features: of views, [viewpoints, 36, width]; ``rows_of_features`` are those of the viewpoints, int64 [V].
    """

    first: Tensor
    sizes: Tensor
    pairs: Tensor
    moves: Tensor
    lengths: Tensor
    views: Tensor
    headings: Tensor
    elevations: Tensor
    distance: Tensor
    expert: Tensor
    features: Tensor
    rows_of_features: Tensor

    @classmethod
    def build(cls, scans: Sequence[Scan], features: ViewFeatures, actions: int) -> ViewpointGraphs:
        """The graphs of buildings, with room for ``actions`` - 1 neighbors of a viewpoint.

        Raises:
            UserError: a viewpoint has more neighbors, or no features.
        """
        sizes = torch.tensor([len(scan.viewpoints) for scan in scans])
        tables = [_tables(scan, actions) for scan in scans]
        joined = {name: torch.from_numpy(np.concatenate([table[name] for table in tables])) for name in tables[0]}
        rows = torch.cat([features.rows(scan.name, scan.viewpoints) for scan in scans])
        first, pairs = sizes.cumsum(0) - sizes, (sizes**2).cumsum(0) - sizes**2
        return cls(first, sizes, pairs, **joined, features=features.table, rows_of_features=rows)

    @property
    def device(self) -> torch.device:
        return self.moves.device

    def to(self, device: torch.device, **options: Any) -> ViewpointGraphs:
        return ViewpointGraphs(*(table.to(device, **options) for table in vars(self).values()))

    def lookup(self, environment: Tensor, goal: Tensor) -> dict[str, Any]:
        first = self.first[environment]
        towards = self.pairs[environment] + goal * self.sizes[environment]
        return {
            "views": Panoramas(self, first),
            "moves": Lookup(self.moves, HEADINGS * first),
            "lengths": Lookup(self.lengths, first, HEADINGS),
            "distance": Lookup(self.distance, towards, HEADINGS),
            "expert": Lookup(self.expert, towards, HEADINGS),
        }

    def observe(self, viewpoint: Tensor, heading: Tensor) -> Tensor:
        """What lies in the direction of each action, float [..., width + ORIENTATION, 1, actions], zero where there is none.

        These are the features of the view that is nearest to it, and the sine and cosine of heading, relative to where one faces,
        and elevation. For the stop it is the view that one faces, level.
        """
        view = self.views[viewpoint]
        view = torch.cat([view[..., :-1], (HEADINGS + heading)[..., None]], -1)
        turn = self.headings[viewpoint] - TURN * heading[..., None]
        turn = torch.cat([turn[..., :-1], torch.zeros_like(turn[..., -1:])], -1)
        elevation = self.elevations[viewpoint]
        features = self.features[self.rows_of_features[viewpoint][..., None], view.clamp(min=0)]
        orientation = torch.stack([turn.sin(), turn.cos(), elevation.sin(), elevation.cos()], -1)
        columns = torch.cat([features.float(), orientation], -1) * (view >= 0)[..., None]
        return columns.transpose(-1, -2)[..., None, :]


@dataclass(frozen=True)
class Panoramas:
    """What rows of a batch see from their poses; indexed as a ``Lookup``.

    Attributes:
        first: the first viewpoint of each row's building, int64 [N].
    """

    graphs: ViewpointGraphs
    first: Tensor

    def __getitem__(self, index: Any) -> Any:
        if not isinstance(index, tuple):
            return replace(self, first=self.first[index])
        row, pose = index
        return self.graphs.observe(self.first[row] + pose // HEADINGS, pose % HEADINGS)

    def __len__(self) -> int:
        return len(self.first)

    def to(self, device: torch.device, **options: Any) -> Panoramas:
        """The same on a device, as Lightning moves what is in a batch."""
        return Panoramas(self.graphs.to(device, **options), self.first.to(device, **options))


def facing(radians: np.ndarray | float) -> Any:
    """The number of the heading that is nearest to an angle from north, clockwise."""
    return np.rint(np.asarray(radians) / TURN).astype(np.int64) % HEADINGS


def _tables(scan: Scan, actions: int) -> dict[str, np.ndarray]:
    """The tables of one building; see ``ViewpointGraphs``."""
    most = int(scan.adjacent.sum(1).max())
    if most >= actions:
        raise UserError(f"scan {scan.name}: a viewpoint has {most} neighbors, at most {actions - 1} are possible")
    count, stop = len(scan.viewpoints), actions - 1
    # neighbors first, in the order of the file
    neighbor = np.argsort(~scan.adjacent, axis=1, kind="stable")[:, :stop]
    neighbor = np.pad(neighbor, ((0, 0), (0, stop - neighbor.shape[1])))
    is_neighbor = np.arange(stop) < scan.adjacent.sum(1)[:, None]
    towards = scan.positions[neighbor] - scan.positions[:, None]
    heading = np.arctan2(towards[..., 0], towards[..., 1])
    elevation = np.arctan2(towards[..., 2], np.hypot(towards[..., 0], towards[..., 1]))
    row = np.clip(np.rint(elevation / TURN) + 1, 0, ELEVATIONS - 1).astype(np.int64)
    moves = np.where(is_neighbor, HEADINGS * neighbor + facing(heading), -1)
    lengths = np.where(is_neighbor, np.linalg.norm(towards, axis=2), 0)
    distance = scan.distances()
    through = np.where(is_neighbor, lengths, np.inf) + distance[neighbor].transpose(2, 0, 1)  # [goal, viewpoint, neighbor]
    expert = through.argmin(2)
    np.fill_diagonal(expert, stop)
    own = np.arange(HEADINGS * count)[:, None]

    def with_stop(table: np.ndarray, dtype: type) -> np.ndarray:
        return np.pad(table, ((0, 0), (0, 1))).astype(dtype)

    return {
        "moves": np.concatenate([moves.repeat(HEADINGS, 0), own], 1),
        "lengths": with_stop(lengths, np.float32),
        "views": with_stop(np.where(is_neighbor, HEADINGS * row + facing(heading), -1), np.int64),
        "headings": with_stop(heading, np.float32),
        "elevations": with_stop(elevation, np.float32),
        "distance": np.minimum(distance.T, FAR).astype(np.float32).flatten(),
        "expert": expert.flatten(),
    }
