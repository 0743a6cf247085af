"""Rank of this process, from the launchers' environment variables before torch is initialized, and printing from rank zero."""

from __future__ import annotations

import os
import sys

from zoo.core.printing import printable

# of Lightning and torchrun, torchrun, Slurm; and of the machine, where Lightning is started once on each
RANK_VARIABLES = ("LOCAL_RANK", "RANK", "SLURM_PROCID", "NODE_RANK", "GROUP_RANK")


def is_follower() -> bool:
    """Whether a launcher has started this process with another rank than zero."""
    return any(os.environ.get(name, "0") not in ("", "0") for name in RANK_VARIABLES)


def rank_zero_print(text: str) -> None:
    """Print a line to standard error from rank zero only."""
    if not is_follower():
        print(printable(text), file=sys.stderr, flush=True)
