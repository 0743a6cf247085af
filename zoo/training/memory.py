"""How much memory some work took, and how much there is: a GPU counts it itself, a processor's is the process's resident memory.

A GPU says by an exception when there is no more. A processor does not: the system ends the process, so what is available has to
be known before.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from zoo.training.allocator import return_freed_memory

OUT_OF_MEMORY = re.compile("out of memory|can't allocate memory|not enough memory|ALLOC_FAILED", re.IGNORECASE)
CONTAINER = (  # limit and use, in the second and in the first version of Linux' control groups
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that there is no more memory, in the words of whichever library."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and bool(OUT_OF_MEMORY.search(str(error)))


def available_memory(device: torch.device) -> int | None:
    """Bytes that more could be taken, or None where nothing tells."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    if device.type != "cpu":
        return None
    found = [_kilobytes("/proc/meminfo", "MemAvailable")]
    for limit, use in CONTAINER:
        with suppress(OSError, ValueError):  # "max" where there is no limit
            found.append(int(Path(limit).read_text()) - int(Path(use).read_text()))
    return min((each for each in found if each is not None), default=None)


@contextmanager
def only_new_garbage() -> Iterator[None]:
    """Inside, what was there before is not looked through for garbage, which takes longer than many a step."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


class PeakMemory:
    """The most memory that is taken at once from ``start`` on, beyond what was taken when this was made."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.start()  # what is freed only now must not count as taken before
        self.base = self._now()

    def start(self) -> None:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
        elif self.device.type == "cpu":
            return_freed_memory()
            with suppress(OSError):  # of a system that cannot: the peak is then that of the whole process
                Path("/proc/self/clear_refs").write_text("5")

    def bytes(self) -> int | None:
        """None where nothing tells."""
        peak = self._peak()
        return None if peak is None or self.base is None else max(0, peak - self.base)

    def _now(self) -> int | None:
        if self.device.type == "cuda":
            return torch.cuda.memory_allocated(self.device)
        return _kilobytes("/proc/self/status", "VmRSS") if self.device.type == "cpu" else None

    def _peak(self) -> int | None:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return _kilobytes("/proc/self/status", "VmHWM") if self.device.type == "cpu" else None


def _kilobytes(file: str, name: str) -> int | None:
    """Bytes that a line of a file of Linux tells in kilobytes."""
    with suppress(OSError):
        found = re.search(rf"^{name}:\s+(\d+) kB", Path(file).read_text(), re.MULTILINE)
        return int(found[1]) * 1024 if found else None
    return None
