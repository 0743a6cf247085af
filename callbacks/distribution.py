"""How the numbers in tensors are distributed: moments, quantiles and a histogram, summed on their device over many parts.

Ranking millions of values by sorting takes longer than a training step. So values are counted by the upper 16 of their 32 bits,
which are a sign, the exponent and seven bits of the fraction: a quantile is found among them by adding up, to within 1 in 128.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from zoo.callbacks.recording import over_processes

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
KEYS = 2**16
PART = 2**20  # values that are looked at together
SMALLEST, MAGNITUDES = -24, 32  # the histogram's: of each sign, 32 powers of two from 2^-24 on
BINS = 2 * MAGNITUDES + 1
POWERS = [2.0 ** (SMALLEST + place) for place in range(MAGNITUDES + 1)]
EDGES = [-power for power in reversed(POWERS)] + POWERS  # of the bins, ascending; what lies beyond is in the outermost


class Distribution:
    """Sums over the values that were added; all of them stay on the device until ``describe``.

    Args:
        device: where the values are.
    """

    def __init__(self, device: torch.device) -> None:
        wide = torch.float32 if device.type == "mps" else torch.float64  # which has no float64
        self.sums = torch.zeros(3, dtype=wide, device=device)  # number, sum, sum of squares
        self.range = torch.full((2,), torch.inf, device=device)  # least, and most with its sign turned
        self.counts = torch.zeros(KEYS, dtype=torch.int64, device=device)

    def add(self, values: Tensor) -> None:
        """Take in a tensor of any shape and floating type."""
        values = values.detach().float()
        if values.dim() == 4 and values.is_contiguous(memory_format=torch.channels_last):
            values = values.permute(0, 2, 3, 1)  # the order does not matter, and a copy would
        values = values.contiguous().view(-1)
        if not len(values):
            return
        least, most = values.aminmax()
        self.range = torch.minimum(self.range, torch.stack([least, -most]))
        parts = values.split(PART)
        self._add_sums(parts, torch.maximum(-least, most))
        for part in parts:
            keys = (part.view(torch.int32) >> 16).add_(KEYS // 2)
            if keys.device.type == "cpu":
                self.counts += torch.bincount(keys, minlength=KEYS)  # on a GPU it would wait for the largest key
            else:
                self.counts.scatter_add_(0, keys.long(), self.counts.new_ones(()).expand_as(keys))

    def _add_sums(self, parts: tuple[Tensor, ...], largest: Tensor) -> None:
        """Each part is summed in single precision around its own mean, where little is lost, and what comes of it is moved.

        Where values are so large that their squares would not fit, they are scaled down for it.
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
        """Make each what it is over all processes, which must give as many in the same order."""
        for name, operation in (("sums", "SUM"), ("range", "MIN"), ("counts", "SUM")):
            whole = over_processes(torch.stack([getattr(part, name) for part in parts]), operation)
            for part, value in zip(parts, whole, strict=True):
                setattr(part, name, value)

    @staticmethod
    def describe(parts: list[Distribution]) -> Tensor:
        """A row of numbers for each, on the device: mean, standard deviation, least, most, zeros, quantiles, histogram."""
        sums = torch.stack([part.sums for part in parts])
        number, total, squares = sums.unbind(1)
        mean = total / number
        deviation = (squares / number - mean.square()).clamp(min=0).sqrt()
        order, values, bins = _tables(sums.device)
        counts = torch.stack([part.counts for part in parts]).index_select(1, order)
        # the smallest value that has so large a share of all at or below it
        ranks = (number[:, None] * sums.new_tensor(QUANTILES)).ceil().clamp(min=1).to(counts.dtype)
        quantiles = values[torch.searchsorted(counts.cumsum(1), ranks).clamp(max=KEYS - 1)]
        histograms = counts.new_zeros(len(parts), BINS).index_add_(1, bins, counts)
        least, most = torch.stack([part.range for part in parts]).unbind(1)
        zeros = counts[:, KEYS // 2 - 1] + counts[:, KEYS // 2]  # of both signs
        columns = torch.stack([mean, deviation, least.to(mean), -most.to(mean), zeros / number], 1)
        return torch.cat([columns, quantiles.to(mean), histograms.to(mean)], 1)


def read_description(row: list[float]) -> dict[str, float | list[float] | list[int]]:
    """What ``Distribution.describe`` says, with names."""
    mean, deviation, least, most, zero, *rest = row
    quantiles, histogram = rest[: len(QUANTILES)], rest[len(QUANTILES) :]
    return {
        "mean": mean, "std": deviation, "least": least, "most": most, "zero": zero, "quantiles": quantiles,
        "histogram": [int(count) for count in histogram],
    }  # fmt: skip


def histogram(values: Tensor) -> Tensor:
    """The 65 counts of a tensor alone, int64, on its device."""
    bits = values.detach().float().contiguous().view(-1).view(torch.int32)
    exponent = (bits >> 23) & 0xFF
    place = (exponent - (127 + SMALLEST)).clamp(0, MAGNITUDES - 1)
    bins = torch.where(bits < 0, MAGNITUDES - 1 - place, MAGNITUDES + 1 + place)
    bins = torch.where(exponent < 127 + SMALLEST, MAGNITUDES, bins).long()
    return torch.zeros(BINS, dtype=torch.int64, device=bits.device).scatter_add_(0, bins, torch.ones_like(bins))


@functools.cache
def _tables(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """The keys in ascending order of the values they stand for; those values (without the lower bits); and their bins."""
    keys = torch.arange(KEYS)
    values = ((keys - KEYS // 2) << 16).to(torch.int32).view(torch.float32)
    # of negative numbers a larger key is a larger magnitude; what is no number lies behind infinity, and ends up there
    order = torch.cat([keys[: KEYS // 2].flip(0), keys[KEYS // 2 :]])
    values = values[order]
    magnitude = values.abs().clamp(2.0**SMALLEST).nan_to_num(torch.inf).log2().floor().clamp(max=SMALLEST + MAGNITUDES - 1)
    place = (magnitude - SMALLEST).long()
    bins = torch.where(values < 0, MAGNITUDES - 1 - place, MAGNITUDES + 1 + place)
    negative = torch.cat([torch.ones(KEYS // 2), torch.zeros(KEYS // 2)]).bool()
    bins = torch.where(values.isnan(), torch.where(negative, 0, BINS - 1), bins)
    bins = torch.where(values.abs() < 2.0**SMALLEST, MAGNITUDES, bins)
    return order.to(device), values.to(device), bins.to(device)
