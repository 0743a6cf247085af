"""Navigation graphs of buildings in the layout of the Matterport3D Simulator: ``SCAN_connectivity.json``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from zoo.datamodules.files.json_files import read_json

TRANSLATION = (3, 7, 11)  # x, y and z in a 4x4 matrix in row-major order


@dataclass(frozen=True)
class Scan:
    """The viewpoints of a building that may be visited, V of them.

    Attributes:
        viewpoints: their identifiers.
        positions: in meters, x, y and, upwards, z, float64 [V, 3].
        adjacent: whether one can go from one to the other, bool [V, V].
    """

    name: str
    viewpoints: tuple[str, ...]
    positions: np.ndarray
    adjacent: np.ndarray

    @cached_property
    def number_of(self) -> dict[str, int]:
        """The index of each viewpoint."""
        return {viewpoint: number for number, viewpoint in enumerate(self.viewpoints)}

    def lengths(self) -> np.ndarray:
        """The straight distance between viewpoints in meters, [V, V]; infinite where one cannot go."""
        apart = np.linalg.norm(self.positions[:, None] - self.positions, axis=2)
        return np.where(self.adjacent, apart, np.inf)

    def distances(self) -> np.ndarray:
        """The length of a shortest path between viewpoints in meters, [V, V]; infinite where there is none.

        By the algorithm of Floyd and Warshall, which is vectorized, in place of Dijkstra's from each of them.
        """
        nearest = self.lengths()
        np.fill_diagonal(nearest, 0)
        for between in range(len(nearest)):
            np.minimum(nearest, nearest[:, between, None] + nearest[between], out=nearest)
        return nearest


def read_scan(path: Path) -> Scan:
    """Read the graph of a building; viewpoints that are not ``included`` are left out.

    Raises:
        UserError: the file is missing or not laid out as published.
    """

    def parse(content: Any) -> Scan:
        kept = [number for number, viewpoint in enumerate(content) if viewpoint["included"]]
        poses = np.array([content[number]["pose"] for number in kept], np.float64).reshape(len(kept), 16)
        adjacent = np.array([content[number]["unobstructed"] for number in kept], bool).reshape(len(kept), len(content))[:, kept]
        np.fill_diagonal(adjacent, False)
        if not kept or not np.isfinite(poses).all():
            raise ValueError("no viewpoint is included, or a pose is not finite")
        viewpoints = tuple(str(content[number]["image_id"]) for number in kept)
        return Scan(path.name.removesuffix("_connectivity.json"), viewpoints, poses[:, TRANSLATION], adjacent)

    return read_json(path, parse)
