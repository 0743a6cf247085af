"""Threads that read images, in each of which torch works alone: it would start as many of its own for every one of them."""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import torch

from zoo.core.allocator import keep_freed_memory


def reading_threads(count: int) -> ThreadPoolExecutor:
    """A pool of ``count`` threads."""
    keep_freed_memory()  # a image's worth of pages would be mapped and cleared anew for each
    return ThreadPoolExecutor(count, initializer=_work_alone)


def _work_alone() -> None:
    """Let operations of torch use no other thread if this one starts them: ``torch.set_num_threads`` would be of all threads."""
    torch.get_num_threads()  # sets the number of this thread, for the last time
    for library in (Path(torch.__file__).parent / "lib").glob("lib*omp[.5]*"):  # that of OpenMP, which came with torch
        with suppress(OSError, AttributeError):  # without it, reading is slower and nothing else
            ctypes.CDLL(str(library)).omp_set_num_threads(1)
