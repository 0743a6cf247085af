"""Exact nearest-neighbor search among uint8 vectors, by L1 or L2 distance.

Distances are exact integers, without overflow or rounding, and of equidistant neighbors the first wins on every device. On a CPU
the sums run as int8 matrix products, several times faster than in floating point:

    L2   sum (a - b)^2 = sum a^2 + sum b^2 - 2 sum a b
    L1   sum |a - b|   = 2 sum max(a, b) - sum a - sum b

both on values shifted by 128 into the signed range, which keeps differences. Where int8 products saturate, and on other devices,
the sums are computed in float32, in parts short enough to be exact.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import torch
from torch import Tensor

Metric = Literal["L1", "L2"]

QUERIES = 32  # queries at a time
STORED_BYTES = 2**22  # stored vectors at a time, which fit the cache with their distances
STORED_ROWS = 4096  # the same, for short vectors
EXACT_IN_FLOAT32 = 2**24  # the integers up to here
FLOAT_PART = {"L1": EXACT_IN_FLOAT32 // 2**8, "L2": EXACT_IN_FLOAT32 // 2**14}  # dimensions whose sum is below that
INT8_PART = 2**16  # dimensions whose products sum to less than 2**31


class NearestNeighbors:
    """Exact search index.

    Args:
        stored: uint8, [N, D].
        metric: ``L1``, the sum of absolute differences, or ``L2``, the Euclidean distance.
    """

    def __init__(self, stored: Tensor, metric: Metric) -> None:
        self.metric = metric
        self.rows = max(1, min(STORED_ROWS, STORED_BYTES // stored.shape[1]))
        self.stored = _signed(stored)
        self.sums = self._sums(self.stored)
        self.in_int8 = stored.device.type == "cpu" and int8_products_are_exact()

    def search(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Find the ``k`` nearest stored vectors of each query, nearest first; ties by index.

        Args:
            queries: uint8, [n, D].
            k: at most N.

        Returns:
            Distances, int64 [n, k], squared for L2, and indices of the neighbors, int64 [n, k].
        """
        each = _each_on_a_core if self.in_int8 else map
        parts = _signed(queries).split(QUERIES)
        keys = torch.cat(list(each(lambda part: self._search(part, k), parts)))
        return keys // len(self.stored), keys % len(self.stored)

    def _search(self, queries: Tensor, k: int) -> Tensor:
        """The ``k`` smallest keys distance * N + index, ascending: ordered by distance, then by index."""
        total = len(self.stored)
        sums = self._sums(queries)
        best = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
        for start in range(0, total, self.rows):
            distances = self._distances(queries, sums, slice(start, start + self.rows))
            indices = torch.arange(start, start + distances.shape[1], device=queries.device)
            keys = distances.long().mul_(total).add_(indices)
            best = torch.cat([best, keys.topk(min(k, keys.shape[1]), largest=False).values], 1)
            best = best.topk(min(k, best.shape[1]), largest=False, sorted=True).values
        return best

    def _sums(self, vectors: Tensor) -> Tensor:
        """Sum or sum of squares of each vector, int64 [n]."""
        parts = (part.long() for part in vectors.split(self.rows))
        return torch.cat([(part.square() if self.metric == "L2" else part).sum(1) for part in parts])

    def _distances(self, queries: Tensor, sums: Tensor, rows: slice) -> Tensor:
        """Integer distances, [queries, rows]."""
        stored = self.stored[rows]
        if self.metric == "L1" and not self.in_int8:
            return _summed(queries, stored, FLOAT_PART["L1"], lambda a, b: torch.cdist(a.float(), b.float(), p=1))
        if self.metric == "L1":
            return _sums_of_maxima(queries, stored).mul_(2) - sums[:, None] - self.sums[rows]
        if self.in_int8:
            products = _summed(queries, stored, INT8_PART, lambda a, b: torch._int_mm(a, b.T))
        else:
            products = _summed(queries, stored, FLOAT_PART["L2"], lambda a, b: a.float() @ b.float().T)
        return products.mul_(-2) + sums[:, None] + self.sums[rows]


def _signed(vectors: Tensor) -> Tensor:
    """uint8 from 0 to 255 as int8 from -128 to 127, in the same order."""
    return (vectors ^ 128).view(torch.int8)


def _summed(a: Tensor, b: Tensor, part: int, of: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The sum of ``of(a, b)`` over parts of the dimensions, int64."""
    pairs = zip(a.split(part, 1), b.split(part, 1), strict=True)
    return sum(of(*pair).long() for pair in pairs)


def _sums_of_maxima(queries: Tensor, stored: Tensor) -> Tensor:
    """sum max(a, b) over the dimensions for each pair, int64 [queries, stored]; a product with ones is the fastest sum."""
    sums = torch.zeros(len(queries), len(stored), dtype=torch.int64)
    for query_part, stored_part in zip(queries.split(INT8_PART, 1), stored.split(INT8_PART, 1), strict=True):
        ones = torch.ones(1, query_part.shape[1], dtype=torch.int8)
        larger = torch.empty_like(stored_part, memory_format=torch.contiguous_format)
        for row, query in zip(sums, query_part, strict=True):
            row += torch._int_mm(ones, torch.maximum(stored_part, query, out=larger).T)[0]
    return sums


def _each_on_a_core(search: Callable[[Tensor], Tensor], parts: Sequence[Tensor]) -> list[Tensor]:
    """Run ``search`` on each part in a thread of its own.

    torch would split each of the many short sums over the cores and wait for the slowest, which is slow on a busy machine.
    """
    cores = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(search, parts))
    finally:
        torch.set_num_threads(cores)  # the setting of a thread is inherited by later ones


@functools.cache
def int8_products_are_exact() -> bool:
    """Whether int8 matrix products of this processor are exact, tested on extreme values."""
    try:
        rows = torch.tensor([[-128, -128], [127, 127], [-128, 127]], dtype=torch.int8).repeat(16, 128)
        ones = torch.ones(1, 256, dtype=torch.int8)
        products = [torch._int_mm(a, rows.T).double() for a in (rows, ones)]
        return torch.equal(products[0], rows.double() @ rows.double().T) and torch.equal(products[1][0], rows.double().sum(1))
    except (AttributeError, RuntimeError):  # not supported by this release or processor
        return False
