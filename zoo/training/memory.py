"""Peak and available memory: as counted by a GPU, or the resident memory of the process on a CPU.

A GPU raises an exception when it is out of memory. On a CPU the system kills the process, so available memory must be checked
first.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from zoo.training.allocator import return_freed_memory

OUT_OF_MEMORY = re.compile("out of memory|can't allocate memory|not enough memory|ALLOC_FAILED", re.IGNORECASE)
CONTAINER = (  # limit and use, in versions 2 and 1 of control groups
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception, of any library, is an out-of-memory error."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and bool(OUT_OF_MEMORY.search(str(error)))


def available_memory(device: torch.device) -> int | None:
    """Bytes of memory still available, or None where unknown."""
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
def frozen_garbage() -> Iterator[None]:
    """Exclude existing objects from garbage collection, which takes longer than many a step."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


class PeakMemory:
    """Peak memory from ``start`` on, relative to that at construction."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.start()  # memory freed only now must not count as the base
        self.base = self._read(torch.cuda.memory_allocated, "VmRSS")

    def start(self) -> None:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
        elif self.device.type == "cpu":
            return_freed_memory()
            with suppress(OSError):  # where it cannot be reset, the peak is that of the whole process
                Path("/proc/self/clear_refs").write_text("5")

    def bytes(self) -> int | None:
        """The peak, or None where unknown."""
        peak = self._read(torch.cuda.max_memory_allocated, "VmHWM")
        return None if peak is None or self.base is None else max(0, peak - self.base)

    def _read(self, of_gpu: Callable[[torch.device], int], of_process: str) -> int | None:
        if self.device.type == "cuda":
            return of_gpu(self.device)
        return _kilobytes("/proc/self/status", of_process) if self.device.type == "cpu" else None


def _kilobytes(file: str, name: str) -> int | None:
    """Bytes of an entry that a file in /proc gives in kilobytes."""
    with suppress(OSError):
        found = re.search(rf"^{name}:\s+(\d+) kB", Path(file).read_text(), re.MULTILINE)
        return int(found[1]) * 1024 if found else None
    return None
