"""Moments, quantiles and a histogram of tensors, accumulated on their device over many parts.

Sorting millions of values takes longer than a training step. So values are counted by the upper 16 of their 32 bits: sign,
exponent and seven bits of the fraction. Quantiles follow from the cumulative counts, to within 1 in 128.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from zoo.callbacks.bins import BINS, MAGNITUDES, SMALLEST
from zoo.callbacks.recording import all_reduce

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
KEYS = 2**16
PART = 2**20  # values that are processed together


class Distribution:
    """Running sums over values, which stay on the device until ``statistics``.

    Args:
        device: of the values.
    """

    def __init__(self, device: torch.device) -> None:
        wide = torch.float32 if device.type == "mps" else torch.float64  # which has no float64
        self.sums = torch.zeros(3, dtype=wide, device=device)  # number, sum, sum of squares
        self.range = torch.full((2,), torch.inf, device=device)  # minimum, and maximum with its sign turned
        self.counts = torch.zeros(KEYS, dtype=torch.int64, device=device)

    def add(self, values: Tensor) -> None:
        """Add a tensor of any shape and floating type."""
        values = values.detach().float()
        if values.dim() == 4 and values.is_contiguous(memory_format=torch.channels_last):
            values = values.permute(0, 2, 3, 1)  # the order does not matter, and a copy would
        values = values.contiguous().view(-1)
        if not len(values):
            return
        low, high = values.aminmax()
        self.range = torch.minimum(self.range, torch.stack([low, -high]))
        parts = values.split(PART)
        self._add_sums(parts, torch.maximum(-low, high))
        for part in parts:
            keys = (part.view(torch.int32) >> 16).add_(KEYS // 2)
            if keys.device.type == "cpu":
                self.counts += torch.bincount(keys, minlength=KEYS)  # on a GPU it would wait for the largest key
            else:
                self.counts.scatter_add_(0, keys.long(), self.counts.new_ones(()).expand_as(keys))

    def _add_sums(self, parts: tuple[Tensor, ...], largest: Tensor) -> None:
        """Sum each part in single precision around its own mean, where little is lost, and shift the result.

        Values whose squares would overflow are scaled down.
        """
        scale = torch.where(largest > 2.0**50, 2.0**-80, 1.0)
        rows = []
        for part in parts:
            apart = part * scale
            center = apart.mean()
            apart -= center
            rows.append(torch.stack([center, apart.sum(), apart.square_().sum()]))
        center, first, second = torch.stack(rows, 1).to(self.sums.dtype)
        scale = scale.to(self.sums.dtype)
        center, first, second = center / scale, first / scale, second / scale.square()
        number = self.sums.new_tensor([len(part) for part in parts])
        self.sums += torch.stack([number, first + number * center, second + (2 * first + number * center) * center]).sum(1)

    @staticmethod
    def reduce(parts: list[Distribution]) -> None:
        """Reduce each over all processes, which must pass as many in the same order."""
        for name, operation in (("sums", "SUM"), ("range", "MIN"), ("counts", "SUM")):
            whole = all_reduce(torch.stack([getattr(part, name) for part in parts]), operation)
            for part, value in zip(parts, whole, strict=True):
                setattr(part, name, value)

    @staticmethod
    def statistics(parts: list[Distribution]) -> Tensor:
        """One row for each, on the device: mean, standard deviation, minimum, maximum, zeros, quantiles, histogram."""
        sums = torch.stack([part.sums for part in parts])
        number, total, squares = sums.unbind(1)
        mean = total / number
        deviation = (squares / number - mean.square()).clamp(min=0).sqrt()
        order, values, bins = _tables(sums.device)
        counts = torch.stack([part.counts for part in parts]).index_select(1, order)
        # the smallest value with at least this fraction of all at or below it
        ranks = (number[:, None] * sums.new_tensor(QUANTILES)).ceil().clamp(min=1).to(counts.dtype)
        quantiles = values[torch.searchsorted(counts.cumsum(1), ranks).clamp(max=KEYS - 1)]
        histograms = counts.new_zeros(len(parts), BINS).index_add_(1, bins, counts)
        low, high = torch.stack([part.range for part in parts]).unbind(1)
        zeros = counts[:, KEYS // 2 - 1] + counts[:, KEYS // 2]  # of both signs
        columns = torch.stack([mean, deviation, low.to(mean), -high.to(mean), zeros / number], 1)
        return torch.cat([columns, quantiles.to(mean), histograms.to(mean)], 1)


def named_statistics(row: list[float]) -> dict[str, float | list[float] | list[int]]:
    """A row of ``Distribution.statistics`` as a dict."""
    mean, std, low, high, zero, *rest = row
    quantiles, histogram = rest[: len(QUANTILES)], rest[len(QUANTILES) :]
    return {
        "mean": mean, "std": std, "min": low, "max": high, "zero": zero, "quantiles": quantiles,
        "histogram": [int(count) for count in histogram],
    }  # fmt: skip


def histogram(values: Tensor) -> Tensor:
    """The histogram of one tensor: 65 counts, int64, on its device."""
    bins = _bins(values.detach().float().contiguous().view(-1))
    return torch.zeros(BINS, dtype=torch.int64, device=bins.device).scatter_add_(0, bins, torch.ones_like(bins))


def _bins(values: Tensor) -> Tensor:
    """The bin of each float32 value, from its sign and exponent; the outermost have inf and nan."""
    bits = values.view(torch.int32)
    exponent = (bits >> 23) & 0xFF
    place = (exponent - (127 + SMALLEST)).clamp(0, MAGNITUDES - 1)
    bins = torch.where(bits < 0, MAGNITUDES - 1 - place, MAGNITUDES + 1 + place)
    return torch.where(exponent < 127 + SMALLEST, MAGNITUDES, bins).long()


@functools.cache
def _tables(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """The keys in ascending order of their values; those values (without the lower bits); and their bins."""
    keys = torch.arange(KEYS)
    # of negative numbers a larger key is a larger magnitude; nan lies behind infinity, and ends up there
    order = torch.cat([keys[: KEYS // 2].flip(0), keys[KEYS // 2 :]])
    values = ((order - KEYS // 2) << 16).to(torch.int32).view(torch.float32)
    return order.to(device), values.to(device), _bins(values).to(device)
