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

from zoo.core import memory as core
from zoo.core.allocator import return_freed_memory

OUT_OF_MEMORY = re.compile("out of memory|can't allocate memory|not enough memory|ALLOC_FAILED", re.IGNORECASE)


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
    return core.available_memory()


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
        return core.kilobytes("/proc/self/status", of_process) if self.device.type == "cpu" else None
