"""Memory that is still available on this machine, and the refusal of what needs more."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from zoo.core.errors import UserError

CONTAINER = (  # limit and use, in versions 2 and 1 of control groups
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def available_memory() -> int | None:
    """Bytes of main memory that are still available, or None where unknown."""
    found = [kilobytes("/proc/meminfo", "MemAvailable")]
    for limit, use in CONTAINER:
        with suppress(OSError, ValueError):  # "max" where there is no limit
            found.append(int(Path(limit).read_text()) - int(Path(use).read_text()))
    return min((each for each in found if each is not None), default=None)


def kilobytes(file: str, name: str) -> int | None:
    """Bytes of an entry that a file in /proc gives in kilobytes; None where there is none."""
    with suppress(OSError):
        found = re.search(rf"^{name}:\s+(\d+) kB", Path(file).read_text(), re.MULTILINE)
        return int(found[1]) * 1024 if found else None
    return None


def require_memory(option: str, needed: int, what: str) -> None:
    """Refuse what does not fit in the available memory, before it is allocated and the system ends the process.

    Args:
        option: that asks for it, as in ``data.size=5000``.
        needed: bytes.
        what: takes them, as it reads before "take" in the message.

    Raises:
        UserError: it does not fit.
    """
    available = available_memory()
    if available is not None and needed > available:
        raise UserError(f"{option}: {what} take {needed / 1e9:,.1f} GB of memory, and {available / 1e9:,.1f} GB are available")
