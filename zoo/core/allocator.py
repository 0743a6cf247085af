"""Make glibc keep memory that a training step frees for the next step.

By default glibc returns the pages of every tensor above some megabytes to the system when it is freed, and the next step has
them mapped and cleared again. Where that is slow, as in virtual machines, it takes more time than the arithmetic.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
LARGEST = 2**31 - 1  # bytes; mallopt takes an int


def keep_freed_memory() -> None:
    """Keep up to 2 GB of freed heap, and allocate tensors of up to 2 GB from it; does nothing with another C library."""
    with suppress(OSError, AttributeError, TypeError):
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_THRESHOLD, LARGEST)
        library.mallopt(M_TRIM_THRESHOLD, LARGEST)


def return_freed_memory() -> None:
    """Return all free memory to the system once, so that resident memory is what is in use."""
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
