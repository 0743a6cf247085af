"""Nearest neighbors are exact: against integers worked by numpy, with ties, at the ends of the byte range, and in parts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from zoo.layers import neighbors
from zoo.layers.neighbors import NearestNeighbors, int8_products_are_exact


def by_numpy(queries: torch.Tensor, stored: torch.Tensor, metric: str, k: int) -> tuple[np.ndarray, np.ndarray]:
    difference = queries.numpy().astype(np.int64)[:, None] - stored.numpy().astype(np.int64)[None]
    distances = np.abs(difference).sum(2) if metric == "L1" else np.square(difference).sum(2)
    places = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(distances, places, 1), places


@pytest.fixture(params=["int8", "float32"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to take the sums; the first where this processor is exact."""
    if request.param == "float32":
        monkeypatch.setattr(neighbors, "int8_products_are_exact", lambda: False)
    elif not int8_products_are_exact():
        pytest.skip("this processor's products of bytes saturate")
    return request.param


@pytest.mark.parametrize("metric", ["L1", "L2"])
@pytest.mark.parametrize(("n", "stored", "dimensions", "k"), [(1, 1, 1, 1), (7, 300, 3, 5), (300, 77, 192, 9), (5, 40, 5000, 40)])
def test_neighbors_are_those_of_numpy(path: str, metric: str, n: int, stored: int, dimensions: int, k: int) -> None:
    generator = torch.Generator().manual_seed(n)
    queries, vectors = (torch.randint(0, 256, (rows, dimensions), generator=generator, dtype=torch.uint8) for rows in (n, stored))
    distances, places = NearestNeighbors(vectors, metric).search(queries, k)
    expected = by_numpy(queries, vectors, metric, k)
    np.testing.assert_array_equal(distances.numpy(), expected[0])
    np.testing.assert_array_equal(places.numpy(), expected[1])


@pytest.mark.parametrize("metric", ["L1", "L2"])
@pytest.mark.parametrize("dimensions", [2**16 + 5, 2**18])
def test_the_largest_distances_of_large_images_are_exact(path: str, metric: str, dimensions: int) -> None:
    vectors = torch.tensor([0, 255, 254], dtype=torch.uint8)[:, None].expand(3, dimensions).contiguous()
    distances, places = NearestNeighbors(vectors, metric).search(vectors[:1], 3)
    per_pixel = [0, 254, 255] if metric == "L1" else [0, 254**2, 255**2]
    assert distances.tolist() == [[value * dimensions for value in per_pixel]]
    assert places.tolist() == [[0, 2, 1]]


@pytest.mark.parametrize("metric", ["L1", "L2"])
def test_of_equally_near_ones_the_first_stored_wins_across_parts(path: str, metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbors, "STORED_ROWS", 4)
    monkeypatch.setattr(neighbors, "QUERIES", 2)
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randint(0, 2, (50, 3), generator=generator, dtype=torch.uint8)  # eight different ones
    distances, places = NearestNeighbors(vectors, metric).search(vectors[:9], 20)
    expected = by_numpy(vectors[:9], vectors, metric, 20)
    np.testing.assert_array_equal(distances.numpy(), expected[0])
    np.testing.assert_array_equal(places.numpy(), expected[1])


def test_products_that_saturate_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    original = torch._int_mm
    monkeypatch.setattr(torch, "_int_mm", lambda a, b: original(a, b).clamp(max=2**15 - 1))
    int8_products_are_exact.cache_clear()
    try:
        assert not int8_products_are_exact()
    finally:
        int8_products_are_exact.cache_clear()
