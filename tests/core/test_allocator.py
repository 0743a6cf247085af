"""Memory that is freed serves again, and can be given back."""

from __future__ import annotations

import platform
import re
import resource
from pathlib import Path

import pytest
import torch

from zoo.core.allocator import keep_freed_memory, return_freed_memory

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")


def page_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def resident() -> int:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if found is None:
        pytest.skip("this system does not tell")
    return int(found[1]) * 1024


def take_and_free(megabytes: int) -> None:
    torch.ones(megabytes * 250_000)


def test_what_was_freed_serves_the_next_step() -> None:
    keep_freed_memory()
    counts = []
    for _ in range(5):  # what earlier tests have given back may be taken first
        before = page_faults()
        take_and_free(100)
        counts.append(page_faults() - before)
    assert min(counts) < 1000, "100 MB are 25,000 pages"


def test_what_is_free_is_given_back_when_memory_is_measured() -> None:
    keep_freed_memory()
    take_and_free(200)
    held = resident()
    return_freed_memory()
    assert held - resident() > 150e6
