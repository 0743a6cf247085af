"""What the C library of Linux (glibc) does with memory that a training step frees: keep it for the next step.

Left alone, glibc gives the pages of every tensor above some megabytes back to the system as soon as it is freed, and the next
step has each of them cleared and mapped anew. Where that is slow, as in virtual machines, it takes more time than the
arithmetic.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
LARGEST = 2**31 - 1  # bytes; mallopt takes an int


def keep_freed_memory() -> None:
    """From now on the process keeps what it frees, up to 2 GB at the end of its heap, and takes tensors up to 2 GB from it.

    Where the C library is another one, nothing changes.
    """
    with suppress(OSError, AttributeError, TypeError):
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_THRESHOLD, LARGEST)
        library.mallopt(M_TRIM_THRESHOLD, LARGEST)


def return_freed_memory() -> None:
    """Give back to the system, this once, all that is free, so that what the process holds is what it uses."""
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
